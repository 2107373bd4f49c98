package guest_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/agent"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// machine is the real agent behind a unix socket, with a channel that tests can cut.
type machine struct {
	path   string
	agent  *agent.Agent
	cancel context.CancelFunc
	served chan error
	once   sync.Once

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	dials int
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{
		path: filepath.Join(t.TempDir(), "s"), agent: agent.New(agent.Options{}),
		conns: map[net.Conn]struct{}{}, served: make(chan error, 1),
	}
	l, err := net.Listen("unix", m.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { m.served <- m.agent.Serve(ctx, l) }()
	t.Cleanup(func() { m.stop(0) })
	return m
}

// stop ends the machine in good order: saying calls last while the channel
// still stands.
func (m *machine) stop(grace time.Duration, last ...func()) {
	m.once.Do(func() {
		m.agent.Shutdown(grace)
		for _, f := range last {
			f()
		}
		m.cancel()
		<-m.served
	})
}

// kill ends the machine without a last word; its processes end with it.
func (m *machine) kill() {
	m.cut()
	m.once.Do(func() {
		m.cancel()
		<-m.served
		m.agent.Shutdown(0)
	})
}

// cut breaks every connection, as a host that dies does.
func (m *machine) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		_ = c.Close()
	}
	clear(m.conns)
}

// dialled tells how often the channel was opened.
func (m *machine) dialled() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials
}

func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", m.path)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dials++
	m.conns[c] = struct{}{}
	return c, nil
}

// host is what a worker holds of one machine.
type host struct {
	*guest.Session
	client   *guest.Client
	journals *journal.Store
	vm       domain.ID
	started  chan guest.Started
	ended    chan guest.Ended
}

func newHost(t testing.TB, dial guest.Dial, journals *journal.Store, vm domain.ID, known ...domain.ID) *host {
	t.Helper()
	h := &host{
		client: guest.New(dial, guest.Options{}), journals: journals, vm: vm,
		started: make(chan guest.Started, 1000), ended: make(chan guest.Ended, 1000),
	}
	h.Session = guest.Open(guest.SessionConfig{
		Client: h.client, Journals: journals, VM: vm, Epoch: 1,
		Hooks: guest.Hooks{
			OnStarted: func(s guest.Started) {
				select {
				case h.started <- s:
				default:
				}
			},
			OnEnded: func(e guest.Ended) {
				select {
				case h.ended <- e:
				default:
				}
			},
		},
	}, known...)
	t.Cleanup(func() { h.Close(); h.client.Close() })
	return h
}

func newJournals(t testing.TB) *journal.Store {
	t.Helper()
	s, err := journal.OpenStore(t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (h *host) start(t testing.TB, c domain.Command) domain.ID {
	t.Helper()
	id := domain.NewID()
	if _, err := h.Start(t.Context(), guest.StartRequest{ID: id, Command: c}); err != nil {
		t.Fatal(err)
	}
	return id
}

type result struct {
	stdout, stderr, pty bytes.Buffer
	gaps                []domain.OutputGap
	end                 domain.ExecutionEnd
}

// output reads an execution to its end.
func (h *host) output(t testing.TB, id domain.ID) *result {
	t.Helper()
	r, err := h.journals.Read(journal.Key{VM: h.vm, Epoch: 1, Execution: id}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	return collect(t, r)
}

func collect(t testing.TB, r vmm.OutputReader) *result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, offset := &result{}, int64(0)
	for {
		e, err := r.Next(ctx)
		if err == io.EOF { //nolint:errorlint // the end is io.EOF itself
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Offset != offset {
			t.Fatalf("event at %d, want %d", e.Offset, offset)
		}
		switch {
		case e.Gap != nil:
			out.gaps = append(out.gaps, *e.Gap)
			offset = e.Gap.To
		case e.End != nil:
			out.end = *e.End
		default:
			map[domain.OutputStream]*bytes.Buffer{domain.Stdout: &out.stdout, domain.Stderr: &out.stderr, domain.PTY: &out.pty}[e.Stream].Write(e.Data)
			offset += int64(len(e.Data))
		}
	}
}

// h2c is a plain HTTP/2 client, as an SDK behind a proxy is one.
func h2c(dial guest.Dial) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		Protocols:   p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func port(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// deafPort is taken, so that no other test gets it, and nobody listens on it.
func deafPort(t testing.TB) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(addr.(*unix.SockaddrInet4).Port)
}

func sh(script string) domain.Command { return domain.Command{Args: []string{"/bin/sh", "-c", script}} }
