// Package apifake is an API server for tests of its clients: the routes and
// bodies are the real ones, a "VM" is a temporary directory, and an execution
// is a process of this host that is journaled as the product does it. Its
// connections can be made to break, and it can be killed and started again
// without its commands noticing.
package apifake

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Key is the API key of every fake.
const Key = "aeth_fake_0123456789abcdef"

// Server is a fake. Its exported fields are set in New.
type Server struct {
	tb      testing.TB
	address string
	dir     string

	// Made is when the fake was: what it is seeded with began five hours earlier.
	Made time.Time
	// TellStdin has streams tell how much input a command has taken already.
	TellStdin bool
	// FileBytes, where set, is what every file in a VM holds.
	FileBytes []byte
	// Tar, where set, is what every directory's tar stream is.
	Tar []byte
	// Forgets is how many bytes at the start of every output are not kept.
	Forgets int64
	// OnCreate is called when a VM is about to be created; may be nil.
	OnCreate func()
	// OnRepeat is called when a request is repeated that is still being
	// answered; may be nil.
	OnRepeat func()

	chop atomic.Int64

	mu         sync.Mutex
	http       *http.Server
	vms        []*vm
	executions []*execution
	templates  []api.Template
	snapshots  []api.Snapshot
	tasks      []api.Task
	runs       map[string]string // what the commands of tasks wrote
	secrets    map[string]secret
	volumes    []api.Volume
	webhooks   []api.Webhook
	jobs       []api.Job
	joinTokens []api.JoinToken
	workers    []api.Worker
	access     access
	endpoints  api.Endpoints
	events     []api.Event
	changed    chan struct{}     // closed when there is another event
	claims     map[string]*claim // by idempotency key
	requests   []Request
	failures   map[string]api.Problem
	quota      api.SetQuota
}

// Request is one request that reached the fake.
type Request struct {
	Method, Path, Query, Key string
	Header                   http.Header
}

// Chop has every connection made from now on break after a random number of
// bytes up to most, in either direction; 0: none.
func (s *Server) Chop(most int64) { s.chop.Store(most) }

// New starts a fake on a loopback port, set by the functions given. It ends
// with the test.
func New(tb testing.TB, set ...func(*Server)) *Server {
	tb.Helper()
	s := &Server{
		tb: tb, Made: time.Now(), dir: tb.TempDir(), changed: make(chan struct{}), claims: map[string]*claim{},
		failures: map[string]api.Problem{}, secrets: map[string]secret{}, jobs: someJobs(), joinTokens: someJoinTokens(), workers: someWorkers(), access: seedAccess(), endpoints: seedEndpoints(), TellStdin: true,
		// An address of its own, so that nobody takes the port while it is down.
		address: fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250)),
	}
	s.seed()
	for _, f := range set {
		f(s)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Kill()
		s.mu.Lock()
		all := append([]*execution(nil), s.executions...)
		s.mu.Unlock()
		for _, x := range all {
			x.kill()
		}
	})
	return s
}

// URL is where the fake listens.
func (s *Server) URL() string { return "http://" + s.address }

// Start listens, after Kill at the same address.
func (s *Server) Start() {
	s.tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(s.tb.Context(), "tcp", s.address)
	for end := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); {
		// A process that another test starts holds the closed socket between its
		// fork and its exec.
		runtime.Gosched()
		l, err = lc.Listen(s.tb.Context(), "tcp", s.address)
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = l.Addr().String()
	s.http = &http.Server{Handler: s.authenticated(s.routes()), ReadHeaderTimeout: time.Minute}
	go func(h *http.Server) { _ = h.Serve(&choppyListener{Listener: l, s: s}) }(s.http)
}

// Kill breaks every connection at once; commands go on.
func (s *Server) Kill() {
	s.mu.Lock()
	h := s.http
	s.mu.Unlock()
	_ = h.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.executions {
		x.cut()
	}
}

// Fail has the fake answer a route, such as "GET /vms", with a problem.
func (s *Server) Fail(route string, p api.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[route] = p
}

