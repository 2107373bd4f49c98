package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// maxProblemBytes bounds an error's body.
const maxProblemBytes = 64 << 10

// Problem is the server's answer behind an error.
type Problem struct{ api.Problem }

// Error tells the status and the request's ID.
func (p *Problem) Error() string {
	s := fmt.Sprintf("HTTP %d", p.Status)
	if p.RequestID != "" {
		s += ", request " + p.RequestID
	}
	return s
}

// problemFrom makes an error of an answer that is not a success. It reads the
// body but does not close it.
func problemFrom(resp *http.Response) error {
	p := &Problem{}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblemBytes))
	if json.Unmarshal(raw, &p.Problem) != nil || p.Code == "" {
		p.Problem = api.Problem{Code: string(errors.CodeForHTTPStatus(resp.StatusCode))}
		p.Detail = fmt.Sprintf("the server answered %s without saying why", resp.Status)
		if !strings.Contains(resp.Header.Get("Content-Type"), "json") {
			p.Hint = "does the URL name an Aetherium server, and not something else?"
		}
	}
	p.Status = resp.StatusCode
	if p.RequestID == "" {
		p.RequestID = resp.Header.Get(api.HeaderRequestID)
	}
	e := errors.Wrap(p, errors.Code(p.Code), "%s", p.detail())
	e.Hint, e.Field, e.RetryAfter = p.Hint, p.Field, retryAfter(resp.Header)
	return e
}

// detail names every offending input where there are several.
func (p *Problem) detail() string {
	if len(p.Errors) < 2 {
		return p.Detail
	}
	var b strings.Builder
	b.WriteString(p.Detail)
	for i, f := range p.Errors {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + f.Field + ": " + f.Message)
	}
	return b.String()
}

// retryAfter reads the header's form in seconds (RFC 9110 §10.2.3), which is
// the one the server sends.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 || n > 24*3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// ProblemOf finds the server's answer behind an error; nil where none answered.
func ProblemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return nil
}
