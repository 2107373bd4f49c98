package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	ae "github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// drainTimeout is how long a client may take to send the rest of a body that
// the handler did not want, before its connection is closed. The answer waits
// for that, so it is shorter than the time allowed for writing.
const drainTimeout = 5 * time.Second

// body is a request body whose every read has a deadline of its own: slow is
// fine, stalled is not. Between reads there is none, because on HTTP/1 the
// server reads ahead to notice that a client went away, and an expired
// deadline there would cancel a request that is merely long.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	stall   time.Duration
	http2   bool
	over    atomic.Bool // read to its end, or broken
	duplex  atomic.Bool // read on while the answer is written
	asked   bool        // comes when it is asked for
	until   time.Time   // when it must have come; zero: whenever
	dog     watchdog    // of reads on HTTP/2
}

// FinishBody has a request's body come by a time, at whatever pace. It is
// called before the body is read.
func FinishBody(ctx context.Context, until time.Time) {
	if rec := RecordOf(ctx); rec != nil && rec.body != nil {
		rec.body.until = until
	}
}

// Duplex lets a request's body be read on when the answer has begun. Without
// it, on HTTP/1, the server reads the rest itself then and closes the body, at
// which who passes it on at that moment takes the request for broken.
func Duplex(ctx context.Context) {
	if rec := RecordOf(ctx); rec != nil && rec.body != nil && !rec.body.http2 && rec.body.control.EnableFullDuplex() == nil {
		rec.body.duplex.Store(true)
	}
}

func (b *body) Read(p []byte) (int, error) {
	deadline := b.until
	if b.stall > 0 {
		if at := time.Now().Add(b.stall); deadline.IsZero() || at.Before(deadline) {
			deadline = at
		}
	}
	b.bound(deadline)
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.over.Store(true)
		fallthrough
	case err == nil:
		b.unbound(deadline)
		return n, err
	}
	b.over.Store(true)
	if b.http2 {
		b.unbound(deadline) // nothing of the body comes any more
	} // else an expired deadline stays: the server, too, tries to read the rest
	return n, readError(err)
}

// bound has a read end by a deadline; zero: never.
func (b *body) bound(deadline time.Time) {
	switch {
	case deadline.IsZero():
	case b.http2:
		b.dog.start(time.Until(deadline))
	default:
		_ = b.control.SetReadDeadline(deadline)
	}
}

func (b *body) unbound(deadline time.Time) {
	switch {
	case deadline.IsZero():
	case b.http2:
		b.dog.stop()
	default:
		_ = b.control.SetReadDeadline(time.Time{})
	}
}

// answered is called when the answer begins.
func (b *body) answered() {
	if b != nil && !b.duplex.Load() {
		b.drain()
	}
}

// drain is called when the answer begins, and after the handler: on HTTP/1 the
// server then reads what the handler left, and that has to come soon.
func (b *body) drain() {
	if b != nil && !b.http2 && !b.over.Load() && b.stall > 0 {
		_ = b.control.SetReadDeadline(time.Now().Add(min(drainTimeout, b.stall/2)))
	}
}

// maxLeft bounds what is read of a body that nobody wanted, as net/http does.
const maxLeft = 256 << 10

// unread reports whether there is something left of a body that may be read while the
// answer is written. The server itself would find its end only when the handler has
// returned, begin to watch the connection for its client's going away then, and take
// that for a second reader of it when it wants the next request: the connection would end
// without a word. Where the body was to be asked for (RFC 9110, 10.1.1) the server closes, and says so.
func (b *body) unread() bool {
	return b != nil && b.duplex.Load() && !b.over.Load() && !b.asked
}

// finish reads that.
func (b *body) finish() {
	b.drain()
	_, _ = io.CopyN(io.Discard, b.ReadCloser, maxLeft)
}

// readError gives errors of reading a body our vocabulary.
func readError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &tooLarge):
		return ae.Wrap(err, ae.TooLarge, "the request body exceeds %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ae.Wrap(err, ae.DeadlineExceeded, "the request body stalled, or came too slowly")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ae.Wrap(err, ae.Canceled, "the request body ended early")
	}
	return ae.Wrap(err, ae.Canceled, "the request body could not be read")
}

// LimitBody bounds a request's body. What is beyond fails to be read with TooLarge.
// A body that says beforehand that it is larger is refused at once.
func LimitBody(w http.ResponseWriter, r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return ae.New(ae.TooLarge, "the request body of %d bytes exceeds %d bytes", r.ContentLength, limit)
	}
	r.Body = &limited{ReadCloser: http.MaxBytesReader(w, r.Body, limit)}
	return nil
}

type limited struct{ io.ReadCloser }

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	var coded *ae.Error
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &coded) {
		err = readError(err)
	}
	return n, err
}
