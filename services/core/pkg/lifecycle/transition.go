package lifecycle

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Ask checks whether a VM may be wanted otherwise and reports whether anything
// changes. Asking again for what is already wanted is success.
// Returns Gone for a deleted VM, Conflict where the present wish forbids it.
func Ask(vm *domain.VM, want domain.DesiredState) (changed bool, err error) {
	if vm.Desired == domain.WantDeleted {
		if want == domain.WantDeleted {
			return false, nil
		}
		return false, errors.New(errors.Gone, "the VM is deleted").
			WithHint("create a new one; its tombstone tells why it ended")
	}
	if want == domain.WantDeleted {
		return true, nil
	}
	if vm.Observed == domain.Failed {
		return false, errors.New(errors.Conflict, "the VM has failed: %s", vm.Reason).WithHint("delete it and create a new one")
	}
	if want == domain.WantPaused && vm.Desired == domain.WantStopped {
		return false, errors.New(errors.Conflict, "a stopped VM cannot be paused").WithHint("start it first")
	}
	return vm.Desired != want, nil
}
