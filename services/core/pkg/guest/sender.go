package guest

import (
	"context"
	"syscall"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// send gives the agent acknowledgements, input, sizes and signals, as the
// execution is woken for them, until the attachment ends. A Send that fails or
// blocks ends with it; what was not sent is found by the next attachment. Returns
// the error of a Send.
func (a *attachment) send(ctx context.Context, str stream) error {
	x := a.x
	var size *guestv1.TerminalSize
	for {
		select {
		case <-a.leaving:
			return nil
		default:
		}
		m, after := a.nextMessage(&size)
		if m == nil {
			select {
			case <-x.wakeup:
				continue
			case <-a.leaving:
				return nil
			case <-ctx.Done():
				return nil
			}
		}
		if err := str.Send(m); err != nil {
			return err // Receive tells why
		}
		if after != nil {
			after()
		}
	}
}

// nextMessage gives what is most urgent. size is the terminal's size as this
// attachment last sent it.
func (a *attachment) nextMessage(size **guestv1.TerminalSize) (m *guestv1.AttachRequest, after func()) {
	x := a.x
	if next := x.journal.NextOffset(); next-a.acked.Load() >= ackEvery {
		a.acked.Store(next)
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: next}}}, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.signals) > 0 && !a.left {
		a.signalled = true
		sig := x.signals[0]
		x.signals = x.signals[1:]
		sig.taken, x.sending = true, sig
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Signal{Signal: &guestv1.AttachRequest_SignalGroup{Number: sig.number}}},
			func() { x.sent(sig) }
	}
	if x.size != nil && x.size != *size {
		*size = x.size
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Resize{Resize: x.size}}, nil
	}
	switch offset, data, closing := x.input.next(); {
	case data != nil:
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Stdin_{Stdin: &guestv1.AttachRequest_Stdin{Offset: offset, Data: data}}}, nil
	case closing:
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_CloseStdin_{CloseStdin: &guestv1.AttachRequest_CloseStdin{Offset: offset}}}, nil
	}
	return nil, nil
}

// sent answers a signal that is on its way.
func (x *execution) sent(sig *signal) {
	x.mu.Lock()
	x.sending = nil
	x.mu.Unlock()
	sig.answer(nil)
}

// unsent decides about the signal that was being sent when the channel broke,
// once there is a new one and the command still runs. SIGKILL is sent again:
// had it arrived, it would do so without effect. Any other might reach the
// command twice.
func (x *execution) unsent() {
	x.mu.Lock()
	defer x.mu.Unlock()
	sig := x.sending
	x.sending = nil
	switch {
	case sig == nil:
	case sig.number == int32(syscall.SIGKILL):
		sig.taken = false
		x.signals = append([]*signal{sig}, x.signals...)
	default:
		sig.answer(errors.New(errors.Unavailable, "the channel to the machine broke while the signal was sent: it may or may not have arrived"))
	}
}
