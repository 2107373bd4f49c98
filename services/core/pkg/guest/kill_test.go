package guest_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// What nobody wants is killed also when it begins to run while an attempt to
// kill it is finding that it does not.
func TestKilledAlthoughItBeganLate(t *testing.T) {
	t.Parallel()
	stray, marker := string(domain.NewID()), string(domain.NewID())
	attached, tell, found := make(chan string, 16), make(chan string, 4), make(chan struct{})
	l := &liar{
		attach: func(ctx context.Context, first *guestv1.AttachRequest, s *attachStream) error {
			id := first.GetResume().GetExecutionId()
			attached <- id
			select {
			case <-found: // the second time it runs
				if err := s.Send(started(1)); err != nil {
					return err
				}
				return s.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_End{End: &guestv1.End{ExitCode: 137, Signal: 9}}})
			default:
			}
			select {
			case <-found:
			case <-ctx.Done():
			}
			return connect.NewError(connect.CodeNotFound, errors.Plain("no such execution"))
		},
		watch: func(ctx context.Context, s *connect.ServerStream[guestv1.WatchResponse]) error {
			for {
				select {
				case id := <-tell:
					if err := s.Send(&guestv1.WatchResponse{Execution: &guestv1.ExecutionInfo{ExecutionId: id, Pid: 1}}); err != nil {
						return err
					}
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
	}
	newHost(t, l.dial(t), newJournals(t), domain.NewID())
	next := func(want string) {
		t.Helper()
		select {
		case id := <-attached:
			if id != want {
				t.Fatalf("attached to %s, want %s", id, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s is not attached to", want)
		}
	}
	tell <- stray
	next(stray)
	tell <- stray  // it runs after all …
	tell <- marker // … and the host has heard it when it goes after this one
	next(marker)
	close(found)
	next(stray)
}
