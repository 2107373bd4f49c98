package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/docs"
	"github.com/aetherium/aetherium/services/gateway/pkg/e2b"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

// linesWait is how much later than a request's end its line in the log may be
// written: to write it takes longer than all that is ours in passing a request on.
const linesWait = 50 * time.Millisecond

// Gateway is the whole handler.
type Gateway struct {
	config  Config
	deps    Deps
	handler http.Handler
	proxy   *proxy.Proxy
	hosts   auth.Hosts
	router  http.Handler
	api     http.Handler // the router behind what every answer of the API's hosts passes
	metrics *middleware.Metrics
	limits  *limit.Limits
	trail   *trail.Trail
	guard   *auth.Guard
	lines   *logging.Batch // the log of requests

	leaving  atomic.Bool // /ready says so
	stopping context.Context
	stop     context.CancelFunc
}

// New makes the gateway. Returns InvalidArgument for a bad configuration.
func New(c Config, d Deps) (*Gateway, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Links == nil {
		d.Links = proxy.NewMemoryLinks(d.Now)
	}
	if d.Ready == nil {
		d.Ready = func(context.Context) error { return nil }
	}
	g := &Gateway{config: c, deps: d, hosts: auth.NewHosts(c.Hosts...), limits: limit.New(c.Limits, nil), trail: trail.New(d.Audit, d.Logger), lines: logging.NewBatch(d.Logger.Handler(), linesWait)}
	if g.metrics, err = middleware.NewMetrics(d.Collectors...); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "two parts describe the same metric")
	}
	g.stopping, g.stop = context.WithCancel(context.Background())
	g.guard = auth.NewGuard(auth.GuardConfig{Authenticator: g.deps.Authenticator, Projects: d.Projects, Stopping: g.stopping, Recheck: c.Recheck, Refused: g.refused, Now: d.Now})
	g.proxy = proxy.New(proxy.Config{
		VMs: d.VMs, Links: d.Links, Domain: proxy.Domain(c.PreviewDomain), PublicURL: c.PreviewURL, Logger: d.Logger,
		Stopping: g.stopping, Opened: g.metrics.StreamOpened, Trail: g.trail, Now: d.Now,
	})
	if g.router, err = g.routes(); err != nil {
		return nil, err
	}
	cors, err := middleware.NewCORS("origins", c.Origins)
	if err != nil {
		return nil, err
	}
	g.api = middleware.Secure(c.TLSAddress == "", cors.Handler(g.router))
	g.handler = middleware.Observe(
		middleware.Observer{Logger: slog.New(tracing.Lines(g.lines)), Metrics: g.metrics, Tracing: d.Tracing, Stall: c.Stall, Trusted: c.TrustedProxies},
		g.limits.Addresses(http.HandlerFunc(g.dispatch)),
	)
	return g, nil
}

// ServeHTTP answers every request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

// Metrics serves what is measured, to anybody: it is for an address of its own.
func (g *Gateway) Metrics() http.Handler { return g.metrics.Handler() }

// EndStreams makes every stream end in a way that tells its client to come
// back; new ones are refused.
func (g *Gateway) EndStreams() { g.stop() }

// refused says what to answer to credentials that were refused.
func (g *Gateway) refused(ctx context.Context, by vmm.Caller, err error) error {
	g.trail.Refused(ctx, by)
	return g.limits.Refused(ctx, by, err)
}

