package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
)

// serve is a monitor that answers as given, on a unix socket.
func serve(t *testing.T, handler http.HandlerFunc) *api.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	c := api.New(func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) })
	t.Cleanup(c.Close)
	return c
}

func TestCalls(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.Path+" "+string(raw))
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"id":"x","state":"Paused","vmm_version":"1.12.1","app_name":"Firecracker"}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	ctx := t.Context()
	if i, err := c.Describe(ctx); err != nil || i.State != api.Paused || i.Version != "1.12.1" {
		t.Errorf("%+v, %v", i, err)
	}
	for _, err := range []error{
		c.SetMachine(ctx, api.Machine{CPUs: 2, MemoryMiB: 256, TrackDirty: true}),
		c.AddDrive(ctx, api.Drive{ID: "drivea", Path: "/drives/0", ReadOnly: true, Limiter: &api.Limiter{Ops: &api.Bucket{Size: 5, RefillMS: 1000}}}),
		// What older releases do not know is not named.
		c.SetBalloon(ctx, api.Balloon{DeflateOnOOM: true}), c.SetBalloon(ctx, api.Balloon{DeflateOnOOM: true, Reporting: true}),
		c.LoadSnapshot(ctx, api.Load{State: "/s", Backend: api.Backend{Type: api.BackendFile, Path: "/m"}, EnableDiff: true}),
		c.Pause(ctx), c.Resume(ctx), c.Start(ctx),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		`GET / `,
		`PUT /machine-config {"vcpu_count":2,"mem_size_mib":256,"track_dirty_pages":true}`,
		`PUT /drives/drivea {"drive_id":"drivea","path_on_host":"/drives/0","is_root_device":false,"is_read_only":true,"rate_limiter":{"ops":{"size":5,"refill_time":1000}}}`,
		`PUT /balloon {"amount_mib":0,"deflate_on_oom":true}`, `PUT /balloon {"amount_mib":0,"deflate_on_oom":true,"free_page_reporting":true}`,
		`PUT /snapshot/load {"snapshot_path":"/s","mem_backend":{"backend_type":"File","backend_path":"/m"},"enable_diff_snapshots":true,"resume_vm":false}`,
		`PATCH /vm {"state":"Paused"}`, `PATCH /vm {"state":"Resumed"}`, `PUT /actions {"action_type":"InstanceStart"}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		message string
	}{
		"a fault": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"fault_message":"no such kernel"}`)
		}, "no such kernel"},
		"something else": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "what?")
		}, "what?"},
		"a long one": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
		}, strings.Repeat("x", 2<<10)},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, ""},
	} {
		err := serve(t, tc.handler).Start(t.Context())
		var fault *api.Fault
		if !errors.As(err, &fault) || !errors.HasCode(err, errors.Internal) || fault.Message != tc.message {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"state":"`+strings.Repeat("x", 1<<20))
	})
	if _, err := c.Describe(t.Context()); !errors.HasCode(err, errors.Internal) {
		t.Errorf("a long answer: %v", err)
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{") })
	if _, err := c.Describe(t.Context()); !errors.HasCode(err, errors.Internal) {
		t.Errorf("half an answer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	silent := make(chan struct{})
	t.Cleanup(func() { close(silent) })
	c = serve(t, func(http.ResponseWriter, *http.Request) { <-silent })
	if err := c.CreateSnapshot(ctx, api.Create{}); !errors.HasCode(err, errors.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	nobody := api.New(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(t.TempDir(), "none"))
	})
	if err := nobody.Pause(t.Context()); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("nobody there: %v", err)
	}
}
