package docker_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/dockertest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

// between is a socket before an engine's that holds back what it is told to.
type between struct {
	Socket string

	mu   sync.Mutex
	held map[string]*hold // by a part of the request
}

// hold is for requests that wait.
type hold struct {
	came, gone chan struct{} // the first came; all may pass
	once       sync.Once
}

// standBetween serves until the test has ended.
func standBetween(t *testing.T, engine *dockertest.Engine) *between {
	t.Helper()
	b := &between{Socket: filepath.Join(filepath.Dir(engine.Socket), "between"), held: map[string]*hold{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", engine.Socket)
		}},
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := b.of(r); h != nil {
			h.once.Do(func() { close(h.came) })
			select {
			case <-h.gone:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	})}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", b.Socket)
	must(t, err)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return b
}

func (b *between) of(r *http.Request) *hold {
	b.mu.Lock()
	defer b.mu.Unlock()
	for part, h := range b.held {
		if strings.Contains(r.Method+" "+r.URL.RequestURI(), part) {
			return h
		}
	}
	return nil
}

// hold holds back requests with the text in them from now on, until released.
func (b *between) hold(part string) (h *hold, release func()) {
	h = &hold{came: make(chan struct{}), gone: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[part] = h
	return h, sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.held, part)
		close(h.gone)
	})
}

// open makes a driver that speaks with the engine through what stands before it.
func (b *between) open(t *testing.T) *docker.Driver {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "docker-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	s := site{Dir: dir, Instance: fmt.Sprintf("b%d", os.Getpid()), Socket: b.Socket, Agent: vmmtest.Agent(t)}
	s.LowID, s.HighID = networktest.IDs(t)
	ctx := context.WithoutCancel(t.Context())
	d, net, err := s.open(ctx)
	must(t, err)
	t.Cleanup(func() {
		states, err := d.List(ctx)
		for _, s := range states {
			err = errors.Join(err, d.Delete(ctx, s.MachineID))
		}
		if err := errors.Join(err, d.Teardown(ctx), d.Close(), net.Teardown(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return d
}

// smallSpec is of a machine without a network.
func smallSpec(t *testing.T, id, build string) vmm.Spec {
	return vmm.Spec{
		MachineID: id, RootFS: template(t), BuildID: build, Network: domain.NetworkNone, Hostname: id,
		Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 << 20, PIDs: 64},
	}
}

// TestAnImportHoldsUpNoOther has one build's import not come to its end.
func TestAnImportHoldsUpNoOther(t *testing.T) {
	b := standBetween(t, dockertest.Start(t))
	d := b.open(t)
	ctx := t.Context()
	create := func(ctx context.Context, id, build string) error {
		_, err := d.Create(ctx, smallSpec(t, id, build))
		return err
	}
	must(t, create(ctx, "before", "there"))
	importing, release := b.hold("/images/create")
	defer release()
	slow := make(chan error, 1)
	go func() { slow <- create(ctx, "slow", "newer") }()
	<-importing.came
	within, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	defer time.AfterFunc(30*time.Second, release).Stop() // should somebody wait for it who must not
	if err := create(within, "other", "there"); err != nil {
		t.Fatalf("of a build that is there: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := create(short, "same", "newer"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of the build that is being imported, past its caller's end: %v", err)
	}
	waits := make(chan error, 1)
	go func() { waits <- create(ctx, "waits", "newer") }()
	must(t, d.Delete(within, "other"))
	must(t, d.Delete(within, "waits")) // whether it has begun by now or not
	release()
	must(t, <-slow)
	if err := <-waits; err != nil && !errors.Is(err, context.Canceled) && !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a creation that was deleted while it waited: %v", err)
	}
}

// TestTheEndOfAnEarlierRunIsItsOwn has the engine tell late how a machine ended,
// when that runs again.
func TestTheEndOfAnEarlierRunIsItsOwn(t *testing.T) {
	engine := dockertest.Start(t)
	b := standBetween(t, engine)
	d := b.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, again := range []string{"by us", "by another"} {
		t.Run(again, func(t *testing.T) {
			telling, release := b.hold("/wait")
			defer release()
			id := "m-" + again[len(again)-2:]
			_, err := d.Create(ctx, smallSpec(t, id, "build"))
			must(t, err)
			must(t, d.Start(ctx, id))
			<-telling.came
			type end struct {
				exit vmm.Exit
				err  error
			}
			first, second := make(chan end, 1), make(chan end, 1)
			wait := func(to chan end) { exit, err := d.Wait(ctx, id); to <- end{exit, err} }
			go wait(first)
			time.Sleep(50 * time.Millisecond) // it waits for this run

			c, name := engine.Client(), fmt.Sprintf("aetherium-b%d-%s", os.Getpid(), id)
			_, err = c.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: "SIGKILL"})
			must(t, err)
			over := c.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
			select {
			case <-over.Result:
			case err := <-over.Error:
				t.Fatal(err)
			}
			if again == "by another" {
				_, err := c.ContainerStart(ctx, name, client.ContainerStartOptions{})
				must(t, err)
			}
			must(t, d.Start(ctx, id))
			select {
			case got := <-first:
				if got.err != nil || got.exit.Known != (again == "by us") || got.exit.Known && got.exit.Signal != 9 {
					t.Errorf("of the first run: %+v", got)
				}
			case <-time.After(10 * time.Second):
				t.Error("the end of the first run is not told")
			}
			go wait(second)
			release()
			conn, err := d.Dial(ctx, id, vmm.AgentPort)
			must(t, err)
			must(t, conn.Close())
			select {
			case got := <-second:
				t.Errorf("of the second run, which goes on: %+v", got)
			case <-time.After(500 * time.Millisecond):
			}
			must(t, d.Stop(ctx, id, 0))
			if got := <-second; got.err != nil || got.exit.Signal != 9 {
				t.Errorf("of the second run: %+v", got)
			}
		})
	}
}
