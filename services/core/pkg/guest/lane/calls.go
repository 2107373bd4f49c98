package lane

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Hello begins a connection of calls. An agent that is older than they are takes
// it for a request that it cannot read, and says so in HTTP.
const Hello = "AETHERIUM-CALLS\r\n\r\n"

// Method is what a call asks for.
type Method byte

// What can be called. Watch is answered by an empty message as soon as it
// watches, and then by one for each execution; after Attach the connection is a
// lane.
const (
	Handshake Method = iota + 1
	Assume
	Configure
	List
	Rename
	Forget
	Watch
	Attach
	Hold    // an agent that is older than this says Unimplemented
	Release // the same
	Quiesce // and so on
	Thaw
	Usage
	Shutdown
)

// Again reports whether a call can be made again without harm, should it not be
// known whether it was heard.
func (m Method) Again() bool { return m != Quiesce && m != Thaw && m != Shutdown }

// ErrOlder says that the agent knows no calls.
var ErrOlder = errors.New(errors.Unsupported, "the guest agent knows no calls")

const (
	kindCall = 4 // a method (1 byte) and its message
	// maxCall bounds what is asked for, and what an agent answers but to List.
	maxCall = 8 << 20
)

// AheadBytes is what either end reads ahead of a connection of calls: most messages
// are shorter, what is longer is not copied, and a host has some such connections to
// each of thousands of machines.
const AheadBytes = 512

// Caller is the host's end of a connection of calls. It is used by one
// goroutine at a time.
type Caller struct {
	conn  net.Conn
	r     *bufio.Reader
	begun bool // Hello was sent
}

// NewCaller makes the host's end of a new connection.
func NewCaller(conn net.Conn) *Caller {
	return &Caller{conn: conn, r: bufio.NewReaderSize(conn, AheadBytes)}
}

// Close ends the connection, and what is under way on it.
func (c *Caller) Close() error { return c.conn.Close() }

// Call asks for something.
func (c *Caller) Call(m Method, message []byte) error {
	frame := make([]byte, 0, len(Hello)+frameHeader+1+len(message))
	if !c.begun {
		frame = append(frame, Hello...)
		c.begun = true
	}
	frame = append(appendHeader(frame, kindCall, 1+len(message)), byte(m))
	_, err := c.conn.Write(append(frame, message...))
	return err
}

// Answer gives the next message, of limit bytes at most.
// Returns what the agent said as Connect has it, ErrOlder, and io.EOF at the end.
func (c *Caller) Answer(limit int) ([]byte, error) {
	head, err := c.r.Peek(frameHeader)
	if string(head) == "HTTP/" {
		return nil, ErrOlder
	}
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	kind, n := head[0], binary.BigEndian.Uint32(head[1:])
	low, high := uint32(0), uint32(limit) //nolint:gosec // a constant of ours
	switch kind {
	case kindMessage:
	case kindError:
		low, high = 4, maxError
	default:
		return nil, errors.New(errors.GuestFault, "a frame of kind %d", kind)
	}
	if n < low || n > high {
		return nil, errors.New(errors.GuestFault, "a frame of kind %d has %d bytes", kind, n)
	}
	_, _ = c.r.Discard(frameHeader) // it was looked at
	payload, err := readPayload(c.r, int(n))
	if err != nil {
		return nil, err
	}
	if kind == kindError {
		return nil, connect.NewWireError(connect.Code(binary.BigEndian.Uint32(payload)), errors.Plain(string(payload[4:])))
	}
	return payload, nil
}

// step is how much of a long message there is room for before it comes.
const step = 64 << 10

// readPayload takes no more memory than what has come asks for, and a step.
func readPayload(r io.Reader, n int) ([]byte, error) {
	payload := make([]byte, 0, min(n, step))
	for len(payload) < n {
		if len(payload) == cap(payload) {
			payload = append(make([]byte, 0, min(n, 2*cap(payload))), payload...)
		}
		got, err := io.ReadFull(r, payload[len(payload):cap(payload)])
		payload = payload[:len(payload)+got]
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return payload, nil
}

// Callee is the agent's end of a connection of calls, after Hello. Next may be
// used by one goroutine, all else by another.
type Callee struct {
	conn net.Conn
	from io.Reader
}

// NewCallee makes the agent's end. from is what is read.
func NewCallee(conn net.Conn, from io.Reader) *Callee { return &Callee{conn, from} }

// Next gives the next call, and io.EOF at the end.
func (c *Callee) Next() (Method, []byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(c.from, header[:]); err != nil {
		return 0, nil, err
	}
	kind, n := header[0], binary.BigEndian.Uint32(header[1:])
	if kind != kindCall || n < 1 || n > maxCall {
		return 0, nil, errors.New(errors.InvalidArgument, "a frame of kind %d with %d bytes is no call", kind, n)
	}
	payload, err := readPayload(c.from, int(n))
	if err != nil {
		return 0, nil, err
	}
	return Method(payload[0]), payload[1:], nil
}

// Answer sends a message; nil is an empty one.
func (c *Callee) Answer(m proto.Message) error {
	if m == nil {
		_, err := c.conn.Write(appendHeader(nil, kindMessage, 0))
		return err
	}
	return sendMessage(c.conn, m)
}

// Refuse answers with an error.
func (c *Callee) Refuse(code connect.Code, text string) error { return sendError(c.conn, code, text) }