// standsForMany reports whether many clients come from an address.
func (g *Gateway) standsForMany(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(g.config.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (g *Gateway) routes() (http.Handler, error) {
	r := chi.NewRouter()
	r.NotFound(api.NotFound)
	r.MethodNotAllowed(api.MethodNotAllowed)
	r.Use(chimiddleware.GetHead) // what can be got can be asked about (RFC 9110 §9.1)

	health := named("/health", func(w http.ResponseWriter, _ *http.Request) { healthy(w) })
	ready := named("/ready", func(w http.ResponseWriter, r *http.Request) {
		err := g.deps.Ready(r.Context())
		if g.leaving.Load() {
			err = errors.New(errors.Unavailable, "the server is stopping")
		}
		if err != nil {
			problem.Write(w, err)
			return
		}
		healthy(w)
	})
	metrics := g.guard.Require(named("/metrics", auth.RequireScope(domain.ScopeAdmin, g.metrics.Handler()).ServeHTTP))
	for _, prefix := range []string{"", wire.BasePath} {
		r.Method(http.MethodGet, prefix+"/health", health)
		r.Method(http.MethodGet, prefix+"/ready", ready)
		r.Method(http.MethodGet, prefix+"/metrics", metrics)
		for path, file := range docs.Files() {
			r.Method(http.MethodGet, prefix+path, named("/docs", file.ServeHTTP))
		}
	}
	var fault error
	r.Route(wire.BasePath, func(r chi.Router) {
		open := r.With(g.trail.Requests, private)
		r.Group(func(r chi.Router) {
			r.Use(middleware.Ahead, g.trail.Requests, g.guard.Require, g.trail.Callers, g.limits.Callers, g.trail.Room, private)
			a, err := api.New(api.Deps{
				VMs: g.deps.VMs, Tasks: g.deps.Tasks, Proxy: g.proxy, Idempotency: g.deps.Idempotency,
				Access: g.deps.Access, Tokens: g.deps.Tokens, Trail: g.trail, Audit: g.deps.Audit, Queue: g.deps.Queue, Logs: g.deps.Logs,
				Streams: ws.New(ws.Config{
					VMs: g.deps.VMs, Stopping: g.stopping, Origins: g.config.Origins, Stall: g.config.Stall,
					Max: g.config.MaxStreams, Opened: g.metrics.StreamOpened, Limits: g.limits, Trail: g.trail,
				}),
				Logger: g.deps.Logger, Status: g.status, Endpoints: g.endpoints, Version: g.config.Version,
				BodyTimeout: g.config.BodyTimeout, MaxFileBytes: g.config.MaxFileBytes, MaxUploadBytes: g.config.MaxUploadBytes,
				Fleet: g.deps.Fleet, Webhooks: g.deps.Webhooks, Refused: func(ctx context.Context, err error) error { return g.refused(ctx, vmm.Caller{}, err) }, Now: g.deps.Now,
			}, r, open)
			fault = err
			asJSON, asYAML := a.Document()
			for path, document := range map[string]http.Handler{"/openapi.json": asJSON, "/openapi.yaml": asYAML} {
				r.Method(http.MethodGet, path, named("/openapi", auth.RequireScope(domain.ScopeRead, document).ServeHTTP))
			}
		})
	})
	if fault != nil {
		return nil, fault
	}
	r.Route(e2b.Prefix, func(r chi.Router) {
		r.Use(e2b.Errors)
		r.NotFound(api.NotFound)
		r.MethodNotAllowed(api.MethodNotAllowed)
		var a *e2b.API
		r.Group(func(r chi.Router) {
			r.Use(g.trail.Requests, g.guard.Require, g.trail.Callers, g.limits.Callers, g.trail.Room, private)
			a = e2b.New(e2b.Deps{
				VMs: g.deps.VMs, Proxy: g.proxy, Trail: g.trail, Logger: g.deps.Logger, Domain: g.config.PreviewDomain, BodyTimeout: g.config.BodyTimeout,
				Notes: g.deps.Notes, MaxUploadBytes: g.config.MaxUploadBytes, Now: g.deps.Now,
			}, r)
		})
		a.UploadRoute(r)
		a.VolumeContentRoutes(r)
	})
	if g.deps.Root != nil {
		r.NotFound(func(w http.ResponseWriter, r *http.Request) {
			if underAPI(r.URL.Path) {
				api.NotFound(w, r)
				return
			}
			named("/", g.deps.Root.ServeHTTP).ServeHTTP(w, r)
		})
	} else {
		r.Method(http.MethodGet, "/", http.RedirectHandler("/docs", http.StatusFound))
	}
	return r, nil
}

func underAPI(path string) bool {
	return len(path) >= 4 && path[:4] == "/api" && (len(path) == 4 || path[4] == '/')
}

func (g *Gateway) status(ctx context.Context) (wire.Status, error) {
	s, err := g.deps.Status(ctx)
	s.PreviewDomain = g.config.PreviewDomain
	if s.Version == "" {
		s.Version = g.config.Version
	}
	return s, err
}

func (g *Gateway) endpoints() wire.Endpoints {
	var e wire.Endpoints
	if g.deps.Endpoints != nil {
		e = g.deps.Endpoints()
	}
	e.PreviewDomain = g.config.PreviewDomain
	return e
}

// private keeps answers of the API out of caches and out of a browser's guesses.
func private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func healthy(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"status":"ok"}` + "\n"))
}

// named gives a plain handler its name in logs and metrics.
func named(route string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rec := middleware.RecordOf(r.Context()); rec != nil {
			rec.Route = route
		}
		h(w, r)
	})
}
