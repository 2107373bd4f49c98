package worker

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// TestAWishBetweenReadAndStep: a newer wish that is told of after the row was
// read and before the step began still interrupts the step.
func TestAWishBetweenReadAndStep(t *testing.T) {
	t.Parallel()
	var s steps
	vm := &domain.VM{ID: domain.NewID(), Generation: 1}
	leave := s.enter(vm.ID)
	s.supersede(vm.ID, 1) // what the row has already
	ctx, cancel := s.begin(t.Context(), vm)
	if ctx.Err() != nil {
		t.Error("no newer wish, and it is interrupted")
	}
	cancel()
	leave()

	leave = s.enter(vm.ID)
	if !s.underway(vm.ID) {
		t.Error("nobody would tell it of a newer wish")
	}
	s.supersede(vm.ID, 2)
	ctx, cancel = s.begin(t.Context(), vm)
	if ctx.Err() == nil {
		t.Error("a newer wish does not interrupt it")
	}
	cancel()
	leave()
	if s.underway(vm.ID) {
		t.Error("it is never over")
	}
}
