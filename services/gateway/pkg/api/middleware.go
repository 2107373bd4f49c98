package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	ae "github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// statusContext lets a transformed error change the status that huma chose.
type statusContext struct {
	humaContext
	override int
}

// humaContext is embedded under another name than that of its method Context.
type humaContext = huma.Context

// Unwrap is humachi's way to the request.
func (c *statusContext) Unwrap() huma.Context { return c.humaContext }

// SetStatus sends the status.
func (c *statusContext) SetStatus(status int) {
	if c.override != 0 {
		status = c.override
	}
	c.humaContext.SetStatus(status)
}

// around is what every operation passes through, outside of huma's decoding:
// the route's name for metrics, the right to call it, the bounded body and
// idempotency.
func (a *API) around(op huma.Operation, opt options) func(huma.Context, func(huma.Context)) {
	wantsJSON := op.Method == http.MethodPost || op.Method == http.MethodPatch || op.Method == http.MethodPut
	if op.RequestBody != nil {
		for media := range op.RequestBody.Content {
			wantsJSON = wantsJSON && media == "application/json"
		}
	}
	return func(hc huma.Context, next func(huma.Context)) {
		r, w := humachi.Unwrap(hc)
		if rec := middleware.RecordOf(r.Context()); rec != nil {
			rec.Route = op.Path
		}
		if !opt.open {
			if err := auth.Allow(r.Context(), opt.scope); err != nil {
				writeProblem(w, err)
				return
			}
		}
		if err := emptyQuery(hc.Operation().Parameters, r); err != nil {
			writeProblem(w, err)
			return
		}
		if !wantsJSON {
			next(&statusContext{humaContext: hc})
			return
		}
		if a.BodyTimeout > 0 {
			middleware.FinishBody(r.Context(), time.Now().Add(a.BodyTimeout))
		}
		body, err := readBody(w, r, opt.body)
		if err != nil {
			writeProblem(w, err)
			return
		}
		r2 := *r
		r2.Body = io.NopCloser(bytes.NewReader(body))
		run := func(w http.ResponseWriter, r *http.Request) {
			next(&statusContext{humaContext: humachi.NewContext(hc.Operation(), r, w)})
		}
		if op.Method != http.MethodPost || opt.secret || opt.open { // the others are idempotent by themselves
			run(w, &r2)
			return
		}
		a.idempotent(w, &r2, body, opt.recognises, run)
	}
}

// emptyQuery refuses a parameter without a value where that is none of its
// values. huma takes it for absent, which would hide a client's mistake.
func emptyQuery(params []*huma.Param, r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query := r.URL.Query()
	for _, p := range params {
		free := p.Schema.Type == huma.TypeString && len(p.Schema.Enum) == 0 && p.Schema.Pattern == "" && p.Schema.Format == ""
		if p.In == "query" && !free && slices.Contains(query[p.Name], "") {
			return ae.New(ae.InvalidArgument, "the parameter %s has no value", p.Name).WithField("query." + p.Name).
				WithHint("leave it out, or give it a value")
		}
	}
	return nil
}

// readBody reads a whole body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if err := middleware.LimitBody(w, r, limit); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if n := r.ContentLength; n > 0 {
		buf.Grow(int(min(n, 64<<10)) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(r.Body)
	return buf.Bytes(), err
}

func asProblem(err error) error {
	var p *problem.Response
	if errors.As(err, &p) {
		return p
	}
	return problem.From(err)
}

func writeProblem(w http.ResponseWriter, err error) { problem.Write(w, err) }
