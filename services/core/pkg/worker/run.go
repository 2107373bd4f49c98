package worker

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

// run carries out one step. It is idempotent: what a crash interrupted is
// stepped again from what is so then.
func (w *Worker) run(ctx context.Context, vm *domain.VM, next lifecycle.Step) error {
	driver, err := w.driver(vm.Spec.Driver)
	if err != nil {
		if errors.HasCode(err, errors.Unavailable) {
			return err // it is where it was
		}
		if next == lifecycle.Delete {
			return w.deleted(ctx, vm) // nothing of it can be here
		}
		return w.failed(ctx, vm, domain.CauseCreateFault, err)
	}
	if vm.StoredID != "" && next != lifecycle.Delete && w.machines.status(vm.MachineID) == lifecycle.MachinePaused {
		return w.arrived(ctx, vm) // first of all it is known to be here
	}
	switch next {
	case lifecycle.Start, lifecycle.Pause, lifecycle.Resume, lifecycle.Stop:
		done, err := w.turns.take(ctx, vm.MachineID)
		if err != nil {
			return err
		}
		defer done()
	}
	switch next {
	case lifecycle.Create:
		return w.create(ctx, vm, driver)
	case lifecycle.Rebuild:
		if err := driver.Delete(ctx, string(vm.MachineID)); err != nil {
			return err
		}
		w.machines.forget(vm.MachineID)
		if err := w.dropInherited(vm); err != nil {
			return err
		}
		return w.create(ctx, vm, driver)
	case lifecycle.Start:
		return w.start(ctx, vm, driver)
	case lifecycle.Attach:
		return w.attach(ctx, vm, driver, newTrace(startTaken))
	case lifecycle.Pause:
		return w.pause(ctx, vm, driver)
	case lifecycle.Resume:
		return w.resume(ctx, vm, driver)
	case lifecycle.Stop:
		return w.stop(ctx, vm, driver)
	case lifecycle.Delete:
		return w.delete(ctx, vm, driver)
	case lifecycle.Settle:
		if vm.InStorage() {
			return w.giveUp(ctx, vm)
		}
		return w.settle(ctx, vm)
	case lifecycle.Ended:
		return w.ended(ctx, vm)
	case lifecycle.Fail:
		return w.failed(ctx, vm, domain.CauseHostLost, errors.New(errors.Internal, "its disk is gone or damaged"))
	}
	return errors.New(errors.Internal, "unknown step %q", next)
}

// create makes a machine for vm, starts it and attaches, or takes one from the pool.
func (w *Worker) create(ctx context.Context, vm *domain.VM, driver vmm.Driver) error {
	if stored, err := w.storedMemory(ctx, vm); err != nil {
		return err
	} else if stored != nil {
		return w.takeIn(ctx, vm, driver, stored)
	}
	trace, pooled := newTrace(startCold), newTrace(startPool)
	var reserved *warm
	if key, ok := w.pool.keyOf(vm); ok {
		defer w.pool.work()()  // who waits for the pool sees that more is to come
		defer w.pool.want(key) // not before: this VM goes first
		reserved = w.pool.reserve(key, vm)
	}
	defer func() {
		if reserved != nil {
			w.pool.giveBack(reserved)
		}
	}()
	if reserved != nil && w.serves(ctx, reserved, vm) {
		m := reserved
		reserved = nil
		if err := w.occupyAtOnce(ctx, vm, driver, m, pooled); err == nil || !w.another(ctx, vm, m, err) {
			return err
		}
	}
	spec, err := w.spec(ctx, vm)
	if err != nil {
		return w.notMade(ctx, vm, driver, err)
	}
	if spec.Memory {
		trace.kind = startMemory
	}
	tools, equipped, err := w.equip(ctx, vm)
	if errors.Is(err, errWaits) || err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		return w.notMade(ctx, vm, driver, err)
	}
	vm, claimed, err := w.intend(ctx, vm, tools, reserved, spec.Memory)
	equipped()
	if err != nil {
		return err
	}
	if claimed {
		m := reserved
		reserved = nil // it is the VM's
		if err := w.occupy(ctx, vm, driver, m, pooled); err == nil || !w.another(ctx, vm, m, err) {
			return err
		}
		if err := driver.Delete(ctx, string(vm.MachineID)); err != nil {
			return err
		}
		trace = newTrace(trace.kind)
	} else {
		trace.phase("intent")
	}
	spec.MachineID = string(vm.MachineID)
	spec.Mounts = append(w.toolMounts(vm), spec.Mounts...) // not before: they are known exactly now
	if err := w.enforceEgress(ctx, vm); isAway(err) {
		w.machines.forget(vm.MachineID) // there is none yet: the next try makes it
		return err
	} else if err != nil {
		return w.createFailed(ctx, vm, driver, err)
	}
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachineBroken)
	handle, err := driver.Create(ctx, spec)
	if err != nil {
		return w.createFailed(ctx, vm, driver, err)
	}
	trace.phase("create")
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachineCreated)
	return w.launch(ctx, vm, driver, handle, trace)
}

