package guest

import (
	"context"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// send gives the agent acknowledgements, input, sizes and signals, as the
// execution is woken for them, until the attachment ends. A Send that fails or
// blocks ends with it; what was not sent is found by the next attachment.
func (a *attachment) send(ctx context.Context, str *stream) {
	x := a.x
	var size *guestv1.TerminalSize
	for {
		m, after := a.nextMessage(&size)
		if m == nil {
			select {
			case <-x.wakeup:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := str.Send(m); err != nil {
			return // Receive tells why
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
	if len(x.signals) > 0 {
		sig := x.signals[0]
		x.signals = x.signals[1:]
		// It is taken off before it is sent: a signal that may have arrived is not
		// sent a second time.
		return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Signal{Signal: &guestv1.AttachRequest_SignalGroup{Number: sig.number}}},
			func() { close(sig.sent) }
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
