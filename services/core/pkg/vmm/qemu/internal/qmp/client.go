// Package qmp speaks QEMU's machine protocol (qemu docs/interop/qmp-spec) with
// a monitor that a guest may have taken over: what it says is bounded in
// length, number and time, and taken for nothing but data.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

const (
	maxLine   = 1 << 20
	maxEvents = 256 // that wait to be asked for
	// patience bounds each exchange, whatever the caller's context allows: a
	// monitor answers at once, or does not answer any more.
	patience = 30 * time.Second
)

// Client is a connection to a monitor, which serves one at a time. It is used
// by one goroutine.
type Client struct {
	conn   *net.UnixConn
	in     *bufio.Reader
	next   int
	part   []byte // of a line that a deadline cut short
	events []Event
}

// Event is something that the monitor tells unasked.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// message is anything that a monitor says.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       *int            `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *Refusal        `json:"error"`
	Event
}

// Refusal is a command's error, as the monitor has it.
type Refusal struct {
	Class string `json:"class"`
	Text  string `json:"desc"`
}

func (r *Refusal) Error() string { return r.Class + ": " + r.Text }

// Dial connects to the monitor that listens on a socket and begins to speak
// with it. Returns Conflict when nobody listens: the guest has ended.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return nil, errors.Wrap(err, errors.Conflict, "the machine does not run")
	case err != nil:
		return nil, err
	}
	return Open(ctx, conn.(*net.UnixConn)) // what a unix socket yields
}

// Open begins to speak with the monitor at the other end of a connection.
func Open(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	greeting, err := c.exchange(ctx, func() error { return nil }, func(m message) bool { return m.Greeting != nil })
	if err == nil && greeting.Greeting == nil {
		err = errors.New(errors.GuestFault, "the monitor does not say who it is")
	}
	if err == nil {
		err = c.Do(ctx, "qmp_capabilities", nil, nil)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() { _ = c.conn.Close() }

// Do has a command carried out; into, unless nil, takes what it returns.
// The error of a command that the monitor refused is Internal around a [Refusal].
// Returns GuestFault when it does not keep to the protocol.
func (c *Client) Do(ctx context.Context, command string, args, into any) error {
	return c.do(ctx, command, args, into, nil)
}

// Hand gives the monitor a file, by a name that later commands say ("fd:" and the name).
func (c *Client) Hand(ctx context.Context, name string, f *os.File) error {
	return c.do(ctx, "getfd", map[string]string{"fdname": name}, nil, f)
}

func (c *Client) do(ctx context.Context, command string, args, into any, f *os.File) error {
	c.next++
	id := c.next
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, args, id})
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot encode a command")
	}
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	answer, err := c.exchange(ctx,
		func() error {
			_, _, err := c.conn.WriteMsgUnix(append(line, '\n'), rights, nil)
			return err
		},
		func(m message) bool { return m.ID != nil && *m.ID == id })
	switch {
	case err != nil:
		return err
	case answer.Error != nil:
		return errors.Wrap(answer.Error, errors.Internal, "the monitor refused %q", command)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(answer.Return, into); err != nil {
		return errors.Wrap(err, errors.GuestFault, "the monitor's answer to %q cannot be read", command)
	}
	return nil
}

// Next waits for the next event of one of these names; others before it are
// forgotten. It waits as long as ctx allows.
func (c *Client) Next(ctx context.Context, names ...string) (Event, error) {
	for len(c.events) > 0 {
		e := c.events[0]
		c.events = c.events[1:]
		if slices.Contains(names, e.Name) {
			return e, nil
		}
	}
	release := c.limit(ctx, false)
	defer release()
	for {
		m, err := c.read(ctx)
		if err != nil {
			return Event{}, err
		}
		if slices.Contains(names, m.Name) {
			return m.Event, nil
		}
	}
}

// exchange says something and reads until the answer; events meanwhile are kept.
func (c *Client) exchange(ctx context.Context, say func() error, answers func(message) bool) (message, error) {
	release := c.limit(ctx, true)
	defer release()
	if err := say(); err != nil {
		return message{}, c.failed(ctx, err)
	}
	for range maxEvents {
		m, err := c.read(ctx)
		switch {
		case err != nil:
			return message{}, err
		case answers(m):
			return m, nil
		case m.Name != "" && len(c.events) < maxEvents:
			c.events = append(c.events, m.Event)
		}
	}
	return message{}, errors.New(errors.GuestFault, "the monitor says much and answers nothing")
}

// limit makes reads and writes end when ctx does; also after patience, if asked for.
func (c *Client) limit(ctx context.Context, patient bool) (release func()) {
	deadline, ok := ctx.Deadline()
	if most := time.Now().Add(patience); patient && (!ok || most.Before(deadline)) {
		deadline = most
	}
	_ = c.conn.SetDeadline(deadline) // the zero time is none
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done // or it would cut short what comes next
		}
	}
}

func (c *Client) read(ctx context.Context) (message, error) {
	line, err := c.line()
	if err != nil {
		return message{}, c.failed(ctx, err)
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, errors.Wrap(err, errors.GuestFault, "the monitor speaks no JSON")
	}
	return m, nil
}

// line reads one; it is valid until the next call.
func (c *Client) line() ([]byte, error) {
	for {
		part, err := c.in.ReadSlice('\n')
		if len(c.part)+len(part) > maxLine {
			return nil, errors.New(errors.GuestFault, "the monitor says more than %d bytes at once", maxLine)
		}
		c.part = append(c.part, part...)
		if err == nil {
			line := c.part
			c.part = c.part[:0]
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

// failed says what a broken connection means.
func (c *Client) failed(ctx context.Context, err error) error {
	var coded *errors.Error
	switch {
	case errors.As(err, &coded):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Its deadline may be a moment before ctx's own.
		return errors.Wrap(err, errors.DeadlineExceeded, "the monitor does not answer")
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return errors.Wrap(err, errors.Conflict, "the machine has ended")
	}
	return errors.Wrap(err, errors.Internal, "cannot speak with the monitor")
}