// intend binds a machine to vm before anything is done: one that was reserved in the
// pool, which runs already, or the ID of one to be made. A machine that the store
// does not know is an orphan.
func (w *Worker) intend(ctx context.Context, vm *domain.VM, tools []string, reserved *warm, memory bool) (_ *domain.VM, claimed bool, err error) {
	vm, err = w.commit(ctx, vm.ID, "", func(tx storage.Tx, row *domain.VM) error {
		claimed = false
		row.Observed, row.Spec.Tools, row.Reason = domain.Creating, tools, ""
		if row.MachineID != "" {
			return nil
		}
		if reserved != nil {
			m, err := tx.Machines().Claim(ctx, reserved.id, row.ID, 0)
			if err == nil {
				row.MachineID, claimed = m.ID, true
				return nil
			}
			if !errors.HasCode(err, errors.NotFound) {
				return err
			}
		}
		row.MachineID = domain.NewID()
		return tx.Machines().Insert(ctx, &domain.Machine{
			ID: row.MachineID, WorkerID: w.id, Driver: row.Spec.Driver, BuildID: row.Spec.BuildID, VMID: row.ID,
			Shape: domain.Shape{Resources: row.Spec.Resources, Network: row.Spec.Network}, Memory: memory, CreatedAt: w.time(),
		})
	})
	return vm, claimed, err
}

// start runs the existing machine again.
func (w *Worker) start(ctx context.Context, vm *domain.VM, driver vmm.Driver) error {
	if err := w.underway(ctx, vm, domain.Starting); err != nil {
		return err
	}
	if err := w.enforceEgress(ctx, vm); err != nil {
		return err
	}
	return w.launch(ctx, vm, driver, nil, newTrace(startCold))
}

func (w *Worker) launch(ctx context.Context, vm *domain.VM, driver vmm.Driver, handle vmm.Handle, trace *trace) error {
	if err := driver.Start(ctx, string(vm.MachineID)); err != nil {
		return w.createFailed(ctx, vm, driver, err)
	}
	trace.phase("start")
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachineRunning)
	starting := *vm // others have the row as it was written
	starting.Observed = domain.Starting
	vm = &starting
	if handle != nil {
		trace.handle = handle
	}
	return w.attach(ctx, vm, driver, trace)
}

// createFailed gives up a VM whose machine could not be made or started; one
// that has run before keeps its disk and is stopped.
func (w *Worker) createFailed(ctx context.Context, vm *domain.VM, driver vmm.Driver, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err() // interrupted, not failed: the next step looks at what is there
	}
	if vm.StoredID != "" {
		return w.notTaken(ctx, vm, driver, cause)
	}
	if vm.Epoch > 0 {
		return w.stopped(ctx, vm, vmm.Bury(&domain.Tombstone{Cause: domain.CauseCreateFault, By: "worker", At: w.time()}, cause))
	}
	if err := driver.Delete(context.WithoutCancel(ctx), string(vm.MachineID)); err != nil {
		w.Log.Error("half-made machine not removed", "vm", vm.ID, "machine", vm.MachineID, "error", err)
	}
	w.machines.forget(vm.MachineID)
	return w.failed(ctx, vm, domain.CauseCreateFault, cause)
}

