package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// auditRounds is how many times the server is killed.
const auditRounds = 8

// Whatever a client was answered is in the audit log after the server was
// killed, at random points of a stream of changes, and nothing is in it twice.
func TestAuditOutlivesKillNine(t *testing.T) {
	t.Parallel()
	s := own(t)
	f := &auditField{s: s, acked: map[string]bool{}}
	r := rand.New(rand.NewPCG(1, 0))
	for round := range auditRounds {
		f.round(limited(t), t, round, 1+r.IntN(150))
		if err := s.Start(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen := map[string]int{}
	for rec, err := range c.Audit(limited(t), client.AuditFilter{}, client.Page{}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[rec.RequestID]++
		if f.acked[rec.RequestID] && (rec.Actor == "" || rec.Operation != "set-secret" && rec.Operation != "delete-vm" || rec.Client != "127.0.0.1") {
			t.Errorf("%+v", rec)
		}
	}
	for id := range f.acked {
		if seen[id] != 1 {
			t.Errorf("%s was answered and is %d times in the log", id, seen[id])
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is %d times in the log", id, n)
		}
	}
	t.Logf("%d changes were acknowledged, %d are in the log", len(f.acked), len(seen))
	f.checkFiles(t)
}

type auditField struct {
	s     *server.Server
	mu    sync.Mutex
	acked map[string]bool // by request ID
}

// round changes things from several clients, and kills the server once so many
// changes were acknowledged.
func (f *auditField) round(ctx context.Context, t *testing.T, round, kill int) {
	t.Helper()
	acks := make(chan struct{}, 1024)
	gone := make(chan struct{})
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-gone:
					return
				default:
				}
				id := fmt.Sprintf("r%d-w%d-%d", round, w, i)
				if !f.change(ctx, id, i) {
					return
				}
				f.mu.Lock()
				f.acked[id] = true
				f.mu.Unlock()
				acks <- struct{}{}
			}
		})
	}
	for range kill {
		select {
		case <-acks:
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	if err := f.s.Kill(); err != nil {
		t.Error(err)
	}
	close(gone)
	go func() { // whoever still tells of one
		for range acks {
		}
	}()
	all.Wait()
	close(acks)
}

// change makes a change, by turns one that is done and one that fails, and
// reports whether it was answered.
func (f *auditField) change(ctx context.Context, id string, i int) bool {
	method, path, body, want := http.MethodPut, "/secrets/S"+strings.ReplaceAll(id, "-", "_"), `{"value":"hunter2"}`, http.StatusOK
	if i%2 == 1 {
		method, path, body, want = http.MethodDelete, "/vms/absent-"+id, "", http.StatusNotFound
	}
	req, err := http.NewRequestWithContext(ctx, method, f.s.URL+api.BasePath+path, strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+f.s.Key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(api.HeaderRequestID, id)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == want
}

// checkFiles looks at who may read the journal, and for what must not be in it.
func (f *auditField) checkFiles(t *testing.T) {
	t.Helper()
	dir := filepath.Join(f.s.DataDir, "audit")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // it was brought into the database meanwhile
		}
		if info.Mode().Perm() != 0o600 || strings.Contains(e.Name(), "damaged") {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		if text, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && strings.Contains(string(text), "hunter2") {
			t.Errorf("%s holds a secret", e.Name())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
}
