// Package middleware holds what every request passes through: request IDs, the
// access log, metrics, recovery from panics, deadlines against stalled peers
// and bounds on bodies.
package middleware

import (
	"net/http"
	"sync/atomic"
	"time"
)

// recorder is the outermost ResponseWriter: it remembers what was answered and
// has a deadline for every write, so that a client that has stopped reading
// holds a connection for no longer than stall.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	http2   bool
	stall   time.Duration
	status  int
	bytes   int64
	err     atomic.Pointer[error]
	armed   time.Time // when the write deadline was last set, on HTTP/1
	dog     watchdog  // of writes on HTTP/2
	in      *body     // the request's; nil where there is none
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// NoteError remembers why the request failed.
func (w *recorder) NoteError(err error) {
	if err != nil {
		w.err.Store(&err)
	}
}

// Started reports whether the answer's header has been sent.
func (w *recorder) Started() bool { return w.status != 0 }

func (w *recorder) begin(status int) {
	w.status = status
	w.in.answered()
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.begin(status)
	}
	if !w.http2 { // where it waits for nothing
		w.arm()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.begin(http.StatusOK)
	}
	w.arm()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	w.disarm()
	return n, err
}

// FlushError sends what is buffered.
func (w *recorder) FlushError() error {
	if w.status == 0 {
		w.begin(http.StatusOK)
	}
	w.arm()
	err := w.control.Flush()
	w.disarm()
	return err
}

// Flush is FlushError for callers that know only http.Flusher.
func (w *recorder) Flush() { _ = w.FlushError() }

// arm sets the write deadline. On HTTP/1 now and then: precision is not needed
// and streams write often.
func (w *recorder) arm() {
	if w.stall <= 0 {
		return
	}
	if w.http2 {
		w.dog.start(w.stall)
		return
	}
	if now := time.Now(); now.Sub(w.armed) > w.stall/8 {
		w.armed = now
		_ = w.control.SetWriteDeadline(now.Add(w.stall))
	}
}

// disarm lifts the deadline between writes on HTTP/2, where it would reset a
// stream that merely has nothing to say. On HTTP/1 it stays, for the server's
// own last flush, and every later write moves it first.
func (w *recorder) disarm() {
	if w.http2 && w.stall > 0 {
		w.dog.stop()
	}
}

// dismiss ends the watch over reads and writes, as the handler returns.
func (w *recorder) dismiss() {
	w.dog.dismissed()
	if w.in != nil {
		w.in.dog.dismissed()
	}
}
