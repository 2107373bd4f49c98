package api

import (
	"encoding/binary"
	"errors"
)

// FrameKind is the first byte of a binary frame of an execution stream.
type FrameKind byte

// The kinds of binary frames. After the kind come eight bytes of big-endian
// offset and the data.
const (
	FrameStdin  FrameKind = 0 // client to server; offset in the whole input, or AppendOffset
	FrameStdout FrameKind = 1 // server to client; offset among the bytes of all streams
	FrameStderr FrameKind = 2
	FramePTY    FrameKind = 3
)

// AppendOffset as a stdin frame's offset appends; such a frame is not
// recognised when it is sent twice.
const AppendOffset int64 = -1

// Sizes on an execution stream.
const (
	FrameHeaderBytes = 9
	// MaxStdinFrameBytes bounds the data of one stdin frame.
	MaxStdinFrameBytes = 256 << 10
	// StdinWindowBytes is how much input a client may have sent beyond the
	// last stdin_ack. Beyond it the server stops reading the socket, controls
	// included, until the command has read.
	StdinWindowBytes = 1 << 20
	// MaxControlBytes bounds a text frame.
	MaxControlBytes = 1 << 20
)

// ErrFrame is a binary frame that is shorter than its header.
var ErrFrame = errors.New("frame is shorter than its header")

// AppendFrame appends a binary frame to dst and returns it.
func AppendFrame(dst []byte, kind FrameKind, offset int64, data []byte) []byte {
	dst = append(dst, byte(kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(offset))
	return append(dst, data...)
}

// ParseFrame takes a binary frame apart. Data shares memory with frame.
// Returns ErrFrame.
func ParseFrame(frame []byte) (kind FrameKind, offset int64, data []byte, err error) {
	if len(frame) < FrameHeaderBytes {
		return 0, 0, nil, ErrFrame
	}
	return FrameKind(frame[0]), int64(binary.BigEndian.Uint64(frame[1:FrameHeaderBytes])), frame[FrameHeaderBytes:], nil
}

// Types of text frames on an execution stream.
const (
	// Client to server.
	ControlStart      = "start" // first frame on a VM's stream
	ControlCloseStdin = "close_stdin"
	ControlResize     = "resize"
	ControlSignal     = "signal"
	// Server to client.
	ControlStarted  = "started"
	ControlGap      = "gap"
	ControlExit     = "exit" // last; the server then closes with 1000
	ControlError    = "error"
	ControlStdinAck = "stdin_ack"
)

// WebSocket close codes beside those of RFC 6455.
const (
	// CloseRestart (1012) says that the server goes away and the stream can be
	// taken up again at the client's offset.
	CloseRestart = 1012
	// CloseRefused says that an error frame told why the stream cannot go on.
	CloseRefused = 4000
)

// StartControl is the first text frame from a client on a VM's stream. With an
// ID that is known already, the stream takes that execution up at Offset.
type StartControl struct {
	Type string `json:"type" enum:"start"`
	StartExecution
	Offset int64 `json:"offset,omitempty" minimum:"0" doc:"Where to begin with the output"`
}

// ClientControl is a later text frame from a client.
type ClientControl struct {
	Type   string `json:"type" enum:"close_stdin,resize,signal"`
	Cols   uint16 `json:"cols,omitempty"`
	Rows   uint16 `json:"rows,omitempty"`
	Signal string `json:"signal,omitempty" maxLength:"12"`
}

// ServerControl is a text frame from the server. Which fields mean something
// depends on Type; see the Control constants.
type ServerControl struct {
	Type string `json:"type" enum:"started,gap,exit,error,stdin_ack"`

	// started
	ExecutionID string `json:"execution_id,omitempty"`
	PID         int32  `json:"pid,omitempty"`
	Offset      int64  `json:"offset,omitempty" doc:"started: where output begins; stdin_ack: input taken so far"`
	// StdinOffset is for a client that takes up an execution somebody else sent
	// input to: its first byte belongs there.
	StdinOffset *int64 `json:"stdin_offset,omitempty" doc:"started: input taken so far, where the server knows it"`

	// gap
	From int64 `json:"from,omitempty"`
	To   int64 `json:"to,omitempty"`

	// exit
	Exit *OutputExit `json:"exit,omitempty"`

	// error
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Field   string `json:"field,omitempty"`
}
