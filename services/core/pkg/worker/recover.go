package worker

import (
	"context"
	"strings"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// recover compares what runs on the node with what the store says: it takes
// up what belongs to a VM, removes what belongs to none, and has every VM
// stepped that a crash left between states. It returns those that run, and that
// their clients wait for.
func (w *Worker) recover(ctx context.Context) (running []*domain.VM, err error) {
	vms, err := w.onWorker(ctx)
	if err != nil {
		return nil, err
	}
	pooled, err := w.pooled(ctx)
	if err != nil {
		return nil, err
	}
	w.earlier.note(vms, w.Journals.List())
	owned := make(map[domain.ID]*domain.VM, len(vms))
	for _, vm := range vms {
		if vm.MachineID != "" {
			owned[vm.MachineID] = vm
		}
	}
	for name, d := range w.Deps.Drivers {
		if err := w.recoverMachines(ctx, name, d, owned, pooled); err != nil {
			return nil, err
		}
		if err := w.recoverSnapshots(ctx, name, d); err != nil {
			return nil, err
		}
	}
	if err := w.dropForkSnapshots(ctx, 0); err != nil {
		return nil, err
	}
	if err := w.sweepVolumes(ctx); err != nil {
		return nil, err
	}
	w.recoverEgress(ctx, vms)
	w.recoverBuilds()
	w.pool.recover(pooled)
	for _, vm := range vms {
		w.setAlarm(vm)
		if lifecycle.Next(w.view(vm)) == lifecycle.None {
			continue
		}
		if _, err := w.driver(vm.Spec.Driver); errors.HasCode(err, errors.Unavailable) {
			w.Log.Warn("a VM is left alone", "vm", vm.ID, "error", err)
			continue
		}
		if vm.Observed == domain.Running && vm.Desired == domain.WantRunning {
			running = append(running, vm)
		}
		w.enqueueConverge(ctx, vm.ProjectID, vm.ID)
	}
	w.wg.Go(func() { w.recordResting(vms) })
	return running, w.requeueTasks(ctx)
}

// waitAllConverged blocks until VMs that ran can be talked to again or are known
// not to be.
func (w *Worker) waitAllConverged(ctx context.Context, vms []*domain.VM) {
	var wg sync.WaitGroup
	for _, vm := range vms {
		wg.Go(func() { w.waitConverged(ctx, vm) })
	}
	wg.Wait()
}

func (w *Worker) onWorker(ctx context.Context) ([]*domain.VM, error) {
	var all []*domain.VM
	err := w.Store.View(ctx, func(tx storage.Tx) error {
		var after domain.ID
		for {
			page, err := tx.VMs().OnWorker(ctx, w.id, after, storage.MaxPage)
			if err != nil || len(page) == 0 {
				return err
			}
			all = append(all, page...)
			after = page[len(page)-1].ID
		}
	})
	return all, err
}

// pooled lists the machines that no VM has claimed, by ID.
func (w *Worker) pooled(ctx context.Context) (map[domain.ID]*domain.Machine, error) {
	pooled := map[domain.ID]*domain.Machine{}
	err := w.Store.View(ctx, func(tx storage.Tx) error {
		all, err := tx.Machines().OnWorker(ctx, w.id)
		for _, m := range all {
			if m.VMID == "" {
				pooled[m.ID] = m
			}
		}
		return err
	})
	return pooled, err
}

// Abandon removes all machines that are here, and takes up none: the worker was
// removed from its installation, and they are nobody's. It is not started.
func (w *Worker) Abandon(ctx context.Context) error {
	var err error
	for name, d := range w.Deps.Drivers {
		states, lerr := d.List(ctx)
		if lerr != nil {
			err = errors.Join(err, errors.Wrap(lerr, errors.Internal, "the machines of the driver %s are not known", name))
			continue
		}
		for _, s := range states {
			err = errors.Join(err, removeMachine(ctx, d, s.MachineID))
		}
	}
	return err
}

func (w *Worker) recoverMachines(
	ctx context.Context, name string, d vmm.Driver, owned map[domain.ID]*domain.VM, pooled map[domain.ID]*domain.Machine,
) error {
	states, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		id := domain.ID(s.MachineID)
		if pooled[id] != nil {
			w.machines.set(id, name, statusOf(s.Status))
			continue
		}
		if owned[id] == nil {
			w.Log.Info("removing an orphaned machine", "driver", name, "machine", id, "status", s.Status)
			if err := removeMachine(ctx, d, s.MachineID); err != nil {
				w.Log.Error("orphan not removed", "machine", id, "error", err)
			}
			continue
		}
		w.machines.set(id, name, statusOf(s.Status))
		if s.Status == vmm.StatusPaused && owned[id].PauseMode != domain.PauseFreeze {
			w.machines.sleeps(id, true) // nothing of it runs that could end
			continue
		}
		if s.Status == vmm.StatusRunning || s.Status == vmm.StatusPaused {
			w.watchExit(owned[id], id, d)
		}
	}
	return nil
}

