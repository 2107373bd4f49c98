package vmm

import (
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// told are the codes of what went wrong on a worker that say the same to who
// asked for the VM. Others are about parts that the caller does not see, or would
// have a client try again what has left a VM behind.
var told = []errors.Code{
	errors.NoSpace, errors.CapacityExhausted, errors.Unsupported, errors.TooLarge, errors.InvalidArgument,
}

// Bury notes in a tombstone why what was wanted of a VM could not be given.
func Bury(t *domain.Tombstone, why error) *domain.Tombstone {
	public := errors.Public(why)
	t.Detail, t.Code, t.Hint = public.Message, string(public.Code), public.Hint
	return t
}

// Failure is what a caller is told of a VM that has failed, or could not be
// started again and is stopped: the code of what went wrong, if that says
// something to callers, or else Conflict.
func Failure(vm *domain.VM) *errors.Error {
	why, code, hint := vm.Reason, errors.Conflict, ""
	if t := vm.Tombstone; t != nil {
		if slices.Contains(told, errors.Code(t.Code)) {
			code, hint = errors.Code(t.Code), t.Hint
		}
		if vm.Observed != domain.Failed {
			why = t.Detail
		}
	}
	e := errors.New(code, "the VM could not be started: %s", why)
	if vm.Observed == domain.Failed {
		e = errors.New(code, "the VM has failed: %s", why)
	}
	if hint != "" {
		return e.WithHint("%s", hint)
	}
	return e
}

// NotStarted reports whether a VM is stopped because it could not be started again.
func NotStarted(vm *domain.VM) bool {
	return vm.Observed == domain.Stopped && vm.Tombstone != nil && vm.Tombstone.Cause == domain.CauseCreateFault
}
