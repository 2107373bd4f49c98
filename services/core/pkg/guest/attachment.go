package guest

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

const (
	// ackEvery is how much output is taken before it is acknowledged; the agent
	// holds 1 MiB, so it never waits for us.
	ackEvery = 256 << 10
	// attachTimeout is how long the agent may take to answer a Resume. Nobody
	// waits for it; it is tried again then.
	attachTimeout = 30 * time.Second
	// maxEmptyAcks bounds messages that tell nothing new.
	maxEmptyAcks = 64
)

// stream is what an attachment speaks over: a Connect stream or a lane.
type stream interface {
	Send(m *guestv1.AttachRequest) error
	// Receive gives a message that is valid until the next call.
	Receive() (*guestv1.AttachResponse, error)
}

// attachment is one stream to the agent for one execution.
type attachment struct {
	x        *execution
	lane     bool        // it has a connection of its own
	spare    *laneConn   // which is this one, where it waited already
	unbind   func() bool // has the spare outlast the attachment
	before   *attachment // the one that this one takes over from, if any
	kept     bool        // and serves another execution after this one
	progress bool        // the agent told something new
	cause    error       // why it ended, as the transport has it
	end      func()      // lets go of the stream and waits for the sender; set by run

	seenStart bool
	anyOutput bool
	idleAcks  int
	took      int64 // bytes of output
	acked     atomic.Int64

	leaving   chan struct{} // closed when the sender is to come to its end
	sent      chan struct{} // closed when it has
	sendErr   error         // why, if that is of the stream; once sent is closed
	left      bool          // it is; guarded by execution.mu
	signalled bool          // a signal was taken to be sent; guarded by execution.mu
}

// run holds the attachment until it ends, or is to be taken over by one over a
// lane: then it still stands, until end is called. broken comes with an error
// that tells why; it is GuestFault where the agent is to blame.
func (a *attachment) run() (outcome, error) {
	ctx, cancel := context.WithCancelCause(a.x.ctx)
	a.end, a.leaving, a.sent = func() { cancel(nil) }, make(chan struct{}), make(chan struct{})
	result, err := a.follow(ctx, cancel)
	switch {
	case result == ended && a.handOver():
		a.kept = true
		cancel(nil)
	case result != moving:
		a.end()
	}
	return result, err
}

// follow takes what the agent tells. cancel ends ctx, and with it the stream.
func (a *attachment) follow(ctx context.Context, cancel context.CancelCauseFunc) (outcome, error) {
	slow := time.AfterFunc(attachTimeout, func() { cancel(errSlow) })
	defer slow.Stop()
	str, err := a.open(ctx)
	if err == nil {
		err = str.Send(a.first())
	}
	if err != nil && !errors.Is(err, io.EOF) { // of an end Receive tells why
		return a.ended(ctx, err)
	}
	for sending := false; ; {
		m, err := str.Receive()
		if err != nil {
			return a.ended(ctx, err)
		}
		if a.before != nil {
			// The agent has it from here. Whatever the one before was about to send
			// is sent again.
			a.before.end()
			a.before = nil
		}
		if result, err := a.take(m); result != going {
			return result, err
		}
		if !sending && a.seenStart {
			slow.Stop()
			sending = true
			a.end = func() {
				cancel(nil) // which also lets go of a Send that blocks
				<-a.sent
			}
			go func() {
				defer close(a.sent)
				a.sendErr = a.send(ctx, str)
			}()
		}
	}
}

// open makes the stream. It ends with ctx.
func (a *attachment) open(ctx context.Context) (stream, error) {
	switch {
	case a.spare != nil:
		var str stream
		str, a.unbind = laneOn(ctx, a.spare)
		return str, nil
	case a.lane:
		return a.x.s.openLane(ctx)
	}
	str := a.x.s.cfg.Client.web().executions.Attach(ctx)
	// Once there is an answer, the transport looks at ctx only between pieces of
	// the request's body; ending the body lets it see that ctx has ended.
	context.AfterFunc(ctx, func() { _ = str.CloseRequest() })
	return str, nil
}

// first is the message that opens the attachment.
func (a *attachment) first() *guestv1.AttachRequest {
	x := a.x
	next := x.journal.NextOffset()
	a.acked.Store(next)
	if x.starting() {
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
			ExecutionId: x.agentID, Command: x.start,
		}}}
	}
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Resume_{Resume: &guestv1.AttachRequest_Resume{
		ExecutionId: x.agentID, Offset: next,
	}}}
}

// ended classifies the end of the stream.
func (a *attachment) ended(ctx context.Context, err error) (outcome, error) {
	x := a.x
	switch {
	case a.lane && broke(err):
		// As over HTTP/2, where a connection that breaks is nobody's fault.
		err = errors.Wrap(err, errors.Unavailable, "the guest agent cannot be reached")
	case errors.Is(err, io.EOF):
		err = errors.New(errors.GuestFault, "the guest agent closed the attachment before the end")
	}
	a.cause = err
	x.mu.Lock()
	confirmed := x.confirmed
	x.mu.Unlock()
	code := wireCode(err)
	err = fault(ctx, err, "attaching to an execution")
	if ctx.Err() != nil {
		a.cause = nil // our doing, or too slow: try again
		return broken, err
	}
	switch code {
	case connect.CodeResourceExhausted:
		if confirmed {
			a.cause = nil // input is waiting there from attachments before: it will be read
			return broken, err
		}
	case 0, connect.CodeAborted, connect.CodeCanceled, connect.CodeDeadlineExceeded, connect.CodeUnknown, connect.CodeInternal:
		return broken, err
	case connect.CodeNotFound:
		if confirmed || x.start == nil {
			return lost, errors.New(errors.GuestFault, "the guest agent does not know the execution any more")
		}
	}
	if !confirmed && x.start != nil {
		return refused, err
	}
	return broken, err
}

