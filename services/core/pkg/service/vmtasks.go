package service

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// EndVMTasks ends the running tasks that stand for a VM, if it is where it is wanted.
func EndVMTasks(ctx context.Context, tx storage.Tx, vm *domain.VM, now time.Time) ([]*domain.Task, error) {
	if !lifecycle.Converged(vm.Desired, vm.Observed) {
		return nil, nil
	}
	list, err := tx.Tasks().List(ctx, storage.TaskFilter{Subject: vm.ID, States: []domain.TaskState{domain.TaskRunning}})
	if err != nil {
		return nil, err
	}
	for _, t := range list.Items {
		EndVMTask(t, vm, now)
		if err := tx.Tasks().Update(ctx, t); err != nil {
			return nil, err
		}
		if err := tx.Outbox().Append(ctx, events.Task(events.TaskKind(t.State), t, now)); err != nil {
			return nil, err
		}
	}
	return list.Items, nil
}

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
