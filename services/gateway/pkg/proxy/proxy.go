package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/internal/straight"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

const (
	// DefaultLinkTTL is how long a one-time link may wait to be used.
	DefaultLinkTTL = 5 * time.Minute

	// dialTimeout includes resuming a paused VM.
	dialTimeout = 60 * time.Second
	// handshakeTimeout is for servers that speak TLS themselves.
	handshakeTimeout = 10 * time.Second
	// idleTimeout keeps connections for the burst of requests that one page
	// makes, and no longer: only dialling a port resumes a paused VM, so a
	// connection must not outlive the quiet after which a VM may be paused.
	idleTimeout   = 2 * time.Second
	maxIdle       = 256
	maxIdlePerVM  = 16
	maxPerPort    = 512
	maxStraight   = 64 // requests to a port that go straight; beside maxPerPort
	maxHeaderSize = 256 << 10
	// flushInterval is how long the first bytes of an answer of known length, and
	// its header, may wait for more. What is short goes out at its end, in one
	// piece; to send each part at once would cost a process's waking up, there and
	// here. An answer of unknown length, which may be live output, waits for nothing.
	flushInterval = 100 * time.Millisecond
	copyBuffer    = 32 << 10
)

// VMs is what the proxy reaches.
type VMs interface {
	vmm.Ports
	vmm.Agents
}

// Config is what the proxy needs.
type Config struct {
	VMs    VMs
	Links  Links
	Domain Domain
	// PublicURL, if set, makes preview addresses instead of the request's own
	// scheme and port: behind a proxy that terminates TLS. {port} and {vm} stand in it.
	PublicURL string
	Logger    *slog.Logger
	Now       func() time.Time // the clock; nil is time.Now
	// Stopping ends when the server is about to stop: WebSockets and event
	// streams of guests, which would not end by themselves, then do. May be nil.
	Stopping context.Context
	// Trail records what clients of agents change; may be nil.
	Trail *trail.Trail
	// Opened counts requests under way; may be nil.
	Opened func(kind string) (closed func())
}

// Proxy reaches servers in VMs.
type Proxy struct {
	vms       VMs
	links     Links
	domain    Domain
	publicURL string
	now       func() time.Time
	opened    func(kind string) func()
	trail     *trail.Trail
	changes   map[string]change // by method and path
	stopping  context.Context
	transport *http.Transport
	straight  *straight.Transport
	preview   *httputil.ReverseProxy
	path      *httputil.ReverseProxy
	sandbox   *httputil.ReverseProxy
	agent     *httputil.ReverseProxy
}

// New makes a Proxy.
func New(c Config) *Proxy {
	p := &Proxy{
		vms: c.VMs, links: c.Links, domain: c.Domain, publicURL: c.PublicURL, now: c.Now, opened: c.Opened, stopping: c.Stopping,
		trail: c.Trail, changes: agentChanges(),
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.stopping == nil {
		p.stopping = context.Background()
	}
	if p.opened == nil {
		p.opened = func(string) func() { return func() {} }
	}
	p.transport = &http.Transport{
		DialContext:            p.dial,
		DisableCompression:     true, // bytes pass as they are
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdlePerVM,
		MaxConnsPerHost:        maxPerPort,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeaderSize,
		WriteBufferSize:        copyBuffer,
		ReadBufferSize:         copyBuffer,
		TLSHandshakeTimeout:    handshakeTimeout,
		// The connection is the VM's whatever its server shows: nobody is between.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	p.straight = &straight.Transport{
		Near: near, Dial: p.dial, Rest: p.transport,
		MaxBusy: maxStraight, MaxIdle: maxIdle, IdleTime: idleTimeout, MaxHeader: maxHeaderSize, Buffer: copyBuffer,
	}
	pool := &bufferPool{}
	base := func(rewrite func(*httputil.ProxyRequest), modify func(*http.Response) error, fail func(http.ResponseWriter, error)) *httputil.ReverseProxy {
		return &httputil.ReverseProxy{
			Transport: p.straight, Rewrite: rewrite, ModifyResponse: modify, BufferPool: pool,
			FlushInterval: flushInterval,
			ErrorLog:      slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug),
			ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, err error) { fail(w, err) },
		}
	}
	p.preview = base(rewritePreview, cleanPreview, fail)
	p.path = base(rewritePath, cleanPath, failPath)
	p.sandbox = base(rewritePreview, cleanPreview, nil)
	p.agent = base(rewriteAgent, cleanAgent, nil)
	p.sandbox.ErrorHandler, p.agent.ErrorHandler = failSandbox, failSandbox
	return p
}

// ServePreview answers a request for a preview's host.
func (p *Proxy) ServePreview(w http.ResponseWriter, r *http.Request, t Target) {
	if rec := middleware.RecordOf(r.Context()); rec != nil {
		rec.Route = "preview"
	}
	if shown, ok := p.admit(w, r, t); ok {
		p.serve(w, r, r.URL, toPreview(t, shown), p.preview)
	}
}