// notMade gives up a VM that no machine could be made for. One whose disk is in
// the storage rests there again.
func (w *Worker) notMade(ctx context.Context, vm *domain.VM, driver vmm.Driver, why error) error {
	if ctx.Err() != nil {
		return ctx.Err() // interrupted, not failed
	}
	if vm.StoredID != "" && !isAway(why) {
		return w.notTaken(ctx, vm, driver, why)
	}
	return w.failed(ctx, vm, domain.CauseCreateFault, why)
}

// failed writes that no step can give what is wanted, unless what that needs is
// only away.
func (w *Worker) failed(ctx context.Context, vm *domain.VM, cause domain.Cause, why error) error {
	if isAway(why) {
		return why
	}
	w.Log.Error("VM failed", "vm", vm.ID, "cause", cause, "error", why)
	_, err := w.commitEnd(ctx, vm, events.VMFailed, "the VM failed", func(_ storage.Tx, row *domain.VM) error {
		row.Tombstone = vmm.Bury(&domain.Tombstone{Cause: cause, By: "worker", At: w.time()}, why)
		row.Observed, row.Reason = domain.Failed, row.Tombstone.Detail
		return nil
	})
	return err
}

func (w *Worker) pause(ctx context.Context, vm *domain.VM, driver vmm.Driver) error {
	p, ok := driver.(vmm.Pauser)
	if !ok {
		return w.unwish(ctx, vm)
	}
	if err := w.underway(ctx, vm, domain.Pausing); err != nil {
		return err
	}
	if vm.PauseMode != domain.PauseFreeze {
		return w.sleep(ctx, vm, driver, p)
	}
	w.vms.suspend(vm.ID)
	// Once begun it is carried through: what was interrupted may be frozen or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxFreeze)
	defer cancel()
	if err := p.Pause(ctx, string(vm.MachineID), vm.PauseMode); err != nil {
		w.vms.unsuspend(vm.ID)
		return err
	}
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachinePaused)
	return w.settle(ctx, vm)
}

// unwish takes back a wish that the driver cannot fulfil; the service refuses
// such wishes, so this is for rows from before a change of drivers.
func (w *Worker) unwish(ctx context.Context, vm *domain.VM) error {
	_, err := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		if row.Generation == vm.Generation {
			row.Desired = domain.WantRunning
			row.Generation++
		}
		return nil
	})
	return err
}

func (w *Worker) resume(ctx context.Context, vm *domain.VM, driver vmm.Driver) error {
	if err := w.underway(ctx, vm, domain.Resuming); err != nil {
		return err
	}
	if vm.PauseMode != domain.PauseFreeze || w.machines.isAsleep(vm.MachineID) { // its machine is started, and not only let go on
		if err := w.enforceEgress(ctx, vm); isAway(err) {
			return err
		} else if err != nil {
			return w.notResumed(ctx, vm, err)
		}
	}
	trace := newTrace(startResume)
	resuming := ctx
	if vm.PauseMode == domain.PauseFreeze {
		// Once begun it is carried through: what was interrupted may run or not.
		var cancel context.CancelFunc
		resuming, cancel = context.WithTimeout(context.WithoutCancel(ctx), maxFreeze)
		defer cancel()
	}
	if err := driver.(vmm.Pauser).Resume(resuming, string(vm.MachineID)); err != nil {
		return w.notResumed(ctx, vm, err)
	}
	trace.phase("resume")
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachineRunning)
	if !w.vms.attached(vm.ID, vm.MachineID) {
		return w.attach(ctx, vm, driver, trace)
	}
	if l := w.vms.find(vm.ID); l != nil {
		l.lastUsed.Store(w.Now().UnixNano())
	}
	return w.settle(ctx, vm)
}

