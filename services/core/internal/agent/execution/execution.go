package execution

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
)

// Linger is how long after the exit of the main process its output is waited
// for when another process holds it open.
const Linger = 100 * time.Millisecond

// ErrTaken ends a [Hold] because a newer one took the execution.
var ErrTaken = errors.New(errors.Conflict, "a newer attachment took the execution")

// errEnded answers controls of an execution that has ended.
var errEnded = errors.New(errors.Conflict, "the execution has ended")

// End is how an execution ended.
type End struct {
	ExitCode    int // 128+n after signal n
	Signal      int
	CoreDumped  bool
	TimedOut    bool
	OutputBytes int64
}

// Execution is one command that runs or ran.
type Execution struct {
	PID     int
	Command Command
	User    string
	Foreign bool // started through the envd service

	seq   uint64 // order of start
	proc  *spawn.Process
	out   *window
	in    *input
	ended chan struct{}
	end   End
	endAt time.Time

	mu       sync.Mutex
	id       string
	exited   bool // the main process has, its output may not be read yet
	timedOut bool
	release  context.CancelCauseFunc // of the current Hold
	holdNo   uint64
}

// Ended is closed when the execution has ended and all its output is known.
func (e *Execution) Ended() <-chan struct{} { return e.ended }

// End is how it ended; ok is false while it runs.
func (e *Execution) End() (end End, ok bool) {
	select {
	case <-e.ended:
		return e.end, true
	default:
		return End{}, false
	}
}

// Offsets tells what the host acknowledged and how much output there was so far.
func (e *Execution) Offsets() (acked, end int64) {
	acked, end, _ = e.out.offsets()
	return acked, end
}

// Subscribe follows the output from now on, beside the host.
func (e *Execution) Subscribe() *Reader { return e.out.subscribe() }

// Hold is the host's attachment to an execution.
type Hold struct {
	// Context ends with cause [ErrTaken] when a newer Hold took the execution.
	Context context.Context

	e   *Execution
	no  uint64
	pos int64
}

// Hold attaches the host from an offset, which acknowledges what is below, and
// takes the execution from an older Hold. Returns OutOfRange for an offset
// outside the output. The caller releases it.
func (e *Execution) Hold(ctx context.Context, offset int64) (*Hold, error) {
	if err := e.out.ack(offset); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.release != nil {
		e.release(ErrTaken)
	}
	ctx, e.release = context.WithCancelCause(ctx)
	e.holdNo++
	e.out.attach(offset)
	return &Hold{Context: ctx, e: e, no: e.holdNo, pos: offset}, nil
}

// Release lets go of the execution, which runs on.
func (h *Hold) Release() {
	h.e.mu.Lock()
	defer h.e.mu.Unlock()
	if h.e.holdNo == h.no {
		h.e.release(context.Canceled)
		h.e.release = nil
		h.e.out.detach()
	}
}

// Poll copies the next output into buf; see [Reader.Poll].
func (h *Hold) Poll(buf []byte) (Chunk, <-chan struct{}, error) {
	c, changed, err := h.e.out.give(h.pos, buf)
	h.pos = c.Offset + int64(len(c.Data))
	return c, changed, err
}

// Ack frees output below offset. Returns OutOfRange beyond what was given out.
func (h *Hold) Ack(offset int64) error {
	return h.e.out.ack(offset)
}

// PutInput takes input that belongs at offset; see package's input rules:
// bytes taken before are skipped, a hole is OutOfRange, more than [InputBytes]
// waiting is CapacityExhausted, no stdin InvalidArgument, after its end Conflict.
func (e *Execution) PutInput(offset int64, data []byte) error { return e.in.put(offset, data) }

// AddInput takes input after all before and waits until the command has it in
// its pipe. Returns InvalidArgument without stdin, Conflict after its end, Gone
// when the command no longer reads.
func (e *Execution) AddInput(ctx context.Context, data []byte) error { return e.in.add(ctx, data) }

// CloseInput ends the input after offset bytes in all, 0 meaning those taken
// so far; a terminal is sent its end-of-file character.
func (e *Execution) CloseInput(offset int64) error { return e.in.closeAfter(offset) }

// InputProgress tells how much input was taken and how much of it is written,
// with a channel that is closed at the next change.
func (e *Execution) InputProgress() (taken, written int64, changed <-chan struct{}) {
	return e.in.progress()
}

// Signal signals the process group. Returns InvalidArgument for a number that
// is no signal, Conflict once the main process has ended.
func (e *Execution) Signal(number int) error {
	if number < 1 || number > 64 {
		return errors.New(errors.InvalidArgument, "%d is not a signal", number).WithField("signal")
	}
	if err := e.proc.SignalGroup(syscall.Signal(number)); err != nil {
		return errEnded
	}
	return nil
}

// Resize sets the terminal's size. Returns InvalidArgument without a terminal,
// Conflict once the execution has ended.
func (e *Execution) Resize(size spawn.Size) error {
	err := e.proc.Resize(size)
	if errors.HasCode(err, errors.Gone) {
		return errEnded
	}
	return err
}

// follow runs from the start of the process to the execution's end.
func (e *Execution) follow() {
	var timer *time.Timer
	if e.Command.Timeout > 0 {
		timer = time.AfterFunc(e.Command.Timeout, e.timeout)
	}
	var pumps sync.WaitGroup
	outputs := map[*os.File]Stream{e.proc.Stdout: Stdout, e.proc.Stderr: Stderr, e.proc.Terminal: Terminal}
	delete(outputs, nil)
	for f, stream := range outputs {
		pumps.Add(1)
		go pump(f, func(data []byte) { e.out.append(stream, data) }, pumps.Done)
	}
	<-e.proc.Ended()
	if timer != nil {
		timer.Stop()
	}
	e.mu.Lock()
	e.exited = true
	e.mu.Unlock()
	e.in.stop()
	limit := time.Now().Add(Linger)
	for f := range outputs {
		_ = f.SetReadDeadline(limit) // fails when the pump is done with it already
	}
	pumps.Wait()
	e.finish(e.proc.Status())
}

// timeout kills the process group, unless the main process was faster.
func (e *Execution) timeout() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.exited && e.proc.SignalGroup(syscall.SIGKILL) == nil {
		e.timedOut = true
	}
}

func (e *Execution) finish(status syscall.WaitStatus) {
	e.mu.Lock()
	end := End{ExitCode: status.ExitStatus(), TimedOut: e.timedOut}
	e.mu.Unlock()
	if status.Signaled() {
		end.Signal = int(status.Signal())
		end.ExitCode = 128 + end.Signal
		end.CoreDumped = status.CoreDump()
	}
	_, end.OutputBytes, _ = e.out.offsets()
	e.end, e.endAt = end, time.Now()
	close(e.ended)
	e.out.close()
}
