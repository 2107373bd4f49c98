package client

import (
	"encoding/json"
	"io"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// maxSignals bounds the signals that wait for a connection.
const maxSignals = 16

// stdinPiece is how much input one frame carries: little enough that a signal
// behind it does not wait long.
const stdinPiece = 64 << 10

// input is what goes to a command: bytes, which are kept until the server has
// acknowledged them and sent again over a new connection, and controls. At
// most a window of bytes is kept; then the writer waits.
//
// Offsets count the whole input. Where the offset at which this client's
// input begins is not known (an execution that somebody else sent input to,
// and a server that does not tell), it counts from zero and bytes are sent to
// be appended: what was on its way when a connection broke is then not sent
// again, since the command may have it.
type input struct {
	mu       sync.Mutex
	room     sync.Cond     // of mu: buf shrank, or the input is over
	wake     chan struct{} // capacity one: there may be something to send
	buf      []byte        // from acked on
	acked    int64         // the command has everything below
	sent     int64         // given to the present connection
	appends  bool          // the server's offsets are not known
	linkBase int64         // acked when the present connection began; for appends
	eof      bool          // no more input comes
	eofSent  bool
	size     *api.PTYSize
	sizeSent bool
	signals  []string
	over     bool // nothing is sent any more
}

func newInput(appends bool) *input {
	in := &input{wake: make(chan struct{}, 1), appends: appends}
	in.room.L = &in.mu
	return in
}

func (in *input) notify() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// write keeps p to be sent, waiting for room.
func (in *input) write(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for {
		if in.over || in.eof {
			return n, io.ErrClosedPipe
		}
		k := min(len(p)-n, api.StdinWindowBytes-len(in.buf))
		in.buf = append(in.buf, p[n:n+k]...)
		if n += k; k > 0 {
			in.notify()
		}
		if n == len(p) {
			return n, nil
		}
		in.room.Wait()
	}
}

func (in *input) closeStdin() { in.change(func() { in.eof = true }) }

func (in *input) resize(size api.PTYSize) {
	in.change(func() { in.size, in.sizeSent = &size, false })
}

func (in *input) signal(name string) error {
	var err error
	in.change(func() {
		if len(in.signals) == maxSignals {
			err = errors.New(errors.Unavailable, "%d signals are waiting for the server to come back", maxSignals)
			return
		}
		in.signals = append(in.signals, name)
	})
	return err
}

// stop ends the input: writers no longer wait.
func (in *input) stop() { in.change(func() { in.over = true }) }

func (in *input) change(f func()) {
	in.mu.Lock()
	f()
	in.mu.Unlock()
	in.room.Broadcast()
	in.notify()
}

// connected prepares for a new connection. taken is how much input the
// command has as the server says, or nil. It tells how many bytes may be lost.
func (in *input) connected(taken *int64) (uncertain int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case taken != nil && in.appends:
		// The server knows better: from here on offsets are its own. Nothing
		// of what an earlier connection appended is in doubt any more.
		in.forget(in.sent)
		in.appends, in.acked = false, *taken
	case taken != nil:
		in.forget(*taken)
	case in.appends:
		uncertain = in.sent - in.acked
		in.forget(in.sent)
		in.linkBase = in.acked
	}
	in.sent, in.eofSent, in.sizeSent = in.acked, false, false
	in.room.Broadcast()
	in.notify()
	return uncertain
}

// ack takes the server's word for how much input the command has.
func (in *input) ack(offset int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.appends {
		offset += in.linkBase
	}
	in.forget(min(offset, in.sent))
	in.room.Broadcast()
}

// forget drops bytes below an offset.
func (in *input) forget(below int64) {
	n := min(below-in.acked, int64(len(in.buf)))
	if n <= 0 {
		return
	}
	in.acked += n
	if in.buf = in.buf[n:]; len(in.buf) == 0 {
		in.buf = nil
	}
}

// unacked reports whether input is on its way.
func (in *input) unacked() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sent > in.acked
}

// take gives the next frame to send, appended to dst; ok is false when there
// is nothing. What it gives counts as sent over this connection.
func (in *input) take(dst []byte) (frame []byte, text, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.over:
		return nil, false, false
	case in.size != nil && !in.sizeSent:
		in.sizeSent = true
		return control(dst, api.ClientControl{Type: api.ControlResize, Cols: in.size.Cols, Rows: in.size.Rows}), true, true
	case len(in.signals) > 0:
		name := in.signals[0]
		in.signals = in.signals[1:]
		return control(dst, api.ClientControl{Type: api.ControlSignal, Signal: name}), true, true
	}
	if rest := in.buf[in.sent-in.acked:]; len(rest) > 0 {
		piece := rest[:min(len(rest), stdinPiece)]
		offset := in.sent
		if in.appends {
			offset = api.AppendOffset
		}
		in.sent += int64(len(piece))
		return api.AppendFrame(dst, api.FrameStdin, offset, piece), false, true
	}
	if in.eof && !in.eofSent {
		in.eofSent = true
		return control(dst, api.ClientControl{Type: api.ControlCloseStdin}), true, true
	}
	return nil, false, false
}

func control(dst []byte, m api.ClientControl) []byte {
	text, _ := json.Marshal(m) // strings and numbers always encode
	return append(dst, text...)
}
