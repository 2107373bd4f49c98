package cli

import (
	"context"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/terminal"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// quietAway is how long a server may be away before the user is told.
const quietAway = 2 * time.Second

// enoughInterrupts is how many SIGINTs end a session whose command takes no notice.
const enoughInterrupts = 3

// session connects an execution with our stdin, stdout, stderr and signals.
type session struct {
	*app
	stdin bool // pass it
	pty   bool // the command has a terminal: ours is made raw, where there is one
	// ignoreSignals leaves signals to end us, and the command alone.
	ignoreSignals bool
	// whole says that all output is wanted: a success of which some is
	// missing is none, as whoever reads our stdout could not tell.
	whole bool

	stream *client.Stream
	lost   int64 // bytes of output that were not kept
	told   bool  // the user knows that the server is away
	ints   atomic.Int32
	leave  context.CancelCauseFunc
}

// outcome is how a session ended.
type outcome struct {
	execution string
	offset    int64
	exit      *api.OutputExit // nil: detached
}

// opener opens the stream of a session.
type opener func(ctx context.Context, o client.StreamOptions) (*client.Stream, error)

// run runs the session to its end: the command's, or the user's wish to
// detach. The terminal is then as it was.
func (s *session) run(ctx context.Context, offset int64, open opener) (outcome, error) {
	ctx, s.leave = context.WithCancelCause(ctx)
	defer s.leave(nil)
	stream, err := open(ctx, client.StreamOptions{Offset: offset, Waiting: s.waiting, Back: s.back})
	if err != nil {
		return outcome{}, startError(err)
	}
	s.stream = stream
	defer stream.Close()
	if s.pty && s.term != nil && s.stdin {
		if err := s.term.Raw(); err != nil {
			return outcome{}, &exit{exitRunFailed, err}
		}
		defer s.term.Restore()
	}
	if s.pty {
		s.resize()
	}
	if !s.ignoreSignals {
		defer s.forwarding(s.signal)()
	}
	if s.stdin {
		s.term.Go(s.copyInput)
	}
	return s.copyOutput(ctx)
}

// copyInput sends stdin. The goroutine may outlive the session in a read that
// nothing can end; the process ends soon after.
func (s *session) copyInput() {
	in := s.Stdin
	if s.term.IsRaw() {
		in = terminal.NewKeys(in)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{s.stream}, struct{ io.Reader }{in}, make([]byte, 32<<10))
	switch {
	case errors.Is(err, terminal.ErrDetached):
		s.leave(terminal.ErrDetached)
	case errors.Is(err, io.ErrClosedPipe): // the stream has ended first
	default:
		s.stream.CloseStdin()
	}
}

func (s *session) copyOutput(ctx context.Context) (outcome, error) {
	out := outcome{execution: s.stream.ID()}
	for {
		ev, err := s.stream.Next(ctx)
		out.offset = s.stream.Offset()
		if err != nil {
			return out, s.ended(ctx, err)
		}
		switch {
		case ev.Warning != nil:
			s.tell(ev.Warning)
		case ev.Exit != nil:
			out.exit = ev.Exit
			if s.asJSON() {
				err = render.JSONLine(s.Stdout, api.OutputEvent{Offset: ev.Offset, NextOffset: ev.Offset, End: ev.Exit})
			}
			return out, err
		default:
			err = s.write(ev)
		}
		if errors.Is(err, syscall.EPIPE) {
			s.brokenPipe(ctx)
		}
		if err != nil {
			return out, &exit{exitRunFailed, err}
		}
	}
}

// write shows output. As JSON it is the API's own lines.
func (s *session) write(ev client.StreamEvent) error {
	if ev.Gap != nil {
		s.lost += ev.Gap.To - ev.Gap.From
	}
	if s.asJSON() {
		line := api.OutputEvent{Offset: ev.Offset, NextOffset: ev.Offset + int64(len(ev.Data)), Stream: streamName(ev.Kind), Data: ev.Data, Gap: ev.Gap}
		if ev.Gap != nil {
			line.NextOffset, line.Stream = ev.Gap.To, ""
		}
		return render.JSONLine(s.Stdout, line)
	}
	w := s.Stdout
	switch {
	case ev.Gap != nil:
		s.say("%s of output (bytes %d to %d) are no longer kept", units.Bytes(ev.Gap.To-ev.Gap.From), ev.Gap.From, ev.Gap.To)
		return nil
	case ev.Kind == api.FrameStderr:
		w = s.Stderr
	}
	_, err := w.Write(ev.Data)
	return err
}

func streamName(k api.FrameKind) string {
	switch k {
	case api.FrameStdout:
		return "stdout"
	case api.FrameStderr:
		return "stderr"
	case api.FramePTY:
		return "pty"
	}
	return ""
}

// brokenPipe gives the command the signal that it would have got had it
// written to the closed pipe itself.
func (s *session) brokenPipe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.client_.SignalExecution(ctx, s.stream.ID(), "PIPE"); err != nil && !errors.HasCode(err, errors.Conflict) {
		s.tell(err)
	}
}

// ended says why the session is over without an exit.
func (s *session) ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	var stop interrupted
	switch {
	case errors.Is(cause, terminal.ErrDetached):
		return nil
	case errors.As(cause, &stop):
		return stop
	}
	return &exit{exitRunFailed, err}
}

// signal passes a signal on to the command.
func (s *session) signal(sig os.Signal) bool {
	switch sig {
	case syscall.SIGWINCH:
		if s.pty {
			s.resize()
		}
		return true
	case syscall.SIGCONT:
		if s.term.IsRaw() {
			s.term.Renew()
			s.resize()
		}
		return true
	}
	name, ok := passed[sig]
	if !ok {
		return false
	}
	if sig == syscall.SIGINT && s.ints.Add(1) >= enoughInterrupts {
		s.leave(interrupted{syscall.SIGINT})
		return true
	}
	if err := s.stream.Signal(name); err != nil {
		s.leave(interrupted{sig.(syscall.Signal)})
	}
	return true
}

func (s *session) resize() {
	if s.term == nil {
		return
	}
	if size, ok := s.term.Size(); ok {
		s.stream.Resize(size)
	}
}

func (s *session) waiting(away time.Duration, cause error) {
	if away > quietAway && !s.told {
		s.told = true
		var e *errors.Error
		if errors.As(cause, &e) {
			s.say("%s; trying again…", e.Message)
		}
	}
}

func (s *session) back(away time.Duration) {
	if s.told {
		s.told = false
		s.say("the server is back after %s", units.Duration(away.Truncate(time.Second)))
	}
}

// code makes an outcome our own exit code.
func (s *session) code(o outcome, timeout time.Duration) error {
	switch {
	case o.exit == nil:
		s.say("detached; the command goes on: aetherium attach %s --offset %d", o.execution, o.offset)
		return nil
	case o.exit.LostReason != "":
		return &exit{exitRunFailed, errors.New(errors.GuestFault, "the command is lost: %s", o.exit.LostReason)}
	case o.exit.TimedOut && timeout > 0:
		s.say("the command was ended after %s", units.Duration(timeout))
	case o.exit.TimedOut:
		s.say("the command was ended: its time was up")
	}
	switch {
	case o.exit.ExitCode != 0:
		return &exit{code: o.exit.ExitCode}
	case s.whole && s.lost > 0:
		return &exit{exitRunFailed, errors.New(errors.OutOfRange, "the command succeeded, but %s of its output are missing: they were not read in time", units.Bytes(s.lost)).
			WithHint("write much output to a file in the VM, and take it with: aetherium cp")}
	}
	return nil
}
