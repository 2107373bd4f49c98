package guest

import (
	"context"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

var errEnded = errors.New(errors.Conflict, "the execution has ended")

// StartRequest asks for a command to be run.
type StartRequest struct {
	ID      domain.ID // minted by the caller; the same ID never runs twice
	Command domain.Command
	Tag     string
	// Sealed is the command as only who holds the keys can read it, for whoever
	// finds no more of the execution than its journal.
	Sealed []byte
}

// Start runs a command and returns when the agent has confirmed that it runs.
// An ID that was started before in this epoch is not run again: the answer is
// then that of the running execution, with Already set.
//
// Returns InvalidArgument (a program, user or directory that is not there),
// PermissionDenied, CapacityExhausted, Unavailable, Conflict (the machine has
// ended, or an execution of this ID), GuestFault when the agent does not
// confirm in time: then the command is killed should it have started, and its
// journal says that it is lost. When ctx ends first the start goes on.
func (s *Session) Start(ctx context.Context, req StartRequest) (Started, error) {
	if !domain.IsID(string(req.ID)) {
		return Started{}, errors.New(errors.InvalidArgument, "%.64q is not an execution ID", string(req.ID)).WithField("id")
	}
	cmd, err := commandMessage(req)
	if err != nil {
		return Started{}, err
	}
	j, err := s.cfg.Journals.Open(s.key(req.ID))
	if err != nil {
		return Started{}, err
	}
	about := noteOf(cmd)
	about.Command = req.Sealed
	began, err := j.Begin(about.bytes())
	if err != nil {
		j.Close()
		return Started{}, err
	}
	if _, ended := j.Ended(); ended {
		j.Close()
		return Started{}, errEnded
	}
	x := newExecution(s, req.ID, j)
	x.about = Started{ID: req.ID, Command: req.Command, Tag: req.Tag}
	if began {
		x.start = cmd
		// It is given up also when whoever asked has gone away meanwhile.
		limit := s.cfg.StartTimeout
		x.limit = time.AfterFunc(limit, func() {
			x.abandon(errors.New(errors.GuestFault, "the guest agent did not confirm the start in %s", limit))
		})
	}
	existing, err := s.add(x)
	if err != nil {
		if began {
			x.limit.Stop()
			_ = s.cfg.Journals.Delete(s.key(req.ID))
		}
		return Started{}, err
	}
	if existing != nil {
		if began {
			x.limit.Stop()
			if existing.journal != j { // that one is being refused, and its journal is gone
				_ = s.cfg.Journals.Delete(s.key(req.ID))
			}
		}
		x = existing
	}
	st, err := x.awaitStart(ctx, s.cfg.StartTimeout)
	if existing != nil && err == nil {
		st.Already = true
	}
	return st, err
}

// awaitStart waits for the agent's word.
func (x *execution) awaitStart(ctx context.Context, limit time.Duration) (Started, error) {
	var late <-chan time.Time
	if x.start == nil { // else it has a limit of its own
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-x.started:
	case <-ctx.Done():
		return Started{}, errors.Public(ctx.Err())
	case <-late: // it was started long ago; the agent does not answer now
		return Started{}, errors.New(errors.GuestFault, "the guest agent did not confirm the start in %s", limit)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.about, x.startErr
}

func commandMessage(req StartRequest) (*guestv1.Command, error) {
	c := req.Command
	if len(c.Args) == 0 || c.Args[0] == "" {
		return nil, errors.New(errors.InvalidArgument, "no program is given").WithField("args")
	}
	size := 0
	for _, a := range c.Args {
		size += len(a)
		if strings.ContainsRune(a, 0) {
			return nil, errors.New(errors.InvalidArgument, "an argument contains NUL").WithField("args")
		}
	}
	for k, v := range c.Env {
		size += len(k) + len(v)
	}
	if size > maxMessage-(64<<10) {
		return nil, errors.New(errors.TooLarge, "arguments and environment are larger than %d bytes", maxMessage-(64<<10)).WithField("args")
	}
	if c.Timeout < 0 {
		return nil, errors.New(errors.InvalidArgument, "the timeout is negative").WithField("timeout")
	}
	m := &guestv1.Command{
		Args: c.Args, Env: c.Env, Cwd: c.Cwd, User: c.User, Stdin: c.Stdin, Tag: req.Tag,
		// A timeout below the wire's unit still is one.
		TimeoutMs: (c.Timeout + time.Millisecond - 1).Milliseconds(),
	}
	if c.PTY != nil {
		m.Pty = &guestv1.TerminalSize{Cols: uint32(c.PTY.Cols), Rows: uint32(c.PTY.Rows)}
	}
	return m, nil
}

// domainCommand reads back what the agent says that it runs.
func domainCommand(m *guestv1.Command) domain.Command {
	c := domain.Command{
		Args: m.GetArgs(), Env: m.GetEnv(), Cwd: m.GetCwd(), User: m.GetUser(), Stdin: m.GetStdin(),
		Timeout: time.Duration(min(max(m.GetTimeoutMs(), 0), int64(366*24*time.Hour/time.Millisecond))) * time.Millisecond,
	}
	if p := m.GetPty(); p != nil {
		c.PTY = &domain.PTYSize{Cols: uint16(min(p.GetCols(), 1<<16-1)), Rows: uint16(min(p.GetRows(), 1<<16-1))}
	}
	return c
}
