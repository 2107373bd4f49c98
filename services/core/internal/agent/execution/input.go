package execution

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

const (
	// InputBytes bounds the input that was taken and not yet written to the process.
	InputBytes = 1 << 20
	// inputPiece is how much is written at once, and so how finely written counts.
	inputPiece = 32 << 10
	// endOfTransmission is the terminal's default VEOF character (termios(3)).
	endOfTransmission = 0x04
)

var (
	errNoInput     = errors.New(errors.InvalidArgument, "the command was started without stdin")
	errInputClosed = errors.New(errors.Conflict, "stdin is closed")
)

// input carries bytes to a process's stdin or terminal, each once by its
// offset. A process that closed its stdin or ended takes the rest as
// /dev/null would: it counts as written, so that no sender hangs.
type input struct {
	file     *os.File // nil: the process has none
	terminal bool

	appending chan struct{} // held by one appender at a time

	mu      sync.Mutex
	change  watch.Change
	queue   []byte
	taken   int64 // offset after the last byte in the queue
	written int64 // of those, passed on or given up
	passed  int64 // of those, passed on
	closeAt int64 // -1: open
	broken  bool  // nobody reads any more
	closed  bool  // the end of input was passed on
	running bool  // the writer is at work
}

func newInput(file *os.File, terminal bool) *input {
	return &input{file: file, terminal: terminal, closeAt: -1, appending: make(chan struct{}, 1)}
}

// put takes input that belongs at offset. What was taken before is skipped.
// Returns OutOfRange for a hole, CapacityExhausted beyond InputBytes,
// InvalidArgument without stdin, Conflict after its end.
func (in *input) put(offset int64, data []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.file == nil:
		return errNoInput
	case offset < 0 || offset > in.taken:
		return errors.New(errors.OutOfRange, "input at offset %d leaves a hole: %d bytes were taken", offset, in.taken)
	}
	skip := min(in.taken-offset, int64(len(data)))
	return in.takeLocked(data[skip:])
}

func (in *input) takeLocked(data []byte) error {
	switch {
	case len(data) == 0:
		return nil
	case in.closeAt >= 0 && in.taken+int64(len(data)) > in.closeAt:
		return errInputClosed
	case in.taken-in.written+int64(len(data)) > InputBytes:
		return errors.New(errors.CapacityExhausted, "more than %d bytes of input are waiting for the command to read", InputBytes)
	}
	in.taken += int64(len(data))
	if in.broken {
		in.written = in.taken
		in.change.Notify()
		return nil
	}
	in.queue = append(in.queue, data...)
	in.runLocked()
	return nil
}

// add takes input after all that was taken before and waits until it is
// written. Returns what put does, and Gone when the process no longer reads.
func (in *input) add(ctx context.Context, data []byte) error {
	select {
	case in.appending <- struct{}{}:
		defer func() { <-in.appending }()
	case <-ctx.Done():
		return ctx.Err()
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for begun := false; ; begun = true {
		switch {
		case in.file == nil:
			return errNoInput
		case in.broken && in.running && begun:
			// A command may end of what it read faster than its writer returns.
			if err := in.change.Wait(ctx, &in.mu); err != nil {
				return err
			}
			continue
		case in.broken && begun && len(data) == 0 && in.passed == in.taken:
			return nil
		case in.broken:
			return errors.New(errors.Gone, "the command no longer reads its stdin")
		case in.closeAt >= 0:
			return errInputClosed
		}
		piece := data[:min(len(data), InputBytes-int(in.taken-in.written))]
		if err := in.takeLocked(piece); err != nil {
			return err
		}
		data = data[len(piece):]
		if len(data) == 0 && in.written == in.taken {
			return nil
		}
		if err := in.change.Wait(ctx, &in.mu); err != nil {
			return err
		}
	}
}

// closeAfter ends the input after offset bytes in all; below what was taken
// it ends after that. A terminal is sent its end-of-file character.
func (in *input) closeAfter(offset int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.file == nil {
		return errNoInput
	}
	if in.closeAt < 0 {
		in.closeAt = max(offset, in.taken)
		in.runLocked()
	}
	return nil
}

// runLocked starts the writer if there is something to do.
func (in *input) runLocked() {
	if !in.running && !in.closed && (len(in.queue) > 0 || in.closeAt == in.written) {
		in.running = true
		go in.run()
	}
}

func (in *input) run() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.queue) > 0 && !in.broken {
		piece := in.queue[:min(len(in.queue), inputPiece)]
		in.mu.Unlock()
		_, err := in.file.Write(piece)
		in.mu.Lock()
		if err == nil {
			in.passed += int64(len(piece))
		}
		if in.broken {
			break // the process ended meanwhile: stop has emptied the queue
		}
		if err != nil {
			in.breakLocked()
			break
		}
		in.queue = in.queue[len(piece):]
		if len(in.queue) == 0 {
			in.queue = nil
		}
		in.written += int64(len(piece))
		in.change.Notify()
	}
	if in.closeAt == in.written && !in.closed {
		in.closed = true
		if !in.terminal {
			_ = in.file.Close()
		} else if !in.broken {
			in.mu.Unlock()
			_, _ = in.file.Write([]byte{endOfTransmission})
			in.mu.Lock()
		}
	}
	in.running = false
	if in.broken {
		in.change.Notify() // add waits for what passed is
	}
	in.runLocked() // what came while the lock was free
}

func (in *input) breakLocked() {
	in.broken = true
	in.queue = nil
	in.written = in.taken
	in.change.Notify()
}

// stop says that the process has ended.
func (in *input) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.breakLocked()
	switch {
	case in.file == nil:
	case in.terminal:
		_ = in.file.SetWriteDeadline(time.Unix(1, 0)) // the output's reader still needs it
	default:
		_ = in.file.Close()
	}
}

// progress tells how much was taken and written, and when to ask again.
func (in *input) progress() (taken, written int64, changed <-chan struct{}) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.taken, in.written, in.change.Next()
}
