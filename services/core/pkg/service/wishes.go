package service

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// StartVM implements vmm.VMs.
func (s *Service) StartVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	return s.wish(ctx, by, id, domain.WantRunning, nil)
}

// StopVM implements vmm.VMs.
func (s *Service) StopVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	return s.wish(ctx, by, id, domain.WantStopped, nil)
}

// PauseVM implements vmm.VMs.
func (s *Service) PauseVM(ctx context.Context, by vmm.Caller, id domain.ID, mode domain.PauseMode) (*domain.VM, error) {
	if err := mode.Validate("mode"); err != nil {
		return nil, err
	}
	return s.wish(ctx, by, id, domain.WantPaused, func(tx storage.Tx, vm *domain.VM) error { return choosePause(ctx, tx, vm, mode) })
}

// SuspendVM implements vmm.VMs.
func (s *Service) SuspendVM(ctx context.Context, by vmm.Caller, id domain.ID, memory bool) (*domain.VM, error) {
	var mode domain.PauseMode
	if !memory {
		mode = domain.PauseDisk
	}
	vm, err := s.wish(ctx, by, id, domain.WantPaused, func(tx storage.Tx, vm *domain.VM) error {
		s.holdTime(vm)
		return choosePause(ctx, tx, vm, mode)
	})
	if !memory && errors.HasCode(err, errors.Unsupported) {
		return s.wish(ctx, by, id, domain.WantStopped, func(_ storage.Tx, vm *domain.VM) error {
			s.holdTime(vm)
			return nil
		})
	}
	return vm, err
}

// holdTime keeps a VM from being deleted while it is not used.
func (s *Service) holdTime(vm *domain.VM) {
	if vm.Deadline != nil && vm.OnTimeout == domain.TimeoutKill && s.config.MaxTimeout == 0 {
		s.setDeadline(vm, 0)
	}
}

// choosePause decides how a VM is paused.
func choosePause(ctx context.Context, tx storage.Tx, vm *domain.VM, mode domain.PauseMode) error {
	w, err := tx.Workers().Get(ctx, vm.WorkerID)
	if err != nil {
		return err
	}
	if vm.PauseMode, err = pauseMode(w, vm.Spec.Driver, mode); err != nil {
		return err
	}
	stored, err := memoryStored(ctx, tx, vm)
	if stored {
		vm.PauseMode = domain.PauseMemory // it was not begun: its memory is saved, and holds nothing
	}
	return err
}

// PauseModes are the modes of a pause, those first that keep most and hold least.
var PauseModes = []domain.PauseMode{domain.PauseMemory, domain.PauseFreeze, domain.PauseDisk}

// pauseMode checks a mode against the driver's capabilities, or picks the best
// that it has.
func pauseMode(w *domain.Worker, driver string, mode domain.PauseMode) (domain.PauseMode, error) {
	d := infoOf(w, driver)
	for _, m := range PauseModes {
		if can(d, "pause:"+string(m)) && (mode == "" || mode == m) {
			return m, nil
		}
	}
	if mode == "" {
		return "", errors.New(errors.Unsupported, "the driver %s cannot pause", driver)
	}
	return "", errors.New(errors.Unsupported, "the driver %s cannot pause by %s", driver, mode).WithField("mode").
		WithHint("`aetherium doctor` shows what it can")
}

// ResumeVM implements vmm.VMs.
func (s *Service) ResumeVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	return s.wish(ctx, by, id, domain.WantRunning, func(_ storage.Tx, vm *domain.VM) error {
		if vm.Desired == domain.WantStopped {
			return errors.New(errors.Conflict, "the VM is stopped, not paused").WithHint("start it")
		}
		return nil
	})
}

// DeleteVM implements vmm.VMs.
func (s *Service) DeleteVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	return s.wish(ctx, by, id, domain.WantDeleted, nil)
}

// wish changes what is wanted of a VM and wakes its worker. check, if given,
// runs only when something changes and may refine the row.
func (s *Service) wish(ctx context.Context, by vmm.Caller, id domain.ID, want domain.DesiredState, check func(storage.Tx, *domain.VM) error) (*domain.VM, error) {
	var vm *domain.VM
	changed := false
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if vm, err = tx.VMs().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		if changed, err = lifecycle.Ask(vm, want); err != nil {
			return err
		}
		halfWay, err := s.halfWay(ctx, tx, vm)
		if err != nil {
			return err
		}
		// Who was to start it may have left before it began.
		again := !changed && want == domain.WantRunning && (vm.InStorage() || halfWay) && vm.UnreachableSince != nil
		if !changed && !again {
			return nil
		}
		changed = true
		if halfWay {
			if err := s.takeBack(ctx, tx, vm); err != nil {
				return err
			}
		}
		if check != nil {
			if err := check(tx, vm); err != nil {
				return err
			}
		}
		if err := s.admit(ctx, tx, vm, want); err != nil {
			return err
		}
		now := s.time()
		if want == domain.WantDeleted && vm.Observed == domain.Running {
			vm.Observed = domain.Deleting // what its worker would write first
		}
		vm.Desired = want
		vm.Generation++
		vm.UpdatedAt = now
		switch want {
		case domain.WantDeleted, domain.WantStopped:
			vm.Tombstone = &domain.Tombstone{Cause: domain.CauseRequested, By: by.Name, At: now}
		default:
			vm.Tombstone = nil
			if vm.Deadline != nil && !vm.Deadline.After(now) || vm.Deadline == nil && want == domain.WantRunning && vm.Spec.ResumeFor > 0 {
				// Started again after its time was up: it gets its time anew.
				timeout := s.defaultTimeout()
				if vm.Spec.ResumeFor > 0 {
					timeout = vm.Spec.ResumeFor
				}
				s.setDeadline(vm, timeout)
			}
		}
		if err := tx.VMs().Update(ctx, vm); err != nil {
			return err
		}
		return s.emit(ctx, tx, events.VMUpdated, vm, now)
	})
	if err != nil {
		return nil, err
	}
	if want == domain.WantDeleted {
		s.opened.forget(id)
	}
	if changed {
		s.wake(ctx, vm)
	}
	return vm, nil
}

