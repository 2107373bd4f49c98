package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func key(k string) map[string]string { return map[string]string{"Idempotency-Key": k} }

func TestIdempotentCreate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"1","b":"2"}}`, header: key("k")})
	// The same request, written differently.
	again := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: ` {"metadata" : {"b":"2","a":"1"}}`, header: key("k")})
	if first.ID != again.ID || l.core.Creates() != 1 {
		t.Fatalf("%s and %s, %d created", first.ID, again.ID, l.core.Creates())
	}
	l.problem(422, errors.IdempotencyMismatch, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"other"}}`, header: key("k")})
	other := get[wire.VM](l, 201, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"other"}}`, header: key("k"), key: l.other})
	if other.ID == first.ID {
		t.Fatal("a key reaches across projects")
	}
	// Asked not to wait, the task is the same too.
	async := key("async")
	async["Prefer"] = "respond-async"
	one := get[wire.Accepted](l, 202, req{method: "POST", path: "/vms", body: "{}", header: async})
	resp, _ := l.want(202, req{method: "POST", path: "/vms", body: "{}", header: async})
	two := get[wire.Accepted](l, 202, req{method: "POST", path: "/vms", body: "{}", header: async})
	if one.Task.ID != two.Task.ID || one.VM.ID != two.VM.ID || resp.Header.Get(wire.HeaderReplayed) != "true" || !strings.HasSuffix(resp.Header.Get("Location"), one.Task.ID) {
		t.Fatalf("%+v and %+v, %v", one, two, resp.Header)
	}
}

func TestIdempotentPosts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	x := l.start(vm, "wait").ID
	for _, tc := range []struct{ path, body, other string }{
		{"/vms/" + vm + "/forks", `{"count":2}`, `{"count":3}`},
		{"/vms/" + vm + "/snapshots", `{"name":"s"}`, `{"name":"t"}`},
		{"/vms/" + vm + "/execute", `{"args":["echo","a"]}`, `{"args":["echo","b"]}`},
		{"/vms/" + vm + "/executions", `{"args":["echo","a"]}`, `{"args":["echo","b"]}`},
		{"/vms/" + vm + "/ports/80/links", `{}`, `{"ttl_ms":1000}`},
		{"/templates", `{"name":"t","source":{"image":"a"}}`, `{"name":"t","source":{"image":"b"}}`},
		{"/vms/" + vm + "/files/mkdir", `{"path":"/new"}`, `{"path":"/newer"}`},
		{"/vms/" + vm + "/files/move", `{"from":"/new","to":"/moved"}`, `{"from":"/newer","to":"/moved"}`},
		{"/executions/" + x + "/signal", `{"signal":"USR1"}`, `{"signal":"USR2"}`},
		{"/vms/" + vm + "/pause", `{"mode":"freeze"}`, `{}`},
		{"/vms/" + vm + "/resume", ``, `{}`},
	} {
		h := key("key:" + tc.path)
		r1, b1 := l.do(req{method: "POST", path: tc.path, body: tc.body, header: h})
		r2, b2 := l.do(req{method: "POST", path: tc.path, body: tc.body, header: h})
		if r1.StatusCode/100 != 2 || r1.StatusCode != r2.StatusCode || string(b1) != string(b2) || r2.Header.Get(wire.HeaderReplayed) != "true" || r1.Header.Get(wire.HeaderReplayed) != "" {
			t.Errorf("%s: %d %s, then %d %s %v", tc.path, r1.StatusCode, b1, r2.StatusCode, b2, r2.Header)
		}
		if r1.Header.Get("Location") != r2.Header.Get("Location") || r1.Header.Get("Content-Type") != r2.Header.Get("Content-Type") {
			t.Errorf("%s: headers %v, then %v", tc.path, r1.Header, r2.Header)
		}
		l.problem(422, errors.IdempotencyMismatch, req{method: "POST", path: tc.path, body: tc.other, header: h})
		if r3, b3 := l.do(req{method: "POST", path: tc.path, body: tc.body}); len(b1) > 0 && r3.StatusCode/100 == 2 && r3.Header.Get(wire.HeaderReplayed) != "" {
			t.Errorf("%s: without a key the answer is the old one: %s", tc.path, b3)
		}
	}
	for name, bad := range map[string]string{"too long": strings.Repeat("k", 256), "spaces": "a b", "not ASCII": "ké"} {
		p := l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/vms/" + vm + "/forks", header: key(bad)})
		if p.Field != "header.Idempotency-Key" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	// A failure is not kept: the next try may succeed.
	get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + vm + "/stop"})
	l.problem(409, errors.Conflict, req{method: "POST", path: "/vms/" + vm + "/snapshots", header: key("later")})
	get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + vm + "/start"})
	get[wire.Snapshot](l, 201, req{method: "POST", path: "/vms/" + vm + "/snapshots", header: key("later")})
}

func TestIdempotentWhileInFlightAndAfterAClientLeft(t *testing.T) {
	t.Parallel()
	finished := make(chan struct{})
	l := newLab(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Idempotency = &signalling{IdempotencyStore: d.Idempotency, finished: finished}
	})
	vm := l.vm().ID
	started, release := make(chan struct{}), make(chan struct{})
	var runs sync.Map
	l.core.Program("slow", func(p *fake.Process) int {
		n, _ := runs.LoadOrStore("n", new(int))
		*(n.(*int))++
		close(started)
		<-release
		_, _ = fmt.Fprint(p.Stdout, "done")
		return 0
	})
	q := req{method: "POST", path: "/vms/" + vm + "/execute", body: `{"args":["slow"]}`, header: key("k")}
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		resp, err := l.client.Do(l.request(q).WithContext(ctx))
		if err == nil {
			_ = resp.Body.Close()
		}
		gone <- err
	}()
	<-started
	resp, _ := l.do(q)
	if resp.StatusCode != http.StatusConflict || resp.Header.Get("Retry-After") != "1" {
		t.Fatalf("while it runs: %d %v", resp.StatusCode, resp.Header)
	}
	leave()
	if err := <-gone; err == nil {
		t.Fatal("the client did not leave")
	}
	close(release)
	<-finished // the work went on without its client, and its answer was kept
	r := get[wire.ExecuteResult](l, 200, q)
	if n, _ := runs.Load("n"); r.Stdout != "done" || *(n.(*int)) != 1 {
		t.Fatalf("result %+v after %d runs", r, *(n.(*int)))
	}
}

// signalling tells when an answer was kept.
type signalling struct {
	api.IdempotencyStore
	finished chan struct{}
}

func (s *signalling) Finish(ctx context.Context, project domain.ID, key, digest string, r *api.StoredResponse) error {
	err := s.IdempotencyStore.Finish(ctx, project, key, digest, r)
	if r != nil {
		close(s.finished)
	}
	return err
}

func TestMemoryIdempotencyForgets(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := api.NewMemoryIdempotency(func() time.Time { return now })
	p := domain.NewID()
	begin := func(digest string) (*api.StoredResponse, bool, error) { return m.Begin(t.Context(), p, "k", digest) }
	if r, flying, err := begin("d"); r != nil || flying || err != nil {
		t.Fatal(r, flying, err)
	}
	if _, flying, _ := begin("d"); !flying {
		t.Fatal("not in flight")
	}
	if err := m.Finish(t.Context(), p, "k", "d", nil); err != nil {
		t.Fatal(err)
	}
	if _, flying, _ := begin("d"); flying {
		t.Fatal("given up, and still in flight")
	}
	_ = m.Finish(t.Context(), p, "k", "d", &api.StoredResponse{Status: http.StatusCreated})
	if r, _, _ := begin("d"); r == nil || r.Status != http.StatusCreated {
		t.Fatal("forgotten", r)
	}
	if _, _, err := begin("e"); !errors.HasCode(err, errors.IdempotencyMismatch) {
		t.Fatal(err)
	}
	now = now.Add(api.IdempotencyTTL)
	if r, flying, err := begin("e"); r != nil || flying || err != nil {
		t.Fatal("remembered for too long", r, flying, err)
	}
}