// settle writes down that the world is as the driver says.
func (w *Worker) settle(ctx context.Context, vm *domain.VM) error {
	observed := lifecycle.Settled(w.machines.status(vm.MachineID))
	kind := map[domain.ObservedState]string{
		domain.Running: events.VMRunning, domain.Paused: events.VMPaused, domain.Stopped: events.VMStopped,
	}[observed]
	change := func(_ storage.Tx, row *domain.VM) error {
		row.Observed, row.Reason = observed, ""
		return nil
	}
	if observed == domain.Stopped { // it ended while nobody looked: so did what ran in it
		_, err := w.commitEnd(ctx, vm, kind, "the VM was stopped", change)
		return err
	}
	row, err := w.commit(ctx, vm.ID, kind, change)
	if err == nil && observed == domain.Running {
		w.vms.unsuspend(row.ID)
	}
	return err
}

func (w *Worker) stop(ctx context.Context, vm *domain.VM, driver vmm.Driver) error {
	if err := w.underway(ctx, vm, domain.Stopping); err != nil {
		return err
	}
	// A frozen machine cannot end orderly. One whose memory is saved has written
	// its files, and is not brought back for its end.
	if p, ok := driver.(vmm.Pauser); ok && w.machines.status(vm.MachineID) == lifecycle.MachinePaused && !w.machines.isAsleep(vm.MachineID) {
		if err := p.Resume(ctx, string(vm.MachineID)); err != nil {
			return err
		}
	}
	if err := driver.Stop(ctx, string(vm.MachineID), w.config.StopGrace); err != nil {
		return err
	}
	w.machines.set(vm.MachineID, vm.Spec.Driver, lifecycle.MachineCreated)
	w.vms.close(ctx, vm.ID, "the VM was stopped")
	return w.stopped(ctx, vm, nil)
}

// stopped writes that vm's machine does not run; why, if given, replaces the
// reason that the wish left.
func (w *Worker) stopped(ctx context.Context, vm *domain.VM, why *domain.Tombstone) error {
	_, err := w.commitEnd(ctx, vm, events.VMStopped, "the VM was stopped", func(_ storage.Tx, row *domain.VM) error {
		row.Observed = domain.Stopped
		if why != nil {
			row.Tombstone = why
			if row.Desired != domain.WantDeleted {
				row.Desired = domain.WantStopped
				row.Generation++
			}
		}
		return nil
	})
	return err
}

// ended writes why a machine that was wanted running is not.
func (w *Worker) ended(ctx context.Context, vm *domain.VM) error {
	why := &domain.Tombstone{Cause: domain.CauseHostLost, By: "worker", Detail: "it ended while nobody looked", At: w.time()}
	if exit := w.machines.lastExit(vm.MachineID); exit != nil {
		switch {
		case exit.OOM:
			why.Cause, why.Detail = domain.CauseOOM, "the memory limit ended its first process"
		default:
			why.Cause, why.Detail = domain.CauseGuestExit, "its first process ended"
		}
	}
	w.vms.close(ctx, vm.ID, "the VM ended: "+why.Detail)
	why.LastOutput = w.lastOutput(ctx, vm)
	return w.stopped(ctx, vm, why)
}

func (w *Worker) delete(ctx context.Context, vm *domain.VM, driver vmm.Driver) error {
	w.tools.leave(vm.ID)
	if err := w.underway(ctx, vm, domain.Deleting); err != nil {
		return err
	}
	w.vms.suspend(vm.ID)
	if vm.MachineID != "" {
		if err := driver.Delete(ctx, string(vm.MachineID)); err != nil {
			return err
		}
		w.machines.forget(vm.MachineID)
	}
	w.vms.close(ctx, vm.ID, "the VM was deleted")
	return w.deleted(ctx, vm)
}

