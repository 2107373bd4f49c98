package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/gateway/internal/fake"
	"github.com/aetherium/aetherium/services/gateway/pkg/answers"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// keyRing is what callers may do, in a real store.
type keyRing struct {
	t       testing.TB
	store   storage.Store
	lookup  *access.Lookup
	service *access.Service
	signing *access.Signing
	sealer  seal.Sealer
}

// emptyDatabase is made once: making its schema takes longer than most tests.
var emptyDatabase = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "aetherium-gateway-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "a.db")
	store, err := sqlitetest.Open(context.Background(), path, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func newKeyRing(t testing.TB, logger *slog.Logger) *keyRing {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.db")
	empty, err := emptyDatabase()
	if err == nil {
		err = os.WriteFile(path, empty, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlitetest.Open(t.Context(), path, sqlite.Options{Logger: logger, Readers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	key, err := seal.NewKeys(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	d := access.Deps{Store: store, Sealer: seal.New(key), Log: logger}
	return &keyRing{
		t: t, store: store, lookup: access.NewLookup(store, nil), service: access.New(d), signing: access.NewSigning(d, 0), sealer: d.Sealer,
	}
}

func (k *keyRing) update(f func(ctx context.Context, tx storage.Tx) error) {
	k.t.Helper()
	ctx := context.Background()
	if err := k.store.Update(ctx, func(tx storage.Tx) error { return f(ctx, tx) }); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keyRing) project(name string) domain.ID {
	k.t.Helper()
	p := &domain.Project{ID: domain.NewID(), Name: name, CreatedAt: time.Now()}
	k.update(func(ctx context.Context, tx storage.Tx) error { return tx.Projects().Insert(ctx, p) })
	return p.ID
}

func (k *keyRing) mint(project domain.ID, name string, scopes ...domain.Scope) string {
	k.t.Helper()
	text, hash := auth.MintKey()
	key := &domain.APIKey{ID: domain.NewID(), ProjectID: project, Name: name, Prefix: access.Shown(text), Hash: hash, Scopes: scopes, CreatedAt: time.Now()}
	k.update(func(ctx context.Context, tx storage.Tx) error { return tx.Keys().Insert(ctx, key) })
	return text
}

// tokens is what a server over the ring makes and takes.
func (k *keyRing) tokens(change ...func(*auth.TokenConfig)) *auth.Tokens {
	k.t.Helper()
	c := auth.TokenConfig{Issuer: "https://aetherium.test", Keys: k.signing, Holders: k.lookup}
	for _, f := range change {
		f(&c)
	}
	tokens, err := auth.NewTokens(c)
	if err != nil {
		k.t.Fatal(err)
	}
	return tokens
}

// lab is a gateway that really listens, over a fake orchestrator.
type lab struct {
	t       testing.TB
	core    *fake.Orchestrator
	gateway *gateway.Gateway
	server  *gateway.Server
	log     *logBuffer
	ring    *keyRing
	project domain.ID
	admin   string // keys
	user    string // same project, no administrator
	other   string // another project's
	client  *http.Client
	addr    string
	deps    gateway.Deps
}

type logBuffer struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{} // closed and replaced at every line
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.wrote)
	l.wrote = make(chan struct{})
	return l.buf.Write(p)
}

// await waits until the log holds a text.
func (l *logBuffer) await(ctx context.Context, text string) error {
	for {
		l.mu.Lock()
		wrote, found := l.wrote, bytes.Contains(l.buf.Bytes(), []byte(text))
		l.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-wrote:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newLab(t testing.TB, change ...func(*gateway.Config, *gateway.Deps)) *lab {
	t.Helper()
	l := &lab{t: t, core: fake.New(), log: &logBuffer{wrote: make(chan struct{})}}
	logger := slog.New(slog.NewJSONHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ring := newKeyRing(t, logger)
	l.ring, l.project = ring, ring.project("ours")
	l.admin, l.user = ring.mint(l.project, "root", domain.ScopeAdmin), ring.mint(l.project, "alice", domain.ScopeManage)
	l.other = ring.mint(ring.project("theirs"), "mallory", domain.ScopeManage)
	tokens := ring.tokens()
	config := gateway.Config{Address: "127.0.0.1:0", Version: "1.2.3-test", StopGrace: 5 * time.Second}
	kept := answers.New(ring.store, ring.sealer, nil)
	deps := gateway.Deps{
		VMs: l.core, Tasks: l.core, Idempotency: kept, Notes: kept,
		Authenticator: auth.NewAny(auth.NewKeys(ring.lookup, logger, nil), map[string]auth.Authenticator{tokens.Issuer: tokens}),
		Projects:      ring.lookup, Access: ring.service, Tokens: tokens,
		Logger:    logger,
		Status:    func(context.Context) (wire.Status, error) { return wire.Status{PID: 42, VMs: map[string]int{}}, nil },
		Endpoints: func() wire.Endpoints { return l.server.Endpoints() },
	}
	for _, f := range change {
		f(&config, &deps)
	}
	var err error
	if l.gateway, err = gateway.New(config, deps); err != nil {
		t.Fatal(err)
	}
	l.deps = deps
	l.server = gateway.NewServer(l.gateway)
	if err := l.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.addr = l.server.Addr().String()
	dialer := &net.Dialer{}
	transport := &http.Transport{ // every name leads to the server, as DNS for previews does
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", l.addr)
		},
	}
	l.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := l.server.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return l
}

// req is a request to the API; path is below its base unless it is a URL.
type req struct {
	method string
	path   string
	body   any // string or []byte as they are, io.Reader streamed, else JSON
	key    string
	header map[string]string
	host   string
}

func (l *lab) request(q req) *http.Request {
	l.t.Helper()
	var body io.Reader
	media := "application/json"
	switch b := q.body.(type) {
	case nil:
		media = ""
	case string:
		body = strings.NewReader(b)
	case []byte:
		body, media = bytes.NewReader(b), "application/octet-stream"
	case io.Reader:
		body, media = b, "application/octet-stream"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			l.t.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	url := q.path
	if !strings.HasPrefix(url, "http") {
		url = "http://" + l.addr + wire.BasePath + q.path
	}
	r, err := http.NewRequestWithContext(l.t.Context(), q.method, url, body)
	if err != nil {
		l.t.Fatal(err)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	switch q.key {
	case "":
		r.Header.Set("Authorization", "Bearer "+l.admin)
	case "none":
	default:
		r.Header.Set("X-API-Key", q.key)
	}
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	r.Host = q.host
	return r
}

func (l *lab) do(q req) (*http.Response, []byte) {
	l.t.Helper()
	resp, err := l.client.Do(l.request(q))
	if err != nil {
		l.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatalf("%s %s: read: %v", q.method, q.path, err)
	}
	return resp, body
}

// want does a request and fails the test unless the status is as said.
func (l *lab) want(status int, q req) (*http.Response, []byte) {
	l.t.Helper()
	resp, body := l.do(q)
	if resp.StatusCode != status {
		l.t.Fatalf("%s %s: status %d, want %d: %s", q.method, q.path, resp.StatusCode, status, body)
	}
	return resp, body
}

// get decodes the answer of a request.
func get[T any](l *lab, status int, q req) T {
	l.t.Helper()
	_, body := l.want(status, q)
	var v T
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		l.t.Fatalf("%s %s: %v in %s", q.method, q.path, err, body)
	}
	return v
}

// problem does a request and checks that the answer is a problem with a code.
func (l *lab) problem(status int, code errors.Code, q req) wire.Problem {
	l.t.Helper()
	resp, body := l.want(status, q)
	if ct := resp.Header.Get("Content-Type"); ct != wire.ProblemContentType {
		l.t.Fatalf("%s %s: content type %q, want a problem: %s", q.method, q.path, ct, body)
	}
	var p wire.Problem
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		l.t.Fatalf("%s %s: %v in %s", q.method, q.path, err, body)
	}
	if p.Code != string(code) || p.Status != status || p.Detail == "" || p.Title == "" {
		l.t.Fatalf("%s %s: problem %+v, want code %s", q.method, q.path, p, code)
	}
	if p.RequestID == "" || p.RequestID != resp.Header.Get(wire.HeaderRequestID) {
		l.t.Fatalf("%s %s: request id %q in the body, %q in the header", q.method, q.path, p.RequestID, resp.Header.Get(wire.HeaderRequestID))
	}
	return p
}

func (l *lab) vm() wire.VM {
	l.t.Helper()
	return get[wire.VM](l, http.StatusCreated, req{method: "POST", path: "/vms", body: wire.CreateVM{}})
}

func (l *lab) start(vm string, args ...string) wire.Execution {
	l.t.Helper()
	return get[wire.Execution](l, http.StatusCreated, req{
		method: "POST", path: "/vms/" + vm + "/executions", body: wire.StartExecution{Command: wire.Command{Args: args}, Stdin: true},
	})
}

// mintHash makes a key that is nowhere yet.
func mintHash() (string, [32]byte) {
	text, hash := auth.MintKey()
	return text, hash
}
