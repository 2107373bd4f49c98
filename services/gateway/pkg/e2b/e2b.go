package e2b

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

const (
	// Prefix is where the control plane is on the API's hosts.
	Prefix = wire.E2BPath
	// Name is its own below the preview domain.
	Name = "api"
)

const (
	maxBody = 1 << 20
	// maxWait bounds the wait for a VM to be as wanted; clients give up earlier.
	maxWait = 10 * time.Minute
)

// Deps is what the surface is made over. All are needed.
type Deps struct {
	VMs   vmm.Orchestrator
	Proxy *proxy.Proxy
	// Notes keeps what is remembered between the requests by which an SDK begins a build.
	Notes  Notes
	Trail  *trail.Trail
	Logger *slog.Logger
	// Domain is the one below which sandboxes have their names.
	Domain string
	// BodyTimeout is how long a body may take; 0: as long as it comes.
	BodyTimeout time.Duration
	// MaxUploadBytes bounds an upload; 0: DefaultMaxUploadBytes.
	MaxUploadBytes int64
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// DefaultMaxUploadBytes bounds what is sent for one COPY of a template.
const DefaultMaxUploadBytes = 64 << 30

// API serves the control plane.
type API struct {
	Deps
}

// New registers the routes on a router that is mounted at [Prefix], behind
// [Errors] and authentication.
func New(d Deps, r chi.Router) *API {
	if d.MaxUploadBytes <= 0 {
		d.MaxUploadBytes = DefaultMaxUploadBytes
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	a := &API{Deps: d}
	a.sandboxRoutes(r)
	a.snapshotRoutes(r)
	a.templateRoutes(r)
	a.tagRoutes(r)
	a.volumeRoutes(r)
	return a
}

// Below makes a request to a host of the control plane's own one to [Prefix].
func Below(r *http.Request) *http.Request {
	r2, u := *r, *r.URL
	u.Path = Prefix + u.Path
	if u.RawPath != "" {
		u.RawPath = Prefix + u.RawPath
	}
	r2.URL = &u
	return &r2
}

// Errors answers errors of all that stands behind it as E2B's clients know them.
func Errors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&writer{w}, r)
	})
}

type writer struct{ http.ResponseWriter }

// Unwrap lets others find the writer below.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// failure is an error on the wire.
type failure struct {
	Code      int    `json:"code"`
	Message   string `json:"message"`
	ErrorCode string `json:"error_code,omitempty"`
}

// RenderProblem implements problem.Renderer.
func (w *writer) RenderProblem(p *problem.Response) (contentType string, body []byte) {
	text, err := json.Marshal(failed(p))
	if err != nil { // cannot be: plain strings and numbers
		panic(err)
	}
	return "application/json", text
}

func failed(p *problem.Response) failure {
	f := failure{Code: p.Status, Message: p.Detail, ErrorCode: p.Code}
	if p.Hint != "" {
		f.Message += " (" + p.Hint + ")"
	}
	return f
}

// respond renders an error with the status that E2B's clients expect for it: a
// VM that ended is not found, and what cannot be had here is a bad request.
func respond(err error) *problem.Response {
	var p *problem.Response
	if !errors.As(err, &p) {
		p = problem.From(err)
	}
	switch errors.CodeOf(err) {
	case errors.Gone:
		return p.WithStatus(http.StatusNotFound)
	case errors.Unsupported:
		return p.WithStatus(http.StatusBadRequest)
	}
	return p
}

// handle registers an operation under the name that the audit log has for it.
func (a *API) handle(r chi.Router, method, path, operation string, scope domain.Scope, h func(w http.ResponseWriter, r *http.Request, by vmm.Caller) error) {
	a.Trail.Operation(method, Prefix+path, operation)
	r.MethodFunc(method, path, func(w http.ResponseWriter, r *http.Request) {
		if rec := middleware.RecordOf(r.Context()); rec != nil {
			rec.Route = Prefix + path
		}
		err := auth.Allow(r.Context(), scope)
		if err == nil {
			err = h(w, r, auth.CallerFrom(r.Context()))
		}
		if err != nil {
			writeError(w, err)
		}
	})
}

func writeError(w http.ResponseWriter, err error) { problem.Write(w, respond(err)) }

// read decodes a JSON body, which may be missing where it may be empty.
// Unknown fields are those of other versions of the SDKs.
func (a *API) read(w http.ResponseWriter, r *http.Request, into any) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if a.BodyTimeout > 0 {
		middleware.FinishBody(r.Context(), time.Now().Add(a.BodyTimeout))
	}
	if err := middleware.LimitBody(w, r, maxBody); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return text, nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the body is not the expected JSON")
	}
	return text, nil
}

func answer(w http.ResponseWriter, status int, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the answer cannot be written")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
	return nil
}

func empty(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// domainOf is the domain of sandboxes as the client of r reaches it: by the
// same port.
func (a *API) domainOf(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil && port != "" {
		return net.JoinHostPort(a.Domain, port)
	}
	return a.Domain
}

// pageOf reads a list's paging. Returns InvalidArgument.
func pageOf(q url.Values) (vmm.Page, error) {
	p := vmm.Page{Limit: maxPage, Cursor: q.Get("nextToken")}
	if text := q.Get("limit"); text != "" {
		n, err := positive("limit", text)
		if err != nil {
			return p, err
		}
		p.Limit = int(min(n, maxPage))
	}
	switch q.Get("order") {
	case "", "desc":
		p.Order = vmm.NewestFirst
	case "asc":
		p.Order = vmm.OldestFirst
	default:
		return p, errors.New(errors.InvalidArgument, "the order is asc or desc").WithField("order")
	}
	return p, nil
}
