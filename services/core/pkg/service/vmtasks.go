package service

import (
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// EndVMTask writes into a task how the VM that it stands for turned out.
func EndVMTask(t *domain.Task, vm *domain.VM, now time.Time) {
	t.UpdatedAt, t.EndedAt = now, &now
	if vm.Observed == domain.Failed || t.Kind == taskVMCreate && vm.Observed == domain.Deleted {
		t.State = domain.TaskFailed
		t.Error = &domain.TaskError{Code: string(errors.Conflict), Message: "the VM is " + string(vm.Observed)}
		if vm.Reason != "" {
			t.Error = &domain.TaskError{Code: string(vmm.Failure(vm).Code), Message: vm.Reason}
		}
		if t.CancelAsked {
			t.State, t.Error = domain.TaskCanceled, nil
		}
		return
	}
	t.State = domain.TaskSucceeded
	t.Result, _ = json.Marshal(map[string]string{"vm_id": string(vm.ID), "state": string(vm.Observed)}) // strings marshal
}
