package straight

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	outBuffer = 4 << 10 // bytes of a request that are sent at once
	// maxInformed is how many answers of 1xx may come before the last one, as in [http.Transport].
	maxInformed = 5
)

// line is a connection that carries one request at a time.
type line struct {
	net.Conn
	raw  syscall.RawConn // nil: it is no socket
	of   *Transport
	to   string
	in   *bufio.Reader
	out  *bufio.Writer
	left int64 // bytes that may come until the answer's header is there; negative: it is
	used bool  // it has answered before

	waits  *time.Timer // ends its waiting
	closed sync.Once
}

func newLine(conn net.Conn, of *Transport, to string) *line {
	l := &line{Conn: conn, of: of, to: to, out: bufio.NewWriterSize(conn, outBuffer)}
	l.in = bufio.NewReaderSize(received{l}, of.Buffer)
	if c, ok := conn.(syscall.Conn); ok {
		l.raw, _ = c.SyscallConn() // nil with an error
	}
	return l
}

// Close closes the connection, once: a request that is given up does it, too.
func (l *line) Close() (err error) {
	l.closed.Do(func() { err = l.Conn.Close() })
	return err
}

// received is what comes on a line, bounded while a header is read.
type received struct{ *line }

// Read implements [io.Reader].
func (r received) Read(p []byte) (int, error) {
	if r.left < 0 {
		return r.Conn.Read(p)
	}
	if r.left == 0 {
		return 0, errors.New(errors.Unavailable, "the header of the server's answer is longer than %d bytes", r.of.MaxHeader)
	}
	n, err := r.Conn.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// untouched: its server has said nothing to the request, and may have closed it before that came.
func (l *line) untouched() bool { return l.used && l.left == l.of.MaxHeader }

// quiet tells that nothing has come on a connection that waits, nor its end:
// an answer to nobody, such as 408, would be taken for the next request's.
func (l *line) quiet() bool {
	quiet := false
	err := l.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN //nolint:errorlint // a number
		return true
	})
	return err == nil && quiet
}

func (l *line) roundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	resp, err := l.ask(r)
	if err != nil {
		stop()
		_ = l.Close()
		l.of.ended(l.to)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	a := &answer{body: resp.Body, line: l, ctx: ctx, stop: stop, last: resp.Close}
	if resp.Body == http.NoBody {
		a.end(io.EOF)
		return resp, nil
	}
	resp.Body = a
	return resp, nil
}

// ask sends the request and reads the answer's header.
func (l *line) ask(r *http.Request) (*http.Response, error) {
	l.left = l.of.MaxHeader
	if err := r.Write(l.out); err != nil {
		return nil, err
	}
	if err := l.out.Flush(); err != nil {
		return nil, err
	}
	for range maxInformed + 1 {
		resp, err := http.ReadResponse(l.in, r)
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New(errors.Unavailable, "the server changes the protocol, though it was not asked to")
		case resp.StatusCode >= http.StatusOK:
			l.left = -1
			return resp, nil
		}
		if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.Got1xxResponse != nil {
			if err := t.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
		}
	}
	return nil, errors.New(errors.Unavailable, "the server answers 1xx more than %d times", maxInformed)
}

// answer is the body of one; it has the line until it ends. It is for one
// goroutine at a time.
type answer struct {
	body io.ReadCloser
	line *line
	ctx  context.Context //nolint:containedctx // the request's
	stop func() bool     // has the end of ctx close the line no longer
	last bool            // the server closes the connection after it
	err  error           // why it has ended
}

// Read implements [io.Reader].
func (a *answer) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.body.Read(p)
	if err != nil {
		a.end(err)
		err = a.err
	}
	return n, err
}

// Close implements [io.Closer]: of an answer that was not read to its end, the
// connection goes too.
func (a *answer) Close() error {
	a.end(http.ErrBodyReadAfterClose)
	return nil
}

func (a *answer) end(why error) {
	if a.err != nil {
		return
	}
	l := a.line
	if a.err = why; a.stop() && why == io.EOF && !a.last && l.raw != nil && l.in.Buffered() == 0 { //nolint:errorlint // io.Reader's contract
		l.of.keep(l)
		return
	}
	if err := a.ctx.Err(); err != nil && why != io.EOF { //nolint:errorlint // as above
		a.err = err
	}
	_ = l.Close()
	l.of.ended(l.to)
}