// deleted turns the row into a tombstone.
func (w *Worker) deleted(ctx context.Context, vm *domain.VM) error {
	last := w.lastOutput(ctx, vm)
	var machine, stored domain.ID
	row, err := w.commitEnd(ctx, vm, events.VMDeleted, "the VM was deleted", func(tx storage.Tx, row *domain.VM) error {
		now := w.time()
		machine = row.MachineID
		if machine != "" {
			if err := tx.Machines().Delete(ctx, row.MachineID); err != nil {
				return err
			}
			row.MachineID = ""
		}
		row.Observed, row.EndedAt = domain.Deleted, &now
		if row.Tombstone == nil {
			row.Tombstone = &domain.Tombstone{Cause: domain.CauseRequested, At: now}
		}
		row.Tombstone.LastOutput, row.Tombstone.MachineID = last, machine
		row.EnvSealed, row.TokenSealed = nil, nil // secrets do not outlive the VM
		stored, row.StoredID = row.StoredID, ""
		return nil
	})
	if err != nil {
		return err
	}
	w.clock.clear(vm.ID)
	w.vms.forget(vm.ID)
	w.dropForkSnapshot(ctx, row.ProjectID, row.Spec.SnapshotID)
	w.dropStored(ctx, row.ProjectID, stored)
	return nil
}

// due is called by the clock when vm's time may be up.
func (w *Worker) due(ctx context.Context, id domain.ID) {
	working := ctx
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	vm, err := w.load(ctx, id)
	switch {
	case working.Err() != nil:
		return // the worker stops: its next life has the alarm again
	case errors.HasCode(err, errors.NotFound):
		w.clock.clear(id)
		return
	case err != nil:
		w.enforceAlone(ctx, id, err)
		return
	}
	if vm.WorkerID != w.id {
		w.clock.clear(id)
		return
	}
	now := w.Now()
	left, cause, ok := lifecycle.TimeLeft(now, vm, w.vms.lastUsed(id, now))
	if !ok || left > 0 {
		w.setAlarm(vm)
		return
	}
	_, err = w.commit(ctx, id, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		if row.Generation != vm.Generation || row.DeadlineGen != vm.DeadlineGen {
			return nil // its owner was quicker
		}
		w.timeUp(row, cause)
		return nil
	})
	if err != nil {
		if working.Err() == nil {
			w.enforceAlone(ctx, id, err)
		}
		return
	}
	w.Wake(ctx, vm.ProjectID, id)
}

// timeUp changes what is wanted of a VM as its timeout says, for a cause. One
// that is drained rests without memory: what is frozen would be lost with the node.
func (w *Worker) timeUp(row *domain.VM, cause domain.Cause) {
	row.Desired = lifecycle.AtDeadline(row.OnTimeout)
	row.Generation++
	mode := w.pauseMode(row.Spec.Driver)
	if row.Desired == domain.WantPaused && cause == domain.CauseDrained && (mode == domain.PauseFreeze || row.Observed == domain.Paused && row.PauseMode == domain.PauseFreeze) {
		row.Desired = domain.WantStopped
	}
	row.Tombstone = &domain.Tombstone{Cause: cause, By: "worker", At: w.time()}
	if row.Desired == domain.WantPaused {
		row.PauseMode = mode
		row.Tombstone = nil
	}
}

// enforceAlone stops a VM whose time is up while the store is away: its disk
// is kept, and the wish is written when the store is back.
func (w *Worker) enforceAlone(ctx context.Context, id domain.ID, why error) {
	w.clock.set(id, w.Now().Add(w.config.SweepEvery))
	vm, ok := w.vms.get(id)
	if !ok {
		return
	}
	now := w.Now()
	if left, _, ok := lifecycle.TimeLeft(now, vm, w.vms.lastUsed(id, now)); !ok || left > 0 {
		return
	}
	w.Log.Warn("store is away: stopping a VM whose time is up", "vm", id, "error", why)
	driver, err := w.driver(vm.Spec.Driver)
	if err == nil {
		err = driver.Stop(ctx, string(vm.MachineID), w.config.StopGrace)
	}
	if err != nil {
		w.Log.Error("VM past its time not stopped", "vm", id, "error", err)
	}
}
