package middleware

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// maxURLBytes bounds a request's URL on the API's hosts: a path of a file in a
// VM may have 4095 bytes, each escaped.
const maxURLBytes = 16 << 10

// The headers that every answer of the API's hosts carries. A page sets its own
// policy in the place of the one that allows nothing.
var secure = map[string]string{
	"Content-Security-Policy":      "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY", // for browsers that do not know frame-ancestors
}

// Secure sets the headers that keep a browser from doing more with an answer
// than was meant, and refuses URLs that are too long. strict says that nothing
// is served without TLS: a browser that is told so asks for a name by TLS alone,
// whatever the port, which would shut out all else that is served under it.
func Secure(strict bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, value := range secure {
			h.Set(name, value)
		}
		if strict && r.TLS != nil { // elsewhere it would promise what is not there
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if len(r.RequestURI) > maxURLBytes {
			err := errors.New(errors.TooLarge, "a URL of %d bytes exceeds %d bytes", len(r.RequestURI), maxURLBytes)
			problem.Write(w, problem.From(err).WithStatus(http.StatusRequestURITooLong))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Insecure takes the headers of [Secure] back, for an answer that brings its
// own and is gone over elsewhere.
func Insecure(h http.Header) {
	for name := range secure {
		h.Del(name)
	}
}

// corsMaxAge is how long a browser remembers that it may ask, in seconds.
const corsMaxAge = "600"

// CORS lets pages of the origins given call the API with a key of theirs; pages
// of others are told nothing, and their browsers then keep them from asking.
// Cookies are never meant: nobody is known by one here.
type CORS struct{ origins map[string]bool }

// NewCORS checks and takes origins such as https://console.example:8443.
// Returns InvalidArgument.
func NewCORS(field string, origins []string) (*CORS, error) {
	c := &CORS{origins: map[string]bool{}}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.ContainsAny(o, "*?#") || u.Path != "" {
			return nil, errors.New(errors.InvalidArgument, "%q is not an origin", o).WithField(field).
				WithHint("as in https://console.example; there is no wildcard")
		}
		c.origins[strings.ToLower(o)] = true
	}
	return c, nil
}

var (
	corsMethods = strings.Join([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, ", ")
	corsRequest = strings.Join([]string{
		"Authorization", "Content-Type", "Accept", "Last-Event-ID", wire.HeaderAPIKey, wire.HeaderRequestID, wire.HeaderProject,
		wire.HeaderIdempotencyKey, wire.HeaderExecution, wire.HeaderPrefer, wire.HeaderFileMode, wire.HeaderFileOwner, wire.HeaderFileGroup,
	}, ", ")
	corsAnswer = strings.Join([]string{
		"Location", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", wire.HeaderRequestID, wire.HeaderReplayed,
		"Preference-Applied", "Content-Range", wire.HeaderFileMode, wire.HeaderFileOwner, wire.HeaderFileGroup, wire.HeaderFileType,
	}, ", ")
)

// Handler answers preflights, and lets pages of the origins read answers. It
// stands in front of authentication: a preflight carries no credentials.
func (c *CORS) Handler(next http.Handler) http.Handler {
	if len(c.origins) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		origin := r.Header["Origin"]
		preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
		if len(origin) != 1 || !c.origins[strings.ToLower(origin[0])] {
			if preflight {
				problem.Write(w, errors.New(errors.PermissionDenied, "pages of this origin may not call the API"))
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", origin[0])
		if !preflight {
			h.Set("Access-Control-Expose-Headers", corsAnswer)
			next.ServeHTTP(w, r)
			return
		}
		h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Methods", corsMethods)
		h.Set("Access-Control-Allow-Headers", corsRequest)
		h.Set("Access-Control-Max-Age", corsMaxAge)
		w.WriteHeader(http.StatusNoContent)
	})
}
