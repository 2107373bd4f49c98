package lane

import (
	"encoding/binary"
	"io"
	"net"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// How the connection begins.
const (
	Path     = "/aetherium/attach"
	Protocol = "aetherium-attach"
	// With HeaderMany: Many a host asks for a lane of many executions, and an agent
	// that is not older than they are says that it is one.
	HeaderMany = "Aetherium-Lane"
	Many       = "many"
)

// The kinds of frames.
const (
	kindMessage = 1
	kindOutput  = 2
	kindError   = 3
)

// Bounds on frames; a longer one breaks the protocol.
const (
	// MaxOutput is the most output in one frame.
	MaxOutput = 256 << 10
	// maxMessage bounds a message: a piece of input is the longest.
	maxMessage = 128 << 10
	maxError   = 4 << 10
)

const (
	frameHeader  = 5
	outputHeader = 9
)

// buffers hold a frame each, while there is one: a connection that is quiet
// keeps none.
var buffers = sync.Pool{New: func() any { return new([outputHeader + MaxOutput]byte) }}

type buffer = [outputHeader + MaxOutput]byte

// rooms hold an agent's output that is to be sent, likewise.
var rooms = sync.Pool{New: func() any { return new(room) }}

type room = [frameHeader + outputHeader + MaxOutput]byte

// Host is the host's end. Send and Receive may each be used by one goroutine.
type Host struct {
	conn   net.Conn
	held   *buffer // what the last message's output lies in
	output guestv1.AttachResponse_Output
}

// NewHost makes the host's end of a connection that was upgraded.
func NewHost(conn net.Conn) *Host { return &Host{conn: conn} }

// Send sends a message.
func (h *Host) Send(m *guestv1.AttachRequest) error { return sendMessage(h.conn, m) }

// Receive gives the next message. Its output is valid until the next call.
// Returns io.EOF at the end, and the agent's own errors as Connect has them.
func (h *Host) Receive() (*guestv1.AttachResponse, error) {
	h.release()
	kind, length, err := readHeader(h.conn)
	if err != nil {
		return nil, err
	}
	h.held = buffers.Get().(*buffer)
	frame, err := readFrame(h.conn, h.held, length)
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindOutput:
		h.output.Stream = guestv1.Stream(frame[0])
		h.output.Offset = int64(binary.BigEndian.Uint64(frame[1:outputHeader]))
		h.output.Data = frame[outputHeader:]
		return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_Output_{Output: &h.output}}, nil
	case kindError:
		return nil, connect.NewWireError(connect.Code(binary.BigEndian.Uint32(frame)), errors.Plain(string(frame[4:])))
	}
	defer h.release() // nothing of it is kept
	m := new(guestv1.AttachResponse)
	if err := proto.Unmarshal(frame, m); err != nil {
		return nil, err
	}
	return m, nil
}

// release lets go of the last message's memory.
func (h *Host) release() {
	if h.held != nil {
		buffers.Put(h.held)
		h.held, h.output.Data = nil, nil
	}
}

// Agent is the agent's end. Receive may be used by one goroutine, all else by
// another.
type Agent struct {
	conn net.Conn
	from io.Reader // conn, and what was read of it before
	out  *room     // a frame's headers and room for output; nil until needed
}

// NewAgent makes the agent's end of a connection that was upgraded, of which
// from may have read something already.
func NewAgent(conn net.Conn, from io.Reader) *Agent { return &Agent{conn: conn, from: from} }

// Send sends a message.
func (a *Agent) Send(m *guestv1.AttachResponse) error { return sendMessage(a.conn, m) }

// SendError sends the agent's last word.
func (a *Agent) SendError(code connect.Code, text string) error {
	return sendError(a.conn, code, text)
}

// Room is where output is put that is to be sent.
func (a *Agent) Room() []byte {
	if a.out == nil {
		a.out = rooms.Get().(*room)
	}
	return a.out[frameHeader+outputHeader:]
}

// Rest lets go of what Room gave, until it is needed again.
func (a *Agent) Rest() {
	if a.out != nil {
		rooms.Put(a.out)
		a.out = nil
	}
}

// SendOutput sends the first n bytes of Room.
func (a *Agent) SendOutput(offset int64, stream guestv1.Stream, n int) error {
	head := appendHeader(a.out[:0], kindOutput, outputHeader+n)
	head = append(head, byte(stream))
	head = binary.BigEndian.AppendUint64(head, uint64(offset))
	_, err := a.conn.Write(a.out[:len(head)+n])
	return err
}

// Receive gives the next message, and io.EOF at the end.
func (a *Agent) Receive() (*guestv1.AttachRequest, error) {
	kind, length, err := readHeader(a.from)
	if err != nil {
		return nil, err
	}
	if kind != kindMessage {
		return nil, errors.New(errors.InvalidArgument, "a frame of kind %d", kind)
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	frame, err := readFrame(a.from, b, length)
	if err != nil {
		return nil, err
	}
	m := new(guestv1.AttachRequest)
	if err := proto.Unmarshal(frame, m); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "not a control message")
	}
	return m, nil
}

func sendError(w io.Writer, code connect.Code, text string) error {
	payload := binary.BigEndian.AppendUint32(nil, uint32(code))
	payload = append(payload, text[:min(len(text), maxError-len(payload))]...)
	_, err := w.Write(append(appendHeader(nil, kindError, len(payload)), payload...))
	return err
}

func sendMessage(w io.Writer, m proto.Message) error {
	size := proto.Size(m)
	frame := appendHeader(make([]byte, 0, frameHeader+size), kindMessage, size)
	frame, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(frame, m)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

func appendHeader(dst []byte, kind byte, length int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, kind), uint32(length))
}

// readHeader reads a frame's header and checks it. Returns io.EOF where no
// frame begins.
func readHeader(r io.Reader) (kind byte, length int, err error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, 0, err
	}
	kind, n := header[0], binary.BigEndian.Uint32(header[1:])
	var low, high uint32
	switch kind {
	case kindMessage:
		high = maxMessage
	case kindOutput:
		low, high = outputHeader, outputHeader+MaxOutput
	case kindError:
		low, high = 4, maxError
	default:
		return 0, 0, errors.New(errors.GuestFault, "a frame of kind %d", kind)
	}
	if n < low || n > high {
		return 0, 0, errors.New(errors.GuestFault, "a frame of kind %d has %d bytes", kind, n)
	}
	return kind, int(n), nil
}

func readFrame(r io.Reader, b *buffer, length int) ([]byte, error) {
	_, err := io.ReadFull(r, b[:length])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b[:length], err
}
