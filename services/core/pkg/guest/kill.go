package guest

import (
	"context"
	"time"

	"connectrpc.com/connect"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/internal/backoff"
)

const (
	// killTries bounds the attempts at once; an execution that still runs is met
	// again by the next watch.
	killTries = 5
	killTime  = 10 * time.Second
)

// kill ends an execution in the machine that nobody wants: one whose start was
// given up, or that the host has no record of. Its output is thrown away.
func (s *Session) kill(agentID string) {
	if s.isGone() || s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, under := s.killing[agentID]; under {
		// The attempt under way may have found nothing an instant before it began.
		s.killing[agentID] = true
		return
	}
	if len(s.killing) >= s.cfg.MaxExecutions || s.closed {
		return
	}
	s.killing[agentID] = false
	s.wg.Go(func() {
		for again := true; again; again = s.killAgain(agentID) {
			wait := backoff.New(50*time.Millisecond, 5*time.Second)
			for range killTries {
				if s.killOnce(agentID) || s.isGone() || wait.Wait(s.ctx, s.gone) != nil {
					break
				}
			}
		}
	})
}

// killAgain reports whether an execution was to be killed once more meanwhile.
func (s *Session) killAgain(agentID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killing[agentID] && !s.closed && !s.isGone() && s.ctx.Err() == nil {
		s.killing[agentID] = false
		return true
	}
	delete(s.killing, agentID)
	return false
}

// killOnce reports whether there is nothing left to do.
func (s *Session) killOnce(agentID string) bool {
	ctx, cancel := context.WithTimeoutCause(s.ctx, killTime, errSlow)
	defer cancel()
	str := s.cfg.Client.web().executions.Attach(ctx)
	// A Send's error is told by Receive, too.
	_ = str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Resume_{Resume: &guestv1.AttachRequest_Resume{ExecutionId: agentID}}})
	_ = str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Signal{Signal: &guestv1.AttachRequest_SignalGroup{Number: 9}}})
	for {
		m, err := str.Receive()
		if err != nil {
			return wireCode(err) == connect.CodeNotFound
		}
		switch r := m.GetResponse().(type) {
		case *guestv1.AttachResponse_Output_:
			next := r.Output.GetOffset() + int64(len(r.Output.GetData()))
			_ = str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: next}}})
		case *guestv1.AttachResponse_End:
			s.forget.add(agentID)
			return true
		}
	}
}
