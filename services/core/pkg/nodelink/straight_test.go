package nodelink_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// runs is a node whose commands have an output.
func runs(o vmm.OutputReader) *node {
	return &node{run: func(vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
		return &domain.Execution{ID: req.ID, VMID: vm.ID}, o, nil
	}}
}

// linkBy is link with something around the node's handler. The client is one of an
// address, its node's unless another is given.
func linkBy(t *testing.T, n *node, around func(http.Handler) http.Handler, address func(string) string) *nodelink.Client {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(nil)
	server.Config = nodelink.NewServer(around(nodelink.Handler(n, nil, log)), &tls.Config{MinVersion: tls.VersionTLS13}, log)
	server.EnableHTTP2 = true
	server.StartTLS()
	trust := x509.NewCertPool()
	trust.AddCert(server.Certificate())
	at := server.Listener.Addr().String()
	if address != nil {
		at = address(at)
	}
	c := nodelink.NewClient(at, &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13, ServerName: "127.0.0.1"}, log)
	t.Cleanup(func() {
		c.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return c
}

// One command after another goes over the same connection; of those that run at once
// some have one of their own, and the others share one.
func TestCommandsKeepTheirConnections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	from := map[string][]string{}
	seen := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			from[r.Proto] = append(from[r.Proto], r.RemoteAddr)
			mu.Unlock()
			h.ServeHTTP(w, r)
		})
	}
	var o atomic.Pointer[told]
	c := linkBy(t, &node{run: func(_ *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
		if req.Tag == "waits" {
			return &domain.Execution{ID: req.ID}, newTold(nil), nil
		}
		return &domain.Execution{ID: req.ID}, o.Load(), nil
	}}, seen, nil)
	for range 5 {
		o.Store(newTold(nil))
		go func() { o.Load().events <- domain.OutputEvent{End: &domain.ExecutionEnd{}} }()
		_, out, err := c.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{})
		must(t, err)
		if e, err := out.Next(t.Context()); err != nil || e.End == nil {
			t.Errorf("the end: %+v, %v", e, err)
		}
		must(t, out.Close())
	}
	mu.Lock()
	for _, at := range from["HTTP/1.1"] {
		if len(from) != 1 || at != from["HTTP/1.1"][0] {
			t.Errorf("one after the other: %v", from)
		}
	}
	clear(from)
	mu.Unlock()
	var outs []vmm.OutputReader
	for range 20 {
		_, out, err := c.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{Tag: "waits"})
		must(t, err)
		outs = append(outs, out)
	}
	if len(from["HTTP/1.1"]) != 16 || len(from["HTTP/2.0"]) != 4 {
		t.Errorf("at once: %v", from)
	}
	for _, out := range outs {
		must(t, out.Close())
	}
	_, out, err := c.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{Tag: "waits"})
	must(t, err)
	if len(from["HTTP/1.1"]) != 17 {
		t.Errorf("after those: %v", from)
	}
	must(t, out.Close())
}

// A command that says nothing for long is waited for, while its node gives signs of
// life; one that gives none is not.
func TestANodeThatFreezes(t *testing.T) {
	t.Parallel()
	frozen := make(chan struct{})
	asked := make(chan struct{}, 100)
	seen := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				asked <- struct{}{}
			}
			h.ServeHTTP(w, r)
		})
	}
	o := newTold(nil)
	c := linkBy(t, runs(o), seen, func(to string) string { return freezer(t, to, frozen) })
	c.AskAfter(time.Millisecond)
	_, out, err := c.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{})
	must(t, err)
	for range 3 {
		<-asked
	}
	o.events <- domain.OutputEvent{Data: []byte("x")}
	if e, err := out.Next(t.Context()); err != nil || string(e.Data) != "x" {
		t.Fatalf("while it lives: %+v, %v", e, err)
	}
	close(frozen)
	if _, err := out.Next(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("frozen: %v", err)
	}
	must(t, out.Close())
}

