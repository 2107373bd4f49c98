package trail

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// Log is where records go.
type Log interface {
	// Reserve makes sure that a change can be recorded, before it is made;
	// commit records it, once, and nil gives the room back. Returns NoSpace or
	// Unavailable for a change that must not be made.
	Reserve() (commit func(*domain.AuditRecord) error, err error)
	// Append records what was not done.
	Append(r *domain.AuditRecord) error
}

// Trail records what requests do.
type Trail struct {
	log        Log
	logger     *slog.Logger
	operations map[string]string // by method and path below the API's
	refusals   *flood
	changes    *flood // in VMs, of clients of their agents
	inputs     *flood // the same
}

// New makes a trail. Without a log nothing is recorded.
func New(log Log, logger *slog.Logger) *Trail {
	return &Trail{
		log: log, logger: logger, operations: map[string]string{},
		refusals: newFlood(paceOfRefusals), changes: newFlood(paceOfChanges), inputs: newFlood(paceOfInputs),
	}
}

// Operation names the requests of a route.
func (t *Trail) Operation(method, path, id string) { t.operations[method+" "+path] = id }

// entry is a request on its way to being recorded.
type entry struct {
	record domain.AuditRecord
	commit func(*domain.AuditRecord) error
	known  bool // who asks
	done   bool
	err    error  // why it failed
	end    func() // of what is answered, where that may take long; may be nil
}

type entryKey struct{}

func entryOf(ctx context.Context) *entry {
	e, _ := ctx.Value(entryKey{}).(*entry)
	return e
}

// Subject says what a request is done to, where its path does not.
func Subject(ctx context.Context, kind, id string) {
	if e := entryOf(ctx); e != nil {
		e.record.SubjectKind, e.record.SubjectID = kind, id
	}
}

// VM says which VM a request is done to, or in.
func VM(ctx context.Context, id domain.ID) {
	if e := entryOf(ctx); e != nil {
		if e.record.VMID = id; e.record.SubjectKind == "vm" {
			e.record.SubjectID = string(id)
		}
	}
}

// reading are the methods of requests that change nothing.
func reading(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// Requests records the requests of a route. It stands in front of
// authentication, and behind the routing.
func (t *Trail) Requests(next http.Handler) http.Handler {
	if t.log == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route := chi.RouteContext(r.Context())
		operation, known := "", false
		if !reading(r.Method) {
			operation, known = t.operations[r.Method+" "+strings.TrimPrefix(route.RoutePattern(), wire.BasePath)]
		}
		if !known { // such as what is forwarded to a server in a VM: its traffic is the VM's own
			next.ServeHTTP(w, r)
			return
		}
		e := &entry{record: t.begin(r, operation)}
		fromPath(&e.record, route)
		t.answer(w, r, e, next.ServeHTTP)
	})
}

// answer has a request answered that leaves a record.
func (t *Trail) answer(w http.ResponseWriter, r *http.Request, e *entry, next http.HandlerFunc) {
	out := &answer{ResponseWriter: w, trail: t, entry: e, request: r}
	defer func() {
		if p := recover(); p != nil {
			if !e.done {
				e.err = errors.New(errors.Internal, "it broke off")
				_ = t.finish(out, http.StatusInternalServerError)
			}
			panic(p)
		}
		if !e.done {
			out.WriteHeader(http.StatusOK)
		}
	}()
	next(out, r.WithContext(context.WithValue(r.Context(), entryKey{}, e)))
}

func (t *Trail) begin(r *http.Request, operation string) domain.AuditRecord {
	rec := domain.AuditRecord{Operation: operation, Agent: r.UserAgent()}
	if client := middleware.ClientOf(r.Context()); client.IsValid() {
		rec.Client = client.String()
	}
	return rec
}

// Callers notes who asks. It stands behind authentication.
func (t *Trail) Callers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e := entryOf(r.Context()); e != nil {
			e.known = true
			who(&e.record, r, auth.CallerFrom(r.Context()))
		}
		next.ServeHTTP(w, r)
	})
}

// Refused notes who asks where that is known and the request is refused for it.
func (t *Trail) Refused(r context.Context, by vmm.Caller) {
	if e := entryOf(r); e != nil && by.ProjectID != "" {
		e.known = true
		identify(&e.record, by)
		e.record.Entered = true
	}
}