// take handles one message.
func (a *attachment) take(m *guestv1.AttachResponse) (outcome, error) {
	if r, ok := m.GetResponse().(*guestv1.AttachResponse_Started_); ok {
		return a.takeStarted(r.Started)
	}
	if !a.seenStart {
		return lost, misbehaved("answered an attachment with something else than the start")
	}
	switch r := m.GetResponse().(type) {
	case *guestv1.AttachResponse_Output_:
		return a.takeOutput(r.Output)
	case *guestv1.AttachResponse_StdinAck_:
		return a.takeStdinAck(r.StdinAck.GetOffset())
	case *guestv1.AttachResponse_End:
		return a.takeEnd(r.End)
	}
	return lost, misbehaved("sent a message of unknown kind")
}

func (a *attachment) takeStarted(m *guestv1.AttachResponse_Started) (outcome, error) {
	if a.seenStart {
		return lost, misbehaved("told the start twice")
	}
	if m.GetPid() < 1 || m.GetStdinOffset() < 0 {
		return lost, misbehaved("told a start out of bounds")
	}
	if err := a.x.input.attached(m.GetStdinOffset()); err != nil {
		return lost, err
	}
	a.seenStart = true
	a.x.unsent()
	if !a.x.confirm(m.GetPid(), m.GetAlready()) {
		return broken, errors.New(errors.GuestFault, "the start was given up")
	}
	return going, nil
}

func (a *attachment) takeOutput(m *guestv1.AttachResponse_Output) (outcome, error) {
	j := a.x.journal
	next, offset, data := j.NextOffset(), m.GetOffset(), m.GetData()
	switch {
	case len(data) == 0:
		return lost, misbehaved("sent empty output")
	case m.GetStream() < guestv1.Stream_STREAM_STDOUT || m.GetStream() > guestv1.Stream_STREAM_PTY:
		return lost, misbehaved("sent output of an unknown stream")
	case offset < 0 || a.anyOutput && offset < next:
		return lost, misbehaved("went back in the output")
	case a.anyOutput && offset > next:
		return lost, misbehaved("left a hole in the output")
	}
	if offset > next {
		// What nobody drained in time is gone; the first piece says from where on
		// there is output. Only an execution that this session has followed
		// from its start cannot have such a hole.
		if a.x.drained || a.x.start != nil {
			return lost, misbehaved("lost output that was not acknowledged")
		}
		if err := j.Skip(offset); err != nil {
			return journalFault(err)
		}
	}
	// A reader may have fallen behind. While this waits nothing is acknowledged,
	// and when the agent holds all it may the command waits.
	if err := j.Feed(a.x.ctx, offset, domain.OutputStream(m.GetStream()), data); err != nil {
		return journalFault(err)
	}
	a.anyOutput, a.x.drained, a.progress = true, true, true
	if next == 0 {
		a.x.s.tellOutput(a.x.id)
	}
	if j.NextOffset()-a.acked.Load() >= ackEvery {
		a.x.wake()
	}
	if a.took += int64(len(data)); a.took >= laneAfter && a.leave() {
		return moving, nil
	}
	return going, nil
}

// journalFault decides what an error of the journal means: its disk may be
// full now and not later; the agent holds the output meanwhile.
func journalFault(err error) (outcome, error) {
	switch errors.CodeOf(err) {
	case errors.OutOfRange:
		return lost, errors.Wrap(err, errors.GuestFault, "the guest agent sent output at an impossible offset")
	case errors.Gone:
		return lost, err
	}
	return broken, err
}

func (a *attachment) takeStdinAck(offset int64) (outcome, error) {
	news, err := a.x.input.acked(offset)
	if err != nil {
		return lost, err
	}
	if news {
		a.progress = true
		a.x.wake() // the window has room
	} else if a.idleAcks++; a.idleAcks > maxEmptyAcks {
		return lost, misbehaved("acknowledged the same input again and again")
	}
	return going, nil
}

func (a *attachment) takeEnd(m *guestv1.End) (outcome, error) {
	j := a.x.journal
	next := j.NextOffset()
	switch total := m.GetOutputBytes(); {
	case m.GetExitCode() < 0 || m.GetExitCode() > 255 || m.GetSignal() < 0 || m.GetSignal() > 64:
		return lost, misbehaved("told an end out of bounds")
	case total < next:
		return lost, misbehaved("told an end before the last output")
	case total > next:
		// Nothing came of the rest: it was dropped before this session drained it.
		if a.x.drained || a.x.start != nil {
			return lost, misbehaved("told an end but not all output")
		}
		if err := j.Skip(total); err != nil {
			return journalFault(err)
		}
	}
	err := j.AppendEnd(domain.ExecutionEnd{
		ExitCode: int(m.GetExitCode()), Signal: int(m.GetSignal()), TimedOut: m.GetTimedOut(),
	})
	if err != nil {
		return journalFault(err)
	}
	return ended, nil
}

func misbehaved(what string) error {
	return errors.New(errors.GuestFault, "the guest agent broke the protocol: it %s", what)
}