// freezer passes bytes on to an address until frozen is closed: then the connections
// stay, and nothing comes of them.
func freezer(t *testing.T, to string, frozen <-chan struct{}) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	pass := func(to, from net.Conn) {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			select {
			case <-frozen:
				<-t.Context().Done()
				_ = to.Close()
				return
			default:
			}
			if _, werr := to.Write(b[:n]); werr != nil || err != nil {
				_ = to.Close()
				return
			}
		}
	}
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to) //nolint:noctx // at once
			if err != nil {
				_ = a.Close()
				continue
			}
			go pass(a, b)
			go pass(b, a)
		}
	}()
	return l.Addr().String()
}

// A reader that gives up ends neither the call nor what others read of it.
func TestAReaderThatGivesUp(t *testing.T) {
	t.Parallel()
	o := newTold(nil)
	_, out, err := link(t, runs(o)).Execute(t.Context(), &domain.VM{}, vmm.StartExecution{})
	must(t, err)
	for _, say := range []string{"one", "two"} {
		impatient, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := out.Next(impatient); !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up: %v", err)
		}
		go func() { o.events <- domain.OutputEvent{Data: []byte(say)} }()
		if e, err := out.Next(t.Context()); err != nil || string(e.Data) != say {
			t.Fatalf("who reads on: %+v, %v", e, err)
		}
	}
	go func() { o.events <- domain.OutputEvent{Offset: 6, End: &domain.ExecutionEnd{ExitCode: 3}} }()
	if e, err := out.Next(t.Context()); err != nil || e.End == nil || e.End.ExitCode != 3 {
		t.Errorf("the end: %+v, %v", e, err)
	}
	must(t, out.Close())
}

// hasty is output that tells of reads with a limit in time.
type hasty struct {
	*told
	limited atomic.Bool
}

func (h *hasty) Next(ctx context.Context) (domain.OutputEvent, error) {
	if _, limited := ctx.Deadline(); limited {
		h.limited.Store(true)
	}
	return h.told.Next(ctx)
}

// The start of a command that is to be given input is told of at once: nothing comes
// of most before they have some.
func TestACommandWithInput(t *testing.T) {
	t.Parallel()
	for name, stdin := range map[string]bool{"with": true, "without": false} {
		o := &hasty{told: newTold(nil)}
		_, out, err := link(t, runs(o)).Execute(t.Context(), &domain.VM{}, vmm.StartExecution{Command: domain.Command{Stdin: stdin}})
		must(t, err)
		if o.limited.Load() == stdin {
			t.Errorf("%s input: its output was waited for: %v", name, !stdin)
		}
		must(t, out.Close())
	}
}

// An older node is not asked again for what it does not know.
func TestAnOlderNodeIsRemembered(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]int{}
	before := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name := strings.TrimPrefix(r.URL.Path, nodelink.Prefix)
			mu.Lock()
			asked[name]++
			mu.Unlock()
			if name == "executions.run" {
				http.NotFound(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	c := linkBy(t, runs(nil), before, nil)
	for range 3 {
		x, out, err := c.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{ID: "x"})
		must(t, err)
		if x.ID != "x" || out != nil {
			t.Errorf("%+v, %v", x, out)
		}
	}
	if asked["executions.run"] != 1 || asked["executions.start"] != 3 {
		t.Errorf("it was asked %v", asked)
	}
}

// gone is where an answer goes whose caller has gone.
type gone struct{ http.ResponseWriter }

var errStreamClosed = errors.Plain("http2: stream closed")

func (gone) Write([]byte) (int, error) { return 0, errStreamClosed }
func (gone) FlushError() error         { return errStreamClosed }

// A caller who goes away while output is sent is no fault of the node's.
func TestACallerWhoGoes(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"executions.run", "output.read"} {
		var log bytes.Buffer
		o := newTold(nil)
		o.events = make(chan domain.OutputEvent, 1)
		o.events <- domain.OutputEvent{Data: []byte("x")}
		n := runs(o)
		n.output = func() (vmm.OutputReader, error) { return o, nil }
		h := nodelink.Handler(n, nil, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, nodelink.Prefix+call, strings.NewReader("{}\nl"))
		h.ServeHTTP(gone{httptest.NewRecorder()}, r)
		if log.Len() > 0 {
			t.Errorf("%s: %s", call, log.String())
		}
	}
}