// Requests are those that reached the fake so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// VMCount is how many VMs there are that have not ended.
func (s *Server) VMCount() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vms {
		if v.State != "deleted" {
			n++
		}
	}
	return n
}

// VMsMade is how many VMs were ever made, the seeded ones not counted.
func (s *Server) VMsMade() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.vms) - seededVMs
}

func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get(api.HeaderIdempotencyKey), r.Header.Clone()})
		p, fails := s.failures[r.Method+" "+r.URL.Path[min(len(api.BasePath), len(r.URL.Path)):]]
		s.mu.Unlock()
		switch {
		case !s.counts(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")):
			problem(w, errors.New(errors.Unauthenticated, "the API key is missing or wrong"))
		case fails:
			writeJSON(w, p.Status, p)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// counts reports whether a key does: the fake's own, or one for SDKs that was
// made and not revoked.
func (s *Server) counts(key string) bool {
	if key == Key {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range s.access.keys {
		if k.State == "active" && key == keySecret("e2b_", i) {
			return true
		}
	}
	return false
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(route string, f func(w http.ResponseWriter, r *http.Request) error) {
		method, path, _ := cut(route)
		mux.HandleFunc(method+" "+api.BasePath+path, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				problem(w, err)
			}
		})
	}
	s.vmRoutes(handle)
	s.executionRoutes(handle)
	s.fileRoutes(handle)
	s.secretRoutes(handle)
	s.volumeRoutes(handle)
	s.queueRoutes(handle)
	s.logRoutes(handle)
	s.webhookRoutes(handle)
	s.workerRoutes(handle)
	s.egressRoutes(handle)
	s.otherRoutes(handle)
	s.quotaRoutes(handle)
	s.auditRoutes(handle)
	s.archiveRoutes(handle)
	s.accessRoutes(handle)
	return mux
}

type register = func(route string, f func(w http.ResponseWriter, r *http.Request) error)

func cut(route string) (method, path string, ok bool) {
	for i := range route {
		if route[i] == ' ' {
			return route[:i], route[i+1:], true
		}
	}
	return route, "", false
}

func problem(w http.ResponseWriter, err error) {
	e := errors.Public(err)
	status := errors.HTTPStatus(e.Code)
	w.Header().Set("Content-Type", api.ProblemContentType)
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Problem{
		Title: http.StatusText(status), Status: status, Code: string(e.Code), Detail: e.Message, Hint: e.Hint, Field: e.Field, RequestID: "req-1",
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func readJSON(r *http.Request, v any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return errors.New(errors.InvalidArgument, "%s", err)
	}
	return nil
}

// tell adds an event. The caller holds mu.
func (s *Server) tell(kind, subject string) {
	s.events = append(s.events, api.Event{Seq: int64(len(s.events) + 1), Type: kind, Subject: subject, At: time.Now()})
	close(s.changed)
	s.changed = make(chan struct{})
}

func newID() string { return domain.NewID().String() }

// choppyListener yields connections that break.
type choppyListener struct {
	net.Listener
	s *Server
}

func (l *choppyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	most := l.s.chop.Load()
	if err != nil || most <= 0 {
		return c, err
	}
	return &choppyConn{Conn: c, left: 1 + rand.Int64N(most)}, nil
}

type choppyConn struct {
	net.Conn
	mu   sync.Mutex
	left int64
}

// spend takes up to n bytes of what is left, and breaks the connection after the last.
func (c *choppyConn) spend(n int) (allowed int, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	allowed = int(min(int64(n), c.left))
	c.left -= int64(allowed)
	return allowed, c.left == 0
}

func (c *choppyConn) Write(p []byte) (int, error) {
	n, over := c.spend(len(p))
	if !over {
		return c.Conn.Write(p)
	}
	k, _ := c.Conn.Write(p[:n])
	_ = c.Close()
	return k, io.ErrClosedPipe
}

func (c *choppyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if k, over := c.spend(n); over {
		_ = c.Close()
		return k, err
	}
	return n, err
}
