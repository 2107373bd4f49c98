package guest

import (
	"context"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

const (
	// inputWindow bounds the input that the agent has not written to the
	// command yet. It is kept to be sent again after a break. The agent takes
	// up to 1 MiB.
	inputWindow = 256 << 10
	inputPiece  = 64 << 10
)

// input is the stdin of one execution: bytes by offset, each of which reaches
// the command once.
type input struct {
	writing chan struct{} // held by one writer at a time

	mu      sync.Mutex
	enabled bool // set before anybody else knows of it
	shared  bool // clients in or at the machine write to it too; set as early
	pty     bool
	known   bool   // the agent has told how much it took
	base    int64  // the agent answers for what is below
	buf     []byte // from base on
	sent    int64  // handed to the present attachment
	handed  int64  // handed to any attachment
	closeAt int64  // -1: open
	closed  bool   // handed to the present attachment
	fail    error  // the execution has ended
	change  watch.Change
}

func newInput(n note) *input {
	return &input{closeAt: -1, writing: make(chan struct{}, 1), pty: n.PTY, enabled: n.PTY || n.Stdin, shared: n.AgentID != ""}
}

func (in *input) end() int64 { return in.base + int64(len(in.buf)) }

// write takes data that belongs at offset (-1: after all before it) and
// returns when the command or, after a break, the agent has all of it. wake is called as there is something to send.
func (in *input) write(ctx context.Context, offset int64, data []byte, wake func()) error {
	select {
	case in.writing <- struct{}{}:
		defer func() { <-in.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.known && in.fail == nil {
		if err := in.change.Wait(ctx, &in.mu); err != nil {
			return err
		}
	}
	switch {
	case in.fail != nil:
		return in.fail
	case !in.enabled:
		return errors.New(errors.InvalidArgument, "the command was started without stdin").WithField("stdin")
	case offset < 0:
		offset = in.end()
	case offset > in.end():
		return errors.New(errors.OutOfRange, "input at offset %d leaves a hole: there were %d bytes", offset, in.end()).WithField("offset")
	}
	last := offset + int64(len(data))
	if skip := in.end() - offset; skip >= int64(len(data)) {
		data = nil
	} else {
		data = data[skip:]
	}
	for {
		switch {
		case len(data) == 0 && in.base >= last:
			return nil // though the command ended of it
		case in.fail != nil:
			return in.fail
		case len(data) > 0 && in.closeAt >= 0:
			return errors.New(errors.Conflict, "stdin is closed")
		}
		if n := min(len(data), inputWindow-len(in.buf)); n > 0 {
			in.buf = append(in.buf, data[:n]...)
			data = data[n:]
			wake()
		}
		if err := in.change.Wait(ctx, &in.mu); err != nil {
			return err
		}
	}
}

// closeInput ends the input after what was taken.
func (in *input) closeInput(wake func()) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.fail != nil:
		return in.fail
	case !in.enabled:
		return errors.New(errors.InvalidArgument, "the command was started without stdin").WithField("stdin")
	}
	if in.closeAt < 0 {
		in.closeAt = in.end()
		wake()
	}
	return nil
}

// attached takes up what the agent tells at the start of an attachment: it
// took the input below offset, the rest is sent again.
func (in *input) attached(offset int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.known {
		// This process knows of no input before. What was written meanwhile waits.
		in.known = true
		in.base, in.handed = offset, offset
		if in.closeAt >= 0 {
			in.closeAt = in.end()
		}
	}
	in.others(offset)
	if offset < in.base || offset > max(in.base, in.handed) {
		return errors.New(errors.GuestFault, "the guest agent took input up to %d of %d to %d", offset, in.base, in.handed)
	}
	// What the agent took it will write, as long as there is an execution.
	in.drop(offset)
	in.sent, in.closed = offset, false
	in.change.Notify()
	return nil
}

// acked notes that the command has the input below offset. It reports whether
// that is news.
func (in *input) acked(offset int64) (bool, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.others(offset) {
		return true, nil
	}
	if offset > max(in.base, in.handed) {
		return false, errors.New(errors.GuestFault, "the guest agent acknowledged input up to %d, sent were %d", offset, in.handed)
	}
	if offset <= in.base {
		return false, nil
	}
	in.drop(offset)
	// What an attachment before this one sent may arrive after the agent told
	// how much it had.
	in.sent = max(in.sent, offset)
	in.change.Notify()
	return true, nil
}

// others takes up that the input is further than what was sent from here can
// have brought it: others wrote. What was not sent yet follows theirs. It
// reports whether it was so.
func (in *input) others(offset int64) bool {
	if !in.shared || offset <= max(in.base, in.handed) {
		return false
	}
	in.buf = in.buf[min(max(in.sent-in.base, 0), int64(len(in.buf))):]
	in.base, in.sent, in.handed = offset, offset, offset
	if in.closeAt >= 0 {
		in.closeAt = in.end()
	}
	in.change.Notify()
	return true
}

// drop lets go of the input below offset.
func (in *input) drop(offset int64) {
	in.buf = in.buf[offset-in.base:]
	if len(in.buf) == 0 {
		in.buf = nil
	}
	in.base = offset
}

// next gives what is to be sent: a piece of input at an offset, or the close.
func (in *input) next() (offset int64, data []byte, closing bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.known {
		return 0, nil, false
	}
	if rest := in.buf[min(in.sent-in.base, int64(len(in.buf))):]; len(rest) > 0 {
		offset, data = in.sent, append([]byte(nil), rest[:min(len(rest), inputPiece)]...)
		in.sent += int64(len(data))
		in.handed = max(in.handed, in.sent)
		return offset, data, false
	}
	if in.closeAt >= 0 && !in.closed {
		in.closed = true
		return in.closeAt, nil, true
	}
	return 0, nil, false
}

// stop releases the writers because the execution ended.
func (in *input) stop(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fail = err
	in.buf = nil
	in.change.Notify()
}

// offset is how much input there was so far; known is false until the agent
// has told what it took.
func (in *input) offset() (offset int64, known bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.end(), in.known
}