// ServePath answers a request of the path form; the caller has authenticated
// it. rest is the escaped path below the port, with its leading slash.
func (p *Proxy) ServePath(w http.ResponseWriter, r *http.Request, t Target, prefix, rest string) {
	path, err := url.PathUnescape(rest)
	if err != nil {
		problem.Write(w, errors.Wrap(err, errors.InvalidArgument, "the path is not well escaped"))
		return
	}
	u := *r.URL
	u.Path, u.RawPath = path, rest
	p.serve(w, r, &u, destination{Target: t, prefix: prefix}, p.path)
}

// destination is where a request goes; prefix is the path form's, and host what
// a server is told in the place of the one that was asked for. tls: the server
// speaks it; near: it is on this host.
type destination struct {
	Target
	prefix string
	host   string
	tls    bool
	near   bool
}

// toPreview is where a preview's visitor is led, by how the VM shows it.
func toPreview(t Target, shown vmm.Preview) destination {
	return destination{Target: t, host: shown.Host, tls: slices.Contains(shown.HTTPS, t.Port)}
}

type destinationKey struct{}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, u *url.URL, d destination, via *httputil.ReverseProxy) {
	defer p.opened("port")()
	ctx := r.Context()
	if r.Header.Get("Upgrade") != "" || strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(p.stopping, cancel)()
		defer context.AfterFunc(auth.Ended(r.Context()), cancel)()
	}
	// A connection that waits for its next request may be one to a VM that was
	// paused meanwhile: what went over it would not be answered.
	here, err := p.awake(ctx, d.VM)
	d.near = here && d.Port != vmm.AgentPort // which may be no socket
	r = r.WithContext(context.WithValue(ctx, destinationKey{}, d))
	r.URL = u
	if err != nil {
		via.ErrorHandler(w, r, err)
		return
	}
	middleware.Duplex(r.Context())
	via.ServeHTTP(w, r)
}

// near tells whether a request's server is on this host.
func near(r *http.Request) bool {
	d, _ := r.Context().Value(destinationKey{}).(destination)
	return d.near
}

func (p *Proxy) awake(ctx context.Context, vm domain.ID) (here bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return p.vms.Awake(ctx, vm)
}

func (p *Proxy) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, ok := ParsePort(port)
	if !ok || !domain.IsID(host) {
		return nil, errors.New(errors.InvalidArgument, "%q is not a port of a VM", addr)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if n == vmm.AgentPort {
		return p.vms.DialAgent(ctx, domain.ID(host), true)
	}
	return p.vms.DialPort(ctx, domain.ID(host), n)
}

// URL is the address of a preview, for the client of r.
func (p *Proxy) URL(r *http.Request, t Target) string {
	if p.publicURL == "" {
		return p.domain.URL(r, t)
	}
	return strings.NewReplacer("{port}", strconv.Itoa(int(t.Port)), "{vm}", t.VM.String()).Replace(p.publicURL)
}

// NewLink makes a one-time link to a preview of a VM that has a token.
func (p *Proxy) NewLink(r *http.Request, t Target, token string, ttl time.Duration) (wire.Link, error) {
	if ttl <= 0 {
		ttl = DefaultLinkTTL
	}
	expires := p.now().Add(ttl)
	secret, err := p.links.New(r.Context(), t, token, expires)
	if err != nil {
		return wire.Link{}, err
	}
	return wire.Link{URL: p.URL(r, t) + "?" + wire.PreviewLinkParam + "=" + secret, ExpiresAt: expires.UTC()}, nil
}

// CloseIdle lets go of connections that wait for another request: to be
// called when a VM was paused, stopped or deleted.
func (p *Proxy) CloseIdle() {
	p.transport.CloseIdleConnections()
	p.straight.CloseIdleConnections()
}

// fail answers for a target that cannot be reached. Seen from the visitor,
// this server is the gateway and the VM the upstream: always 502, with the
// code telling why (closed port: unavailable; paused or stopped: conflict;
// deleted: gone).
func fail(w http.ResponseWriter, err error) {
	var coded *errors.Error
	switch {
	case errors.Is(err, context.Canceled):
		err = errors.Wrap(err, errors.Canceled, "the client went away")
	case !errors.As(err, &coded):
		err = errors.Wrap(err, errors.Unavailable, "the server in the VM did not answer properly")
	case coded.Code == errors.Unavailable && coded.Hint == "" && coded.RetryAfter == 0: // else it is the VM that cannot be reached
		err = coded.WithHint("is a server listening on this port, on all addresses or on 127.0.0.1?")
	}
	problem.Write(w, problem.From(err).WithStatus(http.StatusBadGateway).SetHeader("Cache-Control", "no-store"))
}

// failPath is fail for the path form, which is part of the API: where the VM is
// the reason, and no server in it, the status is the one that the API has for it.
func failPath(w http.ResponseWriter, err error) {
	switch errors.CodeOf(err) {
	case errors.NotFound, errors.Gone, errors.Conflict, errors.PermissionDenied:
		problem.Write(w, err)
	default:
		fail(w, err)
	}
}

func refuse(w http.ResponseWriter, err error) { problem.Write(w, err) }

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if p, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return p[:]
	}
	return make([]byte, copyBuffer)
}

func (b *bufferPool) Put(p []byte) {
	if len(p) == copyBuffer {
		b.pool.Put((*[copyBuffer]byte)(p))
	}
}