// recoverSnapshots removes snapshot data without a row, and rows whose data
// never became complete.
func (w *Worker) recoverSnapshots(ctx context.Context, name string, d vmm.Driver) error {
	sn, ok := d.(vmm.Snapshotter)
	if !ok {
		return nil
	}
	ids, err := sn.ListSnapshots(ctx)
	if err != nil {
		return err
	}
	if err := w.recoverLayers(ctx, name, sn, ids); err != nil {
		return err
	}
	for _, id := range ids {
		if strings.HasPrefix(id, layerPrefix) {
			continue
		}
		if strings.HasPrefix(id, memoryPrefix) {
			kept, err := w.keepsMemory(ctx, name, id)
			if err != nil {
				return err
			}
			if !kept {
				w.Log.Info("removing a build's memory", "snapshot", id)
				if err := sn.DeleteSnapshot(ctx, id); err != nil {
					w.Log.Error("snapshot not removed", "snapshot", id, "error", err)
				}
			}
			continue
		}
		var row *domain.Snapshot
		err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
			row, err = tx.Snapshots().Get(ctx, storage.System, domain.ID(id))
			return err
		})
		if err == nil && row.State == domain.BuildReady {
			continue
		}
		if err != nil && !errors.HasCode(err, errors.NotFound) {
			return err
		}
		w.Log.Info("removing an incomplete snapshot", "snapshot", id)
		if err := sn.DeleteSnapshot(ctx, id); err != nil {
			w.Log.Error("snapshot not removed", "snapshot", id, "error", err)
		}
	}
	return w.dropWaitingSnapshots(ctx)
}

func (w *Worker) dropWaitingSnapshots(ctx context.Context) error {
	return w.Store.Update(ctx, func(tx storage.Tx) error {
		list, err := tx.Snapshots().List(ctx, storage.SnapshotFilter{
			IncludeEphemeral: true, WorkerID: w.id, States: []domain.BuildState{domain.BuildWaiting}, Page: storage.Page{Limit: storage.MaxPage},
		})
		if err != nil {
			return err
		}
		for _, s := range list.Items {
			w.restless.add(s.VMID)
			if err := tx.Snapshots().Delete(ctx, s.ProjectID, s.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// waitConverged blocks until a VM is where it is wanted or known not to get there.
func (w *Worker) waitConverged(ctx context.Context, vm *domain.VM) {
	ctx, cancel := context.WithTimeout(ctx, w.config.ReadyTimeout)
	defer cancel()
	sub := w.Changes.Subscribe(vm.ID)
	defer sub.Done()
	for {
		changed := sub.Changed()
		if w.vms.attached(vm.ID, vm.MachineID) {
			return
		}
		if row, err := w.load(ctx, vm.ID); err != nil || row.Observed != domain.Running {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.Log.Warn("VM not taken up in time", "vm", vm.ID)
			return
		}
	}
}

// watchExit waits for a machine's end, once at a time, and has the VM stepped then.
func (w *Worker) watchExit(vm *domain.VM, id domain.ID, d vmm.Driver) {
	run, start := w.machines.watch(id)
	if !start {
		return
	}
	w.wg.Go(func() {
		exit, err := d.Wait(w.ctx, string(id))
		if w.ctx.Err() != nil {
			return
		}
		if err != nil {
			w.Log.Debug("machine not watched", "machine", id, "error", err)
			exit = vmm.Exit{At: w.time()}
		}
		if w.machines.ended(id, run, exit) {
			w.Log.Info("machine ended", "vm", vm.ID, "machine", id, "oom", exit.OOM, "code", exit.Code, "known", exit.Known)
			w.Wake(w.ctx, vm.ProjectID, vm.ID)
		}
	})
}
