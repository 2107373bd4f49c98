// Package auth tells who asks. Credentials come from headers only, never from
// cookies or URLs, so that no other site can make a browser use them.
package auth

import (
	"context"
	"net/http"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// Authenticator turns a token into a caller. It is the seam for other kinds of
// credentials.
type Authenticator interface {
	// Authenticate returns Unauthenticated for a token that is unknown,
	// expired or revoked, without saying which.
	Authenticate(ctx context.Context, token string) (vmm.Caller, error)
}

// sessionKey finds the session in a context.
type sessionKey struct{}

func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

// CallerFrom gives who asks, as [Guard.Require] found it. Handlers pass it on
// explicitly; the context carries it only between middleware and handler.
func CallerFrom(ctx context.Context) vmm.Caller {
	if s := sessionOf(ctx); s != nil {
		return s.caller
	}
	return vmm.Caller{}
}

// WithCaller is for handlers that authenticate in another way, and for tests.
func WithCaller(ctx context.Context, c vmm.Caller) context.Context {
	return context.WithValue(ctx, sessionKey{}, &session{caller: c, ended: context.Background()})
}

// Ended gives a context that ends when the request's credentials hold no
// longer, with the reason as its cause, a moment before the request's own
// context does: a stream can say so. Without credentials it never ends.
func Ended(ctx context.Context) context.Context {
	if s := sessionOf(ctx); s != nil {
		return s.ended
	}
	return context.Background()
}

// Allow reports whether the caller may do what needs a scope; the request
// goes on only as long as that is so. Returns PermissionDenied.
func Allow(ctx context.Context, need domain.Scope) error {
	s := sessionOf(ctx)
	if s == nil {
		return lacks(need, "")
	}
	if !s.caller.Scopes.Allows(need) {
		return lacks(need, s.caller.Scopes.Widest())
	}
	s.need.Store(&need)
	return nil
}

func lacks(need, has domain.Scope) error {
	if has == "" {
		has = "none"
	}
	return errors.New(errors.PermissionDenied, "this needs the scope %s", need).
		WithHint("the credentials have the scope %s; use others that have %s", has, need)
}

// RequireScope lets only callers through that have a scope; [Guard.Require]
// has found out who they are.
func RequireScope(need domain.Scope, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := Allow(r.Context(), need); err != nil {
			problem.Write(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, err error) {
	if errors.HasCode(err, errors.Unauthenticated) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="aetherium"`) // RFC 6750 §3
	}
	problem.Write(w, err)
}

// Token finds the request's credential: Authorization: Bearer, X-API-Key, or,
// on a WebSocket handshake, the subprotocol bearer.<key>. Returns
// Unauthenticated where there is none and InvalidArgument where two differ.
func Token(r *http.Request) (string, error) {
	var found string
	add := func(t string) bool {
		if found != "" && found != t {
			return false
		}
		found = t
		return true
	}
	ok := true
	for _, v := range r.Header.Values("Authorization") {
		scheme, t, _ := strings.Cut(v, " ")
		if strings.EqualFold(scheme, "Bearer") && t != "" {
			ok = ok && add(strings.TrimSpace(t))
		}
	}
	for _, v := range r.Header.Values(wire.HeaderAPIKey) {
		if v != "" {
			ok = ok && add(v)
		}
	}
	if r.Header.Get("Upgrade") != "" {
		for _, p := range Subprotocols(r.Header) {
			if t, is := strings.CutPrefix(p, wire.BearerProtocolPrefix); is && t != "" {
				ok = ok && add(t)
			}
		}
	}
	switch {
	case !ok:
		return "", errors.New(errors.InvalidArgument, "the request carries different credentials").WithHint("send one of Authorization and X-API-Key")
	case found == "":
		return "", errors.New(errors.Unauthenticated, "the request carries no key").WithHint("send Authorization: Bearer <key or token> or X-API-Key: <key>")
	}
	return found, nil
}

// Subprotocols lists what a WebSocket handshake offers (RFC 6455 §11.3.4).
func Subprotocols(h http.Header) []string {
	var out []string
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}
