package api

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

// extensionScope tells in the OpenAPI document which scope an operation needs.
const extensionScope = "x-required-scope"

// Bounds on bodies.
const (
	jsonBodyBytes    = 1 << 20
	executeBodyBytes = 8 << 20
	stdinBodyBytes   = 64 << 20

	// DefaultMaxFileBytes bounds a file or tar sent into a VM; the VM's disk
	// limit is usually lower.
	DefaultMaxFileBytes = 64 << 30
)

// Waits for a VM to be as wanted.
const (
	defaultWait = 60 * time.Second
	maxWait     = 10 * time.Minute
)

// Deps is what the API is made over. All are needed unless said otherwise.
type Deps struct {
	VMs         vmm.Orchestrator
	Tasks       vmm.TaskService
	Streams     *ws.Streams
	Proxy       *proxy.Proxy
	Idempotency IdempotencyStore
	Access      Access
	Tokens      Tokens
	Logger      *slog.Logger
	// Trail records what requests do; it has been told of no operation yet.
	Trail *trail.Trail
	// Audit reads what was recorded; nil: nothing is.
	Audit AuditLog
	// Queue is what administrators look into; nil: none.
	Queue queue.Inspector
	// Logs is where administrators read what servers log; nil: nowhere.
	Logs serverlog.Source
	// Fleet takes in workers; nil: there is the server's own alone.
	Fleet Fleet
	// Webhooks is where projects have their events told; nil: nowhere.
	Webhooks Webhooks
	// Refused says what to answer to who shows no key, and is refused with an
	// error; nil: the error.
	Refused func(ctx context.Context, err error) error
	// Status tells what the server is; it is asked by administrators only.
	Status func(ctx context.Context) (wire.Status, error)
	// Endpoints tells where the server is reached.
	Endpoints func() wire.Endpoints
	// BodyTimeout is how long a body may take that is read before anything is
	// done; 0: as long as it comes.
	BodyTimeout time.Duration
	// Version of the product, for the OpenAPI document.
	Version string
	// MaxFileBytes bounds a file or tar sent into a VM; 0: DefaultMaxFileBytes.
	MaxFileBytes int64
	// MaxUploadBytes bounds an upload; 0: DefaultMaxFileBytes.
	MaxUploadBytes int64
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// API serves version 1.
type API struct {
	Deps
	huma  huma.API
	open  huma.API     // operations that need no key
	start *huma.Schema // of a start frame
	fault error        // in how operations are declared
}

// New makes the API and registers its operations on routers that are mounted
// at wire.BasePath: behind authentication, and beside it those of who has no key
// and proves in another way what they may. Returns Internal when an operation
// does not say who may call it.
func New(d Deps, r, open chi.Router) (*API, error) {
	if d.MaxFileBytes <= 0 {
		d.MaxFileBytes = DefaultMaxFileBytes
	}
	if d.MaxUploadBytes <= 0 {
		d.MaxUploadBytes = DefaultMaxFileBytes
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	a := &API{Deps: d}
	if a.Refused == nil {
		a.Refused = func(_ context.Context, err error) error { return err }
	}
	config := a.config()
	a.huma, a.open = humachi.New(r, config), humachi.New(open, config) // in one document
	a.vmRoutes()
	a.executionRoutes()
	a.fileRoutes()
	a.portRoutes(r)
	a.egressRoutes()
	a.snapshotRoutes()
	a.volumeRoutes()
	a.templateRoutes()
	a.toolRoutes()
	a.secretRoutes()
	a.taskRoutes()
	a.fleetRoutes()
	a.workerRoutes()
	a.queueRoutes()
	a.logRoutes()
	a.eventRoutes()
	a.webhookRoutes()
	a.quotaRoutes()
	a.auditRoutes()
	a.archiveRoutes()
	a.accessRoutes()
	a.healthOperations()
	a.finishSchemas()
	return a, a.fault
}

// options are what the gateway adds to an operation.
type options struct {
	scope      domain.Scope // what a caller needs; without it the operation is not there
	body       int64        // bound on the JSON body; 0: jsonBodyBytes
	recognises bool         // the handler recognises requests repeated with an Idempotency-Key
	secret     bool         // the answer is told once: it is not kept for a repeated request
	open       bool         // it needs no key: its handler knows who may call it
}

// register adds a typed operation. The handler's errors may be anything; they
// leave as problems.
func register[I, O any](a *API, op huma.Operation, opt options, handler func(ctx context.Context, in *I) (*O, error)) {
	at := a.open
	if !opt.open {
		if !a.needs(&op, opt.scope) {
			return
		}
		at = a.huma
		op.Security = []map[string][]string{{"bearer": {}}, {"key": {}}}
	}
	if opt.body == 0 {
		opt.body = jsonBodyBytes
	}
	op.MaxBodyBytes = opt.body + 1 // the body was bounded before huma reads it
	op.BodyReadTimeout = -1        // stalls are watched per read, see middleware
	op.Errors = nil
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	if op.DefaultStatus == 0 && op.Responses["200"] == nil {
		for _, status := range slices.Sorted(maps.Keys(op.Responses)) { // the first that is described
			op.DefaultStatus, _ = strconv.Atoi(status)
			break
		}
	}
	op.Responses["default"] = a.problemResponse()
	op.Middlewares = append(op.Middlewares, a.around(op, opt))
	a.Trail.Operation(op.Method, op.Path, op.OperationID)
	huma.Register(at, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil && opt.open {
			err = a.Refused(ctx, err)
		}
		if err != nil {
			return nil, asProblem(blame(ctx, err))
		}
		return out, nil
	})
}

// needs declares the scope that an operation needs, for who reads the
// document. It is false where there is none.
func (a *API) needs(op *huma.Operation, scope domain.Scope) bool {
	if err := scope.Validate(op.OperationID); err != nil {
		a.fault = errors.Join(a.fault, errors.Wrap(err, errors.Internal, "the operation %s declares no scope", op.OperationID))
		return false
	}
	op.Extensions = map[string]any{extensionScope: scope}
	op.Description = strings.TrimSpace(op.Description + "\n\nNeeds the scope `" + string(scope) + "`.")
	return true
}

// streaming is the answer of a handler that writes it itself. Its error is
// sent as a problem, or breaks the connection when the answer is under way.
func streaming(f func(w http.ResponseWriter, r *http.Request) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humachi.Unwrap(hc)
		if err := f(w, r); err != nil {
			writeProblem(w, blame(r.Context(), err))
		}
	}}
}

// blame puts the reason why a context ended in the place of the plain fact: a
// server that stops is not a client that went away.
func blame(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.HasCode(cause, errors.Unavailable) {
		return cause
	}
	return err
}

func operation(id, method, path, tag, summary, description string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Tags: []string{tag}, Summary: summary, Description: description,
	}
}
