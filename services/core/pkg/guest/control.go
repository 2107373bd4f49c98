package guest

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// maxSignals bounds the signals that wait to be sent.
const maxSignals = 64

// WriteStdin sends input. offset is where data belongs in the whole input, so
// that a piece that is sent again is taken once; -1 appends. It returns when
// the command has the data in its pipe, and so blocks while the command does
// not read. Returns NotFound, Conflict after the end of the execution or of its
// input, InvalidArgument without stdin, OutOfRange for a hole.
func (s *Session) WriteStdin(ctx context.Context, id domain.ID, offset int64, data []byte) error {
	x, err := s.find(id)
	if err != nil {
		return err
	}
	return x.input.write(ctx, offset, data, x.wake)
}

// CloseStdin ends the input after what was written. Closing twice is fine.
// Returns NotFound, Conflict, InvalidArgument without stdin.
func (s *Session) CloseStdin(_ context.Context, id domain.ID) error {
	x, err := s.find(id)
	if err != nil {
		return err
	}
	return x.input.closeInput(x.wake)
}

// StdinOffset tells how much input an execution was given so far: where the
// next belongs. Returns NotFound, Conflict, and Unavailable until the agent
// has told it to this process.
func (s *Session) StdinOffset(id domain.ID) (int64, error) {
	x, err := s.find(id)
	if err != nil {
		return 0, err
	}
	offset, known := x.input.offset()
	if !known {
		return 0, errors.New(errors.Unavailable, "how much input was taken is not known yet").WithHint("append")
	}
	return offset, nil
}

// Resize sets the size of an execution's terminal. It returns at once; only
// the newest size counts. Returns NotFound, Conflict, InvalidArgument.
func (s *Session) Resize(_ context.Context, id domain.ID, size domain.PTYSize) error {
	if size.Cols == 0 || size.Rows == 0 {
		return errors.New(errors.InvalidArgument, "a terminal has at least one column and one row").WithField("size")
	}
	x, err := s.find(id)
	if err != nil {
		return err
	}
	if !x.input.pty {
		return errors.New(errors.InvalidArgument, "the command does not run on a terminal").WithField("size")
	}
	x.mu.Lock()
	x.size = &guestv1.TerminalSize{Cols: uint32(size.Cols), Rows: uint32(size.Rows)}
	x.mu.Unlock()
	x.wake()
	return nil
}

// Signal sends a signal to an execution's process group and returns when it is
// on its way, or was and the execution has ended. Returns NotFound, Conflict
// where the end came first, InvalidArgument, and Unavailable when the channel
// broke and the signal may or may not have arrived.
func (s *Session) Signal(ctx context.Context, id domain.ID, number int) error {
	if number < 1 || number > 64 {
		return errors.New(errors.InvalidArgument, "%d is not a signal", number).WithField("signal")
	}
	x, err := s.find(id)
	if err != nil {
		return err
	}
	sig := &signal{number: int32(number), answered: make(chan struct{})}
	x.mu.Lock()
	if len(x.signals) >= maxSignals {
		x.mu.Unlock()
		return errors.New(errors.RateLimited, "%d signals are waiting to be sent", maxSignals)
	}
	x.signals = append(x.signals, sig)
	x.mu.Unlock()
	x.wake()
	select {
	case <-sig.answered:
		return sig.err
	case <-x.done:
		x.mu.Lock()
		defer x.mu.Unlock()
		if sig.taken && errors.Is(x.doneErr, errEnded) {
			return nil // a command that a signal ends may be faster than the news that it was sent
		}
		return x.doneErr
	case <-ctx.Done():
		return errors.Public(ctx.Err())
	}
}

// Wait blocks until the execution has ended. One that ended before is answered
// from the journal. Returns NotFound, Unavailable when the session is closed first.
func (s *Session) Wait(ctx context.Context, id domain.ID) (domain.ExecutionEnd, error) {
	s.mu.Lock()
	x := s.executions[id]
	s.mu.Unlock()
	if x != nil {
		select {
		case <-x.done:
		case <-ctx.Done():
			return domain.ExecutionEnd{}, errors.Public(ctx.Err())
		}
	}
	j, err := s.cfg.Journals.Lookup(s.key(id))
	if err != nil {
		return domain.ExecutionEnd{}, errors.New(errors.NotFound, "no such execution ran in this machine")
	}
	defer j.Close()
	if end, ok := j.Ended(); ok {
		return end, nil
	}
	if x == nil {
		return domain.ExecutionEnd{}, errors.New(errors.NotFound, "no such execution runs in this machine")
	}
	return domain.ExecutionEnd{}, errors.New(errors.Unavailable, "the machine was let go of while the execution runs")
}

// signal is one that somebody sends. Its execution's mutex guards taken; err is
// set before answered is closed.
type signal struct {
	number   int32
	taken    bool // by an attachment that sends it
	answered chan struct{}
	err      error
}

func (s *signal) answer(err error) {
	s.err = err
	close(s.answered)
}
