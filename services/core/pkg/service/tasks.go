package service

import (
	"context"
	"encoding/json"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// The task kinds.
const (
	// TaskVM stands for a VM's way to where it is wanted; the worker ends it.
	TaskVM = "vm."
	// TaskBuild builds a template.
	TaskBuild = "template.build"
	// TaskTools installs tools.
	TaskTools = "tools.install"
	// TaskRun runs a command in a VM of its own.
	TaskRun = "run"
)

// GetTask implements vmm.TaskService.
func (s *Service) GetTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	var t *domain.Task
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		t, err = tx.Tasks().Get(ctx, by.ProjectID, id)
		return err
	})
	return t, err
}

// ListTasks implements vmm.TaskService.
func (s *Service) ListTasks(ctx context.Context, by vmm.Caller, f vmm.TaskFilter) (vmm.List[*domain.Task], error) {
	var list vmm.List[*domain.Task]
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.Tasks().List(ctx, storage.TaskFilter{
			ProjectID: by.ProjectID, States: f.States, Kind: f.Kind, GroupID: f.GroupID, Page: f.Page,
		})
		return err
	})
	return list, err
}

// CancelTask implements vmm.TaskService. A pending task is canceled at once, a
// running one is asked to end; a task that stands for a VM's creation deletes the VM.
func (s *Service) CancelTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	var t *domain.Task
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if t, err = tx.Tasks().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		if t.State.Ended() {
			return errors.New(errors.Conflict, "the task has ended: it is %s", t.State)
		}
		return s.cancel(ctx, tx, t)
	})
	if err != nil {
		return nil, err
	}
	return t, s.canceled(ctx, by, t)
}

// cancel writes that a task is to end, or has.
func (s *Service) cancel(ctx context.Context, tx storage.Tx, t *domain.Task) error {
	now := s.time()
	t.CancelAsked, t.UpdatedAt = true, now
	kind := events.TaskUpdated
	if t.State == domain.TaskPending {
		t.State, t.EndedAt = domain.TaskCanceled, &now
		kind = events.TaskCanceled
		if t.Kind == TaskRun {
			t.Step = domain.StepDone
		}
	}
	if err := tx.Tasks().Update(ctx, t); err != nil {
		return err
	}
	return tx.Outbox().Append(ctx, events.Task(kind, t, now))
}

// canceled tells of what cancel has written.
func (s *Service) canceled(ctx context.Context, by vmm.Caller, t *domain.Task) error {
	s.changes.Notify(t.ID)
	if t.Kind == taskVMCreate {
		_, err := s.DeleteVM(ctx, by, t.Subject)
		return err
	}
	if t.Kind == TaskRun {
		return s.runCanceled(ctx, by, t)
	}
	s.tell(t.WorkerID, func(n Node) { n.CancelTask(t.ID) })
	return nil
}

// tell has a worker look at what is in the database already. One that is not
// reached, or none, finds the row by itself.
func (s *Service) tell(worker domain.ID, what func(Node)) {
	if worker == "" {
		return
	}
	if node, err := s.nodes.Node(worker); err == nil {
		what(node)
	}
}

// taskVMCreate is the kind of the task that stands for an asynchronous creation.
const taskVMCreate = TaskVM + "create"

// WaitTask implements vmm.TaskService.
func (s *Service) WaitTask(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Task, error) {
	sub := s.changes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		t, err := s.GetTask(ctx, by, id)
		if err != nil || t.State.Ended() {
			return t, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return t, errors.Wrap(ctx.Err(), errors.CodeOf(ctx.Err()), "the task is still %s", t.State)
		}
	}
}

// TaskForVM implements vmm.TaskService. kind is "create", "delete", …; the
// worker ends the task when the VM is where it was wanted.
func (s *Service) TaskForVM(ctx context.Context, by vmm.Caller, kind string, vmID domain.ID, args json.RawMessage) (*domain.Task, error) {
	now := s.time()
	t := &domain.Task{
		ID: domain.NewID(), ProjectID: by.ProjectID, Kind: TaskVM + kind, Subject: vmID, State: domain.TaskRunning,
		Args: args, Attempts: 1, MaxAttempts: 1, CreatedAt: now, UpdatedAt: now, RunAt: now,
	}
	err := s.store.Update(ctx, func(tx storage.Tx) error {
		vm, err := tx.VMs().Get(ctx, by.ProjectID, vmID)
		if err != nil {
			return err
		}
		if lifecycle.Converged(vm.Desired, vm.Observed) {
			EndVMTask(t, vm, now) // it was quicker than this row
		}
		if err := tx.Tasks().Insert(ctx, t); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskCreated, t, now))
	})
	return t, err
}