func identify(rec *domain.AuditRecord, by vmm.Caller) {
	rec.ProjectID, rec.Actor, rec.KeyID, rec.UserID, rec.Admin = by.ProjectID, by.Name, by.KeyID, by.UserID, by.Admin
}

func who(rec *domain.AuditRecord, r *http.Request, by vmm.Caller) {
	identify(rec, by)
	rec.Entered = r.Header.Get(wire.HeaderProject) != ""
}

// Room refuses changes that could not be recorded. It stands behind the rate limits.
func (t *Trail) Room(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := t.Reserve(r.Context()); err != nil {
			problem.Write(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Reserve is Room for a request without credentials, once its handler knows that
// it may change something. Returns NoSpace, Unavailable.
func (t *Trail) Reserve(ctx context.Context) (err error) {
	if e := entryOf(ctx); e != nil {
		e.commit, err = t.log.Reserve()
	}
	return err
}

// finish records a request that is about to be answered.
func (t *Trail) finish(out *answer, status int) error {
	e := out.entry
	e.done = true
	rec := &e.record
	rec.Status, rec.RequestID = status, out.Header().Get(wire.HeaderRequestID)
	if status >= http.StatusBadRequest {
		rec.Code = string(errors.CodeForHTTPStatus(status))
		if e.err != nil {
			rec.Code = string(errors.CodeOf(e.err))
		}
	} else if rec.SubjectKind == "" || rec.SubjectID == "" {
		fromLocation(rec, out.Header().Get("Location"))
	}
	if e.commit != nil {
		return e.commit(rec)
	}
	// Nothing was done. That it cannot be recorded must not keep the client
	// from hearing so.
	if t.refusals.record(rec, refuser(rec, e.known)) {
		if err := t.log.Append(rec); err != nil {
			t.logger.WarnContext(out.request.Context(), "a refused request was not recorded", "operation", rec.Operation, "error", err)
		}
	}
	return nil
}

// Act is something that is done over a stream.
type Act struct {
	Operation string
	Kind, ID  string // of its subject
	VM        domain.ID
}

// Do does something over a request's stream, and records it before its effect
// is told. do may name the subject that it made. Returns what do does, NoSpace
// and Unavailable.
func (t *Trail) Do(r *http.Request, by vmm.Caller, act Act, do func() (made string, err error)) error {
	if t == nil || t.log == nil {
		_, err := do()
		return err
	}
	commit, err := t.log.Reserve()
	if err != nil {
		return err
	}
	rec := t.ofStream(r, by, act)
	made, err := do()
	if made != "" {
		rec.SubjectID = made
	}
	rec.Status = http.StatusOK
	if err != nil {
		code := errors.CodeOf(err)
		rec.Code, rec.Status = string(code), errors.HTTPStatus(code)
	}
	if cerr := commit(&rec); cerr != nil && err == nil {
		return unrecorded(cerr)
	}
	return err
}

// Note records something that a stream's client asks for without an answer of
// its own, before it is done: with the status 202. Returns NoSpace, Unavailable.
func (t *Trail) Note(r *http.Request, by vmm.Caller, act Act) error {
	if t == nil || t.log == nil {
		return nil
	}
	commit, err := t.log.Reserve()
	if err != nil {
		return err
	}
	rec := t.ofStream(r, by, act)
	rec.Status = http.StatusAccepted
	return commit(&rec)
}

func (t *Trail) ofStream(r *http.Request, by vmm.Caller, act Act) domain.AuditRecord {
	rec := t.begin(r, act.Operation)
	who(&rec, r, by)
	rec.SubjectKind, rec.SubjectID, rec.VMID = act.Kind, act.ID, act.VM
	if of := middleware.RecordOf(r.Context()); of != nil {
		rec.RequestID = of.ID
	}
	return rec
}

// unrecorded is for what was done and could not be recorded for all that.
func unrecorded(err error) error {
	return errors.Wrap(err, errors.Unavailable, "the request was carried out, and could not be recorded in the audit log").
		WithHint("look at what it changed before it is repeated")
}
