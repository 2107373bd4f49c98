package nodelink

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/service"
)

// Handler serves a node, and what its process logs to files; nil: there are none.
// It wants HTTP/2, and HTTP/1.1 beside it for connections to ports (see [ServerTLS]).
func Handler(node service.Node, logs serverlog.Source, log *slog.Logger) http.Handler {
	s := &server{node: node, log: log, mux: http.NewServeMux()}
	s.executions()
	s.machines()
	s.files()
	s.volumes()
	s.work()
	s.logs(logs)
	s.mux.HandleFunc("POST "+Prefix+"dial", s.dial)
	return s.mux
}

type server struct {
	node service.Node
	log  *slog.Logger
	mux  *http.ServeMux
}

// answers serves a call that takes a value and answers with one.
func answers[In, Out any](s *server, name string, do func(context.Context, In) (Out, error)) {
	takes(s, name, func(ctx context.Context, in In, _ io.Reader) (Out, error) { return do(ctx, in) })
}

// takes serves a call that takes a value and bytes, and answers with a value.
func takes[In, Out any](s *server, name string, do func(context.Context, In, io.Reader) (Out, error)) {
	streams(s, name, func(ctx context.Context, in In, body io.Reader, out *answer) error {
		v, err := do(ctx, in, body)
		if err != nil {
			return err
		}
		return out.hold(v) // and goes with the end of the answer
	})
}

// streams serves a call whose answer is a value and bytes.
func streams[In any](s *server, name string, do func(context.Context, In, io.Reader, *answer) error) {
	s.mux.HandleFunc("POST "+Prefix+name, func(w http.ResponseWriter, r *http.Request) {
		out := &answer{w: w, flush: http.NewResponseController(w).Flush}
		var in In
		body := bufio.NewReader(r.Body)
		if err := readLine(body, &in); err != nil {
			out.end(r.Context(), s, name, errors.Wrap(err, errors.InvalidArgument, "what the call %s was given is not understood", name))
			return
		}
		out.end(r.Context(), s, name, do(r.Context(), in, body, out))
	})
}

// answer is the answer to a call. What is written is sent at once.
type answer struct {
	w     http.ResponseWriter
	flush func() error
	begun bool
}

// begin sends the value.
func (a *answer) begin(v any) error {
	if err := a.hold(v); err != nil {
		return err
	}
	return away(a.flush())
}

// hold is begin for a value that goes with what is sent next.
func (a *answer) hold(v any) error {
	text, err := line(v)
	if err != nil {
		return err
	}
	a.begun = true
	return a.add(text)
}

// add is Write for what goes with what is sent next.
func (a *answer) add(p []byte) error {
	_, err := a.w.Write(p)
	return away(err)
}

func (a *answer) Write(p []byte) (int, error) {
	n, err := a.w.Write(p)
	if err == nil {
		err = a.flush()
	}
	return n, away(err)
}

// away is the error of what cannot be sent, as who called is not there to be told:
// no fault of the node's.
func away(err error) error {
	if err == nil {
		return nil
	}
	return errors.Wrap(err, errors.Canceled, "whoever called has gone")
}

// end tells how the call went.
func (a *answer) end(ctx context.Context, s *server, name string, err error) {
	if err == nil {
		s.log.DebugContext(ctx, "a gateway's call", "call", name)
	} else {
		s.log.DebugContext(ctx, "a gateway's call", "call", name, "error", err)
	}
	switch {
	case err == nil:
		return
	case a.begun:
		setTrailer(a.w.Header(), err)
	default:
		f := toWire(err)
		a.w.WriteHeader(errors.HTTPStatus(f.Code))
		_ = json.NewEncoder(a.w).Encode(f)
	}
	if errors.HasCode(err, errors.Internal) {
		s.log.ErrorContext(ctx, "a call of a gateway failed", "call", name, "error", err)
	}
}
