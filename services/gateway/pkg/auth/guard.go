package auth

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

const (
	// recheckEvery is how often credentials of requests under way are looked at
	// where nobody tells of changes.
	recheckEvery   = 10 * time.Second
	recheckTimeout = 5 * time.Second
	recheckRest    = 20 * time.Millisecond
	// goodbye is what streams have to say why they end.
	goodbye = 2 * time.Second
	// maxProjectName bounds what a request calls a project.
	maxProjectName = 64
)

// Projects knows what callers may do elsewhere, and when any of it changes.
type Projects interface {
	// EnterProject gives a caller in another project, by ID or name. Returns
	// NotFound for what is not the caller's, as for what does not exist.
	EnterProject(ctx context.Context, by vmm.Caller, nameOrID string) (vmm.Caller, error)
	// Changed gives a channel that is closed when what credentials give may
	// have changed after the call.
	Changed() <-chan struct{}
}

// GuardConfig is what a guard needs.
type GuardConfig struct {
	Authenticator Authenticator
	// Projects may be nil: then there are no others, and changes are found by looking.
	Projects Projects
	// Refused says what to answer to who shows credentials that are refused with
	// an error; nil: the error. The caller is known where the credentials are
	// valid and do not give what was asked for, such as another project.
	Refused func(ctx context.Context, by vmm.Caller, err error) error
	// Stopping ends the guard's own work; nil: never.
	Stopping context.Context
	// Recheck is how often credentials of requests under way are looked at; 0: 10 s.
	Recheck time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Guard lets requests with valid credentials through, and ends them when the
// credentials hold no longer: streams promptly, the rest a moment later.
type Guard struct {
	GuardConfig
	watching sync.Once

	mu   sync.Mutex
	open map[*session]struct{}
}

// NewGuard makes a guard.
func NewGuard(c GuardConfig) *Guard {
	if c.Stopping == nil {
		c.Stopping = context.Background()
	}
	if c.Recheck <= 0 {
		c.Recheck = recheckEvery
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Guard{GuardConfig: c, open: map[*session]struct{}{}}
}

// session is a request for as long as it is answered.
type session struct {
	guard   *Guard
	caller  vmm.Caller
	token   string
	project string // that was named
	need    atomic.Pointer[domain.Scope]

	ended  context.Context
	end    context.CancelCauseFunc
	cancel context.CancelCauseFunc // of the request itself
}

// Require lets only requests with valid credentials through.
func (g *Guard) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, changed, err := g.admit(r)
		if err != nil {
			refuse(w, err)
			return
		}
		if rec := middleware.RecordOf(r.Context()); rec != nil {
			rec.Caller = s.caller.Name
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(context.Canceled)
		s.cancel = cancel
		s.ended, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
		defer s.end(context.Canceled)
		defer g.enter(s, changed)()
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, sessionKey{}, s)))
	})
}

// admit finds out who asks. changed is closed when that may no longer be so.
func (g *Guard) admit(r *http.Request) (*session, <-chan struct{}, error) {
	token, err := Token(r)
	if err != nil {
		return nil, nil, err
	}
	named := r.Header.Values(wire.HeaderProject)
	if len(named) > 1 || len(named) == 1 && (named[0] == "" || len(named[0]) > maxProjectName) {
		return nil, nil, errors.New(errors.InvalidArgument, "the request does not name one project").WithField("header." + wire.HeaderProject)
	}
	s := &session{guard: g, token: token}
	if len(named) == 1 {
		s.project = named[0]
	}
	changed := g.changed()
	s.caller, err = g.identify(r.Context(), s)
	if err != nil && g.Refused != nil {
		err = g.Refused(r.Context(), s.caller, err)
	}
	return s, changed, err
}

func (g *Guard) changed() <-chan struct{} {
	if g.Projects == nil {
		return nil
	}
	return g.Projects.Changed()
}

func (g *Guard) identify(ctx context.Context, s *session) (vmm.Caller, error) {
	caller, err := g.Authenticator.Authenticate(ctx, s.token)
	if err != nil || s.project == "" || s.project == caller.ProjectID.String() {
		return caller, err
	}
	if g.Projects == nil {
		return caller, errors.New(errors.NotFound, "there is no project %q", s.project).WithField("header." + wire.HeaderProject)
	}
	there, err := g.Projects.EnterProject(ctx, caller, s.project)
	if err != nil {
		return caller, err
	}
	return there, nil
}

// Confirm asks once more whether the request's credentials hold, for what
// must not be given to who had them a moment ago. Returns Unauthenticated.
func Confirm(ctx context.Context) error {
	s := sessionOf(ctx)
	if s == nil || s.guard == nil {
		return errRefused
	}
	_, err := s.guard.identify(ctx, s)
	return err
}

// enter takes a request among those whose credentials are looked at again;
// leave takes it out.
func (g *Guard) enter(s *session, changed <-chan struct{}) (leave func()) {
	g.watching.Do(func() { go g.watch() })
	g.mu.Lock()
	g.open[s] = struct{}{}
	g.mu.Unlock()
	select {
	case <-changed: // after who asks was found, and before it was among the others
		g.recheck(s)
	default:
	}
	var expiry *time.Timer
	if !s.caller.Until.IsZero() {
		expiry = time.AfterFunc(s.caller.Until.Sub(g.Now()), func() { g.recheck(s) })
	}
	return func() {
		if expiry != nil {
			expiry.Stop()
		}
		g.mu.Lock()
		delete(g.open, s)
		g.mu.Unlock()
	}
}

// watch looks at everybody's credentials whenever some have changed, and now
// and then.
func (g *Guard) watch() {
	tick := time.NewTicker(g.Recheck)
	defer tick.Stop()
	for {
		changed := g.changed() // taken before looking, so that no change slips in between
		for _, s := range g.all() {
			g.recheck(s)
		}
		select {
		case <-time.After(recheckRest): // whoever keeps changing things keeps us no busier than that
		case <-g.Stopping.Done():
			return
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-g.Stopping.Done():
			return
		}
	}
}

func (g *Guard) all() []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*session, 0, len(g.open))
	for s := range g.open {
		out = append(out, s)
	}
	return out
}

// recheck ends a request whose credentials do not give any longer what it
// needs. While nobody can tell, it goes on.
func (g *Guard) recheck(s *session) {
	if s.ended.Err() != nil {
		return
	}
	// Not in the request's name: that it fails is no fault of its client's, and
	// no limit on those may stand in the place of the answer.
	ctx, cancel := context.WithTimeout(context.Background(), recheckTimeout)
	defer cancel()
	now, err := g.identify(ctx, s)
	need := s.need.Load()
	switch {
	case errors.HasCode(err, errors.Unauthenticated), errors.HasCode(err, errors.NotFound), errors.HasCode(err, errors.PermissionDenied):
	case err != nil:
		return
	case now.ProjectID != s.caller.ProjectID:
	case need != nil && !now.Scopes.Allows(*need):
		err = lacks(*need, now.Scopes.Widest())
	default:
		return
	}
	if err == nil || errors.HasCode(err, errors.Unauthenticated) {
		err = errors.New(errors.Unauthenticated, "the key or token is no longer valid").WithHint("it has expired or was revoked")
	}
	s.end(Revoked{err})
	time.AfterFunc(goodbye, func() { s.cancel(Revoked{err}) })
}

// Revoked is the cause of the end of a request whose credentials hold no longer.
type Revoked struct{ error }

func (r Revoked) Unwrap() error { return r.error }
