package api

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// maxFieldErrors bounds an answer: a body of a megabyte can be wrong in many places.
const maxFieldErrors = 32

// transform gives every error that huma sends, its own included, the shape of
// a problem with a code. It is done here and not in huma.NewError because that
// is a global variable.
func (a *API) transform(hc huma.Context, _ string, v any) (any, error) {
	var p *problem.Response
	switch e := v.(type) {
	case *problem.Response:
		p = e
	case *huma.ErrorModel:
		p = fromHuma(e)
	default:
		return v, nil
	}
	_, w := humachi.Unwrap(hc)
	problem.Note(w, p)
	p.RequestID = w.Header().Get(wire.HeaderRequestID)
	for k, values := range p.Header() {
		w.Header()[k] = values
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if sc, ok := hc.(*statusContext); ok {
		sc.override = p.Status
	}
	return &p.Problem, nil
}

func fromHuma(e *huma.ErrorModel) *problem.Response {
	code := errors.CodeForHTTPStatus(e.Status)
	if code == errors.Internal {
		return problem.From(errors.Wrap(e, errors.Internal, "an internal error occurred"))
	}
	var fields []wire.FieldError
	for i, d := range e.Errors {
		if i == maxFieldErrors {
			break
		}
		fields = append(fields, wire.FieldError{Field: d.Location, Message: message(d.Message), Hint: hintFor(d)})
	}
	detail := e.Detail
	if code == errors.InvalidArgument && len(fields) > 0 {
		detail = "the request is not valid; see errors"
	}
	if code == errors.UnsupportedMedia {
		return problem.From(errors.New(code, "the request body's media type is not understood").WithHint("send Content-Type: application/json"))
	}
	return problem.Invalid(code, detail, fields)
}

// message puts decoder's words that name Go types into the API's.
func message(m string) string {
	if what, where, ok := strings.Cut(m, " into Go struct field "); ok { // encoding/json
		field, kind, _ := strings.Cut(where, " of type ")
		_, field, _ = strings.Cut(field, ".")
		if strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint") {
			kind = "a whole number in plain digits"
		}
		return fmt.Sprintf("%s cannot be %s: wanted is %s", field, strings.TrimPrefix(what, "json: cannot unmarshal "), kind)
	}
	if strings.HasPrefix(m, "json: ") || strings.Contains(m, "invalid character") || strings.Contains(m, "unexpected end of JSON") {
		return "the body is not the JSON that is wanted: " + strings.TrimPrefix(m, "json: ")
	}
	return m
}

// hintFor says what to do about the usual mistakes.
func hintFor(d *huma.ErrorDetail) string {
	switch {
	case strings.HasPrefix(d.Message, "unexpected property"):
		return "the field is not known here: check its spelling and where it belongs"
	case d.Message == "unknown query parameter":
		return "check the parameter's spelling; GET " + wire.BasePath + "/openapi.json lists them"
	case strings.HasPrefix(d.Message, "expected required property"):
		return "the field is needed"
	case strings.Contains(d.Location, "_ms") && strings.HasPrefix(d.Message, "expected"):
		return "durations are whole milliseconds"
	case strings.Contains(d.Location, "_bytes") && strings.HasPrefix(d.Message, "expected"):
		return "sizes are whole bytes"
	}
	return ""
}

// NotFound answers for paths that lead nowhere.
func NotFound(w http.ResponseWriter, r *http.Request) {
	problem.Write(w, errors.New(errors.NotFound, "there is nothing at this path").
		WithHint("the API is below %s; GET /docs shows it", wire.BasePath))
}

// MethodNotAllowed answers for methods that a path does not know.
func MethodNotAllowed(w http.ResponseWriter, r *http.Request) {
	if routes := chi.RouteContext(r.Context()).Routes; routes != nil {
		var plain, named []string // of a path as it is, and of one that the path could be a name in
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			asked := m
			if m == http.MethodHead {
				asked = http.MethodGet // answers it, too
			}
			switch at := chi.NewRouteContext(); {
			case !routes.Match(at, asked, r.URL.Path):
			case strings.Contains(at.RoutePattern(), "{"):
				named = append(named, m)
			default:
				plain = append(plain, m)
			}
		}
		if plain == nil {
			plain = named
		}
		for _, m := range plain {
			w.Header().Add("Allow", m) // RFC 9110 §15.5.6
		}
	}
	problem.Write(w, errors.New(errors.MethodNotAllowed, "%s is not a method of this resource", clipMethod(r.Method)))
}

func clipMethod(m string) string {
	if len(m) > 16 {
		return m[:16] + "…"
	}
	return m
}
