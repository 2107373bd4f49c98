package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// answers authenticates by a script: the first answer, then the rest.
type answers struct {
	mu   sync.Mutex
	give []func() (vmm.Caller, error)
}

func (a *answers) Authenticate(context.Context, string) (vmm.Caller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.give[0]
	if len(a.give) > 1 {
		a.give = a.give[1:]
	}
	return f()
}

// A request ends when what it was let in by ends: by itself, or because
// somebody looked.
func TestRequestsEndWithTheirCredentials(t *testing.T) {
	t.Parallel()
	by := vmm.Caller{ProjectID: domain.NewID(), Name: "x", Scopes: domain.Scopes{domain.ScopeRun}}
	ok := func(change ...func(*vmm.Caller)) func() (vmm.Caller, error) {
		return func() (vmm.Caller, error) {
			c := by
			for _, f := range change {
				f(&c)
			}
			return c, nil
		}
	}
	fails := func(code errors.Code) func() (vmm.Caller, error) {
		return func() (vmm.Caller, error) { return vmm.Caller{}, errors.New(code, "no") }
	}
	soon := func(c *vmm.Caller) { c.Until = time.Now().Add(10 * time.Millisecond) }
	for name, tc := range map[string]struct {
		give []func() (vmm.Caller, error)
		tick time.Duration
		code errors.Code
	}{
		"expired":           {[]func() (vmm.Caller, error){ok(soon), fails(errors.Unauthenticated)}, time.Hour, errors.Unauthenticated},
		"revoked elsewhere": {[]func() (vmm.Caller, error){ok(), ok(), ok(), fails(errors.Unauthenticated)}, time.Millisecond, errors.Unauthenticated},
		"narrowed": {[]func() (vmm.Caller, error){ok(), ok(func(c *vmm.Caller) {
			c.Scopes = domain.Scopes{domain.ScopeRead}
		})}, time.Millisecond, errors.PermissionDenied},
		"another project": {[]func() (vmm.Caller, error){ok(), ok(func(c *vmm.Caller) { c.ProjectID = domain.NewID() })}, time.Millisecond, errors.Unauthenticated},
		// While nobody can tell it goes on.
		"unknown for a while": {[]func() (vmm.Caller, error){ok(), fails(errors.Unavailable), fails(errors.Unavailable), fails(errors.Unauthenticated)}, time.Millisecond, errors.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stopping, stop := context.WithCancel(t.Context())
			defer stop()
			g := auth.NewGuard(auth.GuardConfig{Authenticator: &answers{give: tc.give}, Stopping: stopping, Recheck: tc.tick})
			var told, ended error
			h := g.Require(auth.RequireScope(domain.ScopeRun, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-auth.Ended(r.Context()).Done()
				told = context.Cause(auth.Ended(r.Context()))
				<-r.Context().Done() // a moment later
				ended = context.Cause(r.Context())
			})))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.Header.Set("X-API-Key", "k")
			h.ServeHTTP(httptest.NewRecorder(), r)
			var why auth.Revoked
			if !errors.As(told, &why) || !errors.As(ended, &why) || errors.CodeOf(told) != tc.code {
				t.Errorf("told %v, ended for %v", told, ended)
			}
		})
	}
}

// Without a session nothing is allowed, and nothing ends.
func TestNoSession(t *testing.T) {
	t.Parallel()
	if err := auth.Allow(t.Context(), domain.ScopeRead); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("allowed: %v", err)
	}
	if auth.Ended(t.Context()).Err() != nil || auth.CallerFrom(t.Context()).Name != "" {
		t.Error("there is somebody")
	}
	if err := auth.Confirm(t.Context()); !errors.HasCode(err, errors.Unauthenticated) {
		t.Errorf("confirmed: %v", err)
	}
}
