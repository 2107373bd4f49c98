package trail

import (
	"net/http"

	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// answer records a request as its answer begins.
type answer struct {
	http.ResponseWriter
	trail   *Trail
	entry   *entry
	request *http.Request
	void    bool // another answer was given in the place of this one
}

// Unwrap lets others find the writer below.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// NoteError remembers why the request failed.
func (a *answer) NoteError(err error) {
	a.entry.err = err
	problem.Note(a.ResponseWriter, err)
}

// WriteHeader records the request and sends the status, or says that it could
// not be recorded.
func (a *answer) WriteHeader(status int) {
	if a.void {
		return
	}
	if status >= http.StatusOK && !a.entry.done {
		if err := a.trail.finish(a, status); err != nil {
			a.void = true
			a.Header().Del("Location")
			problem.Write(a.ResponseWriter, unrecorded(err))
			if a.entry.end != nil {
				_ = http.NewResponseController(a.ResponseWriter).Flush()
				a.entry.end()
			}
			return
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if !a.entry.done {
		a.WriteHeader(http.StatusOK)
	}
	if a.void {
		return len(p), nil
	}
	return a.ResponseWriter.Write(p)
}

// FlushError sends what is buffered.
func (a *answer) FlushError() error {
	if !a.entry.done {
		a.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Flush is FlushError for callers that know only http.Flusher.
func (a *answer) Flush() { _ = a.FlushError() }
