package lifecycle

import (
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// TimeLeft says how long until time decides about vm, and why. lastUsed is
// when the VM was last in use; a VM in use right now passes now. ok is false
// when nothing is due ever as things stand.
//
// The deadline counts in every state that is not an end; idleness counts only
// while the VM runs.
func TimeLeft(now time.Time, vm *domain.VM, lastUsed time.Time) (left time.Duration, cause domain.Cause, ok bool) {
	if vm.Desired == domain.WantDeleted || vm.Observed.Terminal() && vm.Deadline == nil {
		return 0, "", false
	}
	if vm.Deadline != nil && !spent(vm) {
		left, cause, ok = vm.Deadline.Sub(now), domain.CauseDeadline, true
	}
	if vm.IdleTimeout > 0 && vm.Desired == domain.WantRunning && vm.Observed == domain.Running {
		since := lastUsed
		if vm.StartedAt != nil && since.Before(*vm.StartedAt) {
			since = *vm.StartedAt
		}
		if idle := since.Add(vm.IdleTimeout).Sub(now); !ok || idle < left {
			left, cause, ok = idle, domain.CauseIdle, true
		}
	}
	return left, cause, ok
}

// spent reports whether the deadline has already had its effect: a VM that was
// stopped or paused by it stays so until the deadline moves or it is started again.
func spent(vm *domain.VM) bool {
	return AtDeadline(vm.OnTimeout) == vm.Desired
}

// AtDeadline is the desired state that a passed deadline leads to.
func AtDeadline(o domain.OnTimeout) domain.DesiredState {
	switch o {
	case domain.TimeoutPause:
		return domain.WantPaused
	case domain.TimeoutStop:
		return domain.WantStopped
	}
	return domain.WantDeleted
}