// admit has a worker for a VM that is wanted otherwise, with room for what it holds
// then and did not before.
func (s *Service) admit(ctx context.Context, tx storage.Tx, vm *domain.VM, want domain.DesiredState) error {
	switch {
	case (want == domain.WantDeleted || want == domain.WantStopped) && vm.InStorage():
		return s.entrust(ctx, tx, vm)
	case want != domain.WantRunning:
		return nil
	case vm.Desired == domain.WantRunning: // its worker has left before it began
		return s.replace(ctx, tx, vm)
	case vm.Desired == domain.WantPaused && vm.PauseMode == domain.PauseFreeze:
		return nil
	}
	room := s.readmit
	if vm.InStorage() {
		room = s.replace
	}
	if err := room(ctx, tx, vm); err != nil {
		return err
	}
	need := domain.Quota{MilliCPU: vm.Spec.Resources.MilliCPU, MemoryBytes: vm.Spec.Resources.MemoryBytes}
	return s.withinQuota(ctx, tx, vm.ProjectID, need, vm.ID)
}

// readmit checks that the worker of a VM whose memory was given up has room for
// it again, and is not to be rid of what it has.
func (s *Service) readmit(ctx context.Context, tx storage.Tx, vm *domain.VM) error {
	w, err := tx.Workers().Get(ctx, vm.WorkerID)
	if err != nil {
		return err
	}
	need := vm.Spec.Resources
	need.DiskBytes = 0 // its disk is counted all along
	if vm.Observed != domain.Stopped && vm.Observed != domain.Paused {
		return nil // it is on its way there: its room is still its own
	}
	if w.DrainAt != nil && w.Moving && vm.Reason == "" {
		return errors.New(errors.CapacityExhausted, "the VM's worker is being drained, and the VM is about to leave it").
			WithHint("it can be started again when its disk is in the storage").WithRetryAfter(time.Minute)
	}
	if w.DrainAt != nil {
		return errors.New(errors.CapacityExhausted, "the VM's worker is being drained, and runs nothing more").
			WithHint("what it has is kept; an administrator can take the drain back by `aetherium worker uncordon`").WithRetryAfter(time.Minute)
	}
	if s.lacks(w, need) == "" {
		return nil
	}
	if vm.Desired == domain.WantPaused {
		return errors.New(errors.CapacityExhausted, "the VM's worker has no room for its memory now").
			WithHint("what it had in it is kept; delete, stop or pause other VMs and resume it again").WithRetryAfter(5 * time.Second)
	}
	return errors.New(errors.CapacityExhausted, "the VM's worker has no room for it now").
		WithHint("its disk is kept; delete or stop other VMs and start it again")
}

// WaitVM implements vmm.VMs.
func (s *Service) WaitVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	sub := s.changes.Subscribe(id)
	defer sub.Done()
	fleet := s.looked.Subscribe(struct{}{})
	defer fleet.Done()
	var vm *domain.VM
	for {
		changed, looked := sub.Changed(), fleet.Changed()
		// What was asked for before is in the row that is read first, and so in any newer one.
		if now, _ := s.hereLive(id); vm != nil && now != nil && now.Revision > vm.Revision {
			vm = now
		} else {
			var err error
			if vm, err = s.GetVM(ctx, by, id); err != nil {
				return nil, err
			}
		}
		if lifecycle.Converged(vm.Desired, vm.Observed) {
			if vm.Observed == domain.Failed && vm.Desired != domain.WantDeleted {
				return vm, vmm.Failure(vm)
			}
			if vm.Observed != domain.Failed {
				return vm, nil
			}
		}
		if vm.UnreachableSince != nil {
			return vm, unreachable(vm)
		}
		select {
		case <-changed:
		case <-looked:
		case <-ctx.Done():
			return vm, errors.Wrap(ctx.Err(), errors.CodeOf(ctx.Err()), "the VM is still %s", vm.Observed)
		}
	}
}
