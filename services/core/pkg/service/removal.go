package service

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// removalBatch bounds the rows of one kind that one transaction of a removal
// changes: others wait for their turn meanwhile.
const removalBatch = 100

// RemoveWorker implements vmm.Fleet. It begins by writing down that the worker may
// not come back, and ends with its row: what is broken off in between, the same
// call goes on with.
func (s *Service) RemoveWorker(ctx context.Context, _ vmm.Caller, idOrName string, fenced bool) (*domain.Worker, error) {
	w, err := s.beginRemoval(ctx, idOrName, fenced)
	if err != nil {
		return nil, err
	}
	r := &removal{s: s, worker: w.ID, why: "its worker " + w.Name + " was lost with all that it had, and removed"}
	// Each after what uses it.
	for _, end := range []func(context.Context) error{r.vms, r.machines, r.tasks, r.builds, r.snapshots, r.volumes, r.uploads} {
		if err := end(ctx); err != nil {
			return nil, err
		}
	}
	return w, r.end(ctx, w)
}

// beginRemoval finds a worker that may be removed, and has it stay away.
func (s *Service) beginRemoval(ctx context.Context, idOrName string, fenced bool) (w *domain.Worker, err error) {
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		if w, err = findWorker(ctx, tx, idOrName); err != nil {
			return err
		}
		if w.State != domain.WorkerAway {
			return errors.New(errors.Conflict, "the worker %s is %s: only one that is away can be removed", w.Name, w.State).
				WithHint("drain it with move, so that its VMs leave it, and stop its process")
		}
		if !fenced {
			held, err := holds(ctx, tx, w)
			if err != nil {
				return err
			}
			if held != "" {
				return errors.New(errors.Conflict, "the worker %s is away, and still has %s", w.Name, held).WithField("fenced").
					WithHint("start it again, and drain it; or, where its host is off for good or its disk is wiped, say so with fenced (--fenced): then its VMs end, and what it alone had is gone")
			}
		}
		return tx.Settings().Set(ctx, storage.SettingRemoved(w.ID), s.time().Format(time.RFC3339))
	})
	return w, err
}

// holds says what a worker has that would be lost with it; empty: nothing.
func holds(ctx context.Context, tx storage.Tx, w *domain.Worker) (string, error) {
	var held []string
	if w.Tasks > 0 {
		held = append(held, "tasks under way")
	}
	vms, err := holdsVMs(ctx, tx, w)
	if err != nil {
		return "", err
	}
	if vms {
		held = append(held, "VMs")
	}
	volumes, err := tx.Volumes().OnWorker(ctx, w.ID, "", 1)
	if err != nil {
		return "", err
	}
	if len(volumes) > 0 {
		held = append(held, "volumes")
	}
	for page := (storage.Page{Limit: storage.MaxPage}); ; {
		snapshots, err := tx.Snapshots().List(ctx, storage.SnapshotFilter{WorkerID: w.ID, Page: page})
		if err != nil {
			return "", err
		}
		alone := slices.ContainsFunc(snapshots.Items, func(s *domain.Snapshot) bool { return s.Packed == nil || s.Kind == domain.SnapshotMemory })
		if alone {
			held = append(held, "snapshots that are not in the storage, or not with their memory")
		}
		if page.Cursor = snapshots.Next; alone || page.Cursor == "" {
			break
		}
	}
	for page := (storage.Page{Limit: storage.MaxPage}); ; {
		builds, err := tx.Builds().List(ctx, storage.BuildFilter{WorkerID: w.ID, States: []domain.BuildState{domain.BuildReady}, Page: page})
		if err != nil {
			return "", err
		}
		alone := slices.ContainsFunc(builds.Items, func(b *domain.Build) bool { return b.Packed() == nil || b.Memory() != nil })
		if alone {
			held = append(held, "templates that are not in the storage, or not with their memory")
		}
		if page.Cursor = builds.Next; alone || page.Cursor == "" {
			break
		}
	}
	slices.Sort(held)
	return strings.Join(held, ", "), nil
}

// holdsVMs reports whether a worker has VMs that would end with it.
func holdsVMs(ctx context.Context, tx storage.Tx, w *domain.Worker) (bool, error) {
	for after := domain.ID(""); w.VMs > 0; {
		vms, err := tx.VMs().OnWorker(ctx, w.ID, after, storage.MaxPage)
		if err != nil {
			return false, err
		}
		for _, vm := range vms {
			disk, err := diskInStorage(ctx, tx, vm)
			if err != nil || disk == nil {
				return true, err
			}
		}
		if len(vms) < storage.MaxPage {
			break
		}
		after = vms[len(vms)-1].ID
	}
	return false, nil
}

// diskInStorage is the disk of a VM that stays without its worker; nil: it does not.
func diskInStorage(ctx context.Context, tx storage.Tx, vm *domain.VM) (*domain.Snapshot, error) {
	if vm.StoredID == "" || vm.Desired == domain.WantDeleted {
		return nil, nil
	}
	disk, err := tx.Snapshots().Get(ctx, vm.ProjectID, vm.StoredID)
	if err != nil || disk.Packed == nil {
		return nil, err
	}
	return disk, nil
}

// removal takes what a worker had out of the database. It can be begun again at any
// point: what is done is not found any more.
type removal struct {
	s      *Service
	worker domain.ID
	why    string
}

// step is one transaction of a removal. Returns NotFound where another has removed the
// worker meanwhile, Conflict where the worker is back: one of a version that does not
// know of removals.
func (r *removal) step(ctx context.Context, f func(storage.Tx) error) error {
	return r.s.store.Update(ctx, func(tx storage.Tx) error {
		state, err := tx.Workers().State(ctx, r.worker)
		if err != nil {
			return err
		}
		if state != domain.WorkerAway {
			return errors.New(errors.Conflict, "the worker is back while it is being removed").WithHint("see that its host is off, and remove it again")
		}
		return f(tx)
	})
}

// each has f change the rows of a kind, some at a time.
func each[T any](ctx context.Context, r *removal, list func(tx storage.Tx, after string) (items []T, next string, err error), f func(storage.Tx, T) error) error {
	for after := ""; ; {
		next := ""
		err := r.step(ctx, func(tx storage.Tx) error {
			items, at, err := list(tx, after)
			if err != nil {
				return err
			}
			for _, item := range items {
				if err := f(tx, item); err != nil {
					return err
				}
			}
			next = at
			return nil
		})
		if after = next; err != nil || after == "" {
			return err
		}
	}
}

// byID gives where a list that is in ID order goes on; empty: it is at its end.
func byID[T any](items []T, id func(T) domain.ID) string {
	if len(items) < removalBatch {
		return ""
	}
	return string(id(items[len(items)-1]))
}

// vms ends the VMs that the worker had, and gives those that rest in the storage to
// others.
func (r *removal) vms(ctx context.Context) error {
	s := r.s
	for after := ""; ; {
		var kept, ended []*domain.VM
		var tasks []*domain.Task
		next := ""
		err := r.step(ctx, func(tx storage.Tx) error {
			kept, ended, tasks = nil, nil, nil
			vms, err := tx.VMs().OnWorker(ctx, r.worker, domain.ID(after), removalBatch)
			if err != nil {
				return err
			}
			for _, vm := range vms {
				vm.UnreachableSince = nil
				rests, err := r.rest(ctx, tx, vm)
				if err != nil {
					return err
				}
				if rests {
					kept = append(kept, vm)
				} else if err := r.lose(ctx, tx, vm); err != nil {
					return err
				} else {
					ended = append(ended, vm)
				}
				over, err := EndVMTasks(ctx, tx, vm, s.time())
				if err != nil {
					return err
				}
				tasks = append(tasks, over...)
			}
			next = byID(vms, func(vm *domain.VM) domain.ID { return vm.ID })
			return nil
		})
		if err != nil {
			return err
		}
		for _, vm := range ended {
			s.opened.forget(vm.ID)
			s.changes.Notify(vm.ID)
		}
		for _, vm := range kept {
			s.changes.Notify(vm.ID)
			if vm.WorkerID != "" {
				s.wake(ctx, vm)
			}
		}
		for _, t := range tasks {
			s.changes.Notify(t.ID)
		}
		if after = next; after == "" {
			return nil
		}
	}
}

// rest has a VM rest whose disk is in the storage, as it did before the worker was to
// start it, and reports whether it does.
func (r *removal) rest(ctx context.Context, tx storage.Tx, vm *domain.VM) (bool, error) {
	disk, err := diskInStorage(ctx, tx, vm)
	if err != nil || disk == nil {
		return false, err
	}
	if vm.MachineID != "" {
		if err := tx.Machines().Delete(ctx, vm.MachineID); err != nil {
			return false, err
		}
		vm.MachineID = ""
	}
	now, kind := r.s.time(), events.VMUpdated
	switch memory := disk.Kind == domain.SnapshotMemory; {
	case memory && vm.Desired != domain.WantStopped:
		if vm.Desired != domain.WantPaused || vm.Observed != domain.Paused {
			kind = events.VMPaused
		}
		vm.Desired, vm.Observed, vm.PauseMode = domain.WantPaused, domain.Paused, domain.PauseMemory
	case memory && vm.Observed == domain.Paused: // it was to be given up
		disk.Kind = domain.SnapshotDisk
		if err := tx.Snapshots().Update(ctx, disk); err != nil {
			return false, err
		}
		kind, vm.Observed, vm.Reason = events.VMStopped, domain.Stopped, ""
	case vm.Desired != domain.WantStopped || vm.Observed != domain.Stopped:
		kind = events.VMStopped
		vm.Desired, vm.Observed = domain.WantStopped, domain.Stopped
		vm.Tombstone = &domain.Tombstone{Cause: domain.CauseHostLost, By: "worker", Detail: r.why, At: now}
	}
	vm.Moved(now, false) // it may have been tried there
	keeper, err := Keeper(ctx, tx, disk, disk.Packed.Store)
	if err != nil && !errors.HasCode(err, errors.Unavailable) {
		return false, err
	}
	vm.WorkerID = keeper // empty: whoever wants something of it finds one
	vm.Generation++
	vm.DeadlineGen++ // its keeper takes note of the VM
	vm.UpdatedAt = now
	if err := tx.VMs().Update(ctx, vm); err != nil {
		return false, err
	}
	return true, r.s.emit(ctx, tx, kind, vm, now)
}

// lose ends a VM, and what ran in it. It is nobody's from then on: whatever a worker
// that was not off after all writes of it is refused.
func (r *removal) lose(ctx context.Context, tx storage.Tx, vm *domain.VM) error {
	now := r.s.time()
	if vm.MachineID != "" {
		if err := tx.Machines().Delete(ctx, vm.MachineID); err != nil {
			return err
		}
	}
	lost, err := tx.Executions().LoseOpen(ctx, vm.ID, vm.Epoch, r.why, now)
	if err != nil {
		return err
	}
	for _, x := range lost {
		if err := tx.Outbox().Append(ctx, events.Execution(events.ExecutionLost, x, now)); err != nil {
			return err
		}
	}
	if vm.Desired != domain.WantDeleted && vm.Observed != domain.Failed { // else it is known why
		vm.Tombstone, vm.Reason = &domain.Tombstone{Cause: domain.CauseHostLost, By: "worker", Detail: r.why, At: now}, r.why
	}
	if vm.Tombstone == nil {
		vm.Tombstone = &domain.Tombstone{Cause: domain.CauseRequested, At: now}
	}
	vm.Tombstone.MachineID = vm.MachineID
	vm.Moved(now, false) // its output was there
	vm.WorkerID, vm.MachineID, vm.StoredID = "", "", ""
	vm.Desired, vm.Observed = domain.WantDeleted, domain.Deleted
	vm.EnvSealed, vm.TokenSealed = nil, nil // secrets do not outlive the VM
	vm.Generation++
	vm.UpdatedAt, vm.EndedAt = now, &now
	if err := tx.VMs().Update(ctx, vm); err != nil {
		return err
	}
	return r.s.emit(ctx, tx, events.VMDeleted, vm, now)
}

// machines forgets what stood ready for VMs.
func (r *removal) machines(ctx context.Context) error {
	return each(ctx, r, func(tx storage.Tx, _ string) ([]*domain.Machine, string, error) {
		all, err := tx.Machines().OnWorker(ctx, r.worker)
		if len(all) <= removalBatch {
			return all, "", err
		}
		return all[:removalBatch], "more", err
	}, func(tx storage.Tx, m *domain.Machine) error { return tx.Machines().Delete(ctx, m.ID) })
}

// tasks ends the builds and installations that the worker was to do.
func (r *removal) tasks(ctx context.Context) error {
	var ended []domain.ID
	defer func() {
		for _, id := range ended {
			r.s.changes.Notify(id)
		}
	}()
	return each(ctx, r, func(tx storage.Tx, after string) ([]*domain.Task, string, error) {
		list, err := tx.Tasks().List(ctx, storage.TaskFilter{
			WorkerID: r.worker, States: []domain.TaskState{domain.TaskPending, domain.TaskRunning}, Page: storage.Page{Limit: removalBatch, Cursor: after},
		})
		return list.Items, list.Next, err
	}, func(tx storage.Tx, t *domain.Task) error {
		ended = append(ended, t.ID)
		now := r.s.time()
		t.State, t.UpdatedAt, t.EndedAt = domain.TaskFailed, now, &now
		t.Error = &domain.TaskError{Code: string(errors.Unavailable), Message: r.why}
		if t.CancelAsked {
			t.State, t.Error = domain.TaskCanceled, nil
		}
		if t.Kind == TaskBuild {
			b, err := tx.Builds().Get(ctx, storage.System, t.Subject)
			switch {
			case errors.HasCode(err, errors.NotFound):
			case err != nil:
				return err
			case b.State == domain.BuildReady && b.Packed() != nil: // it was just done
				t.State, t.Error = domain.TaskSucceeded, nil
				t.Result, _ = json.Marshal(map[string]domain.ID{"build_id": b.ID}) // it marshals
			}
		}
		if err := tx.Tasks().Update(ctx, t); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskKind(t.State), t, now))
	})
}

// builds writes of those that were made on the worker what is left: all but their
// memory where they are in the storage, and nothing where they are not.
func (r *removal) builds(ctx context.Context) error {
	err := each(ctx, r, func(tx storage.Tx, after string) ([]*domain.Build, string, error) {
		list, err := tx.Builds().List(ctx, storage.BuildFilter{
			WorkerID: r.worker, States: []domain.BuildState{domain.BuildWaiting, domain.BuildBuilding, domain.BuildReady},
			Page: storage.Page{Limit: removalBatch, Cursor: after},
		})
		return list.Items, list.Next, err
	}, func(tx storage.Tx, b *domain.Build) error {
		if b.State == domain.BuildReady && b.Packed() != nil {
			if b.Memory() == nil {
				return nil
			}
			b.Artifacts = slices.DeleteFunc(b.Artifacts, func(a domain.Artifact) bool { return a.Kind == domain.ArtifactMemory })
			return tx.Builds().Lose(ctx, b)
		}
		b.State, b.Reason, b.Artifacts = domain.BuildError, r.why, nil
		if err := tx.Builds().Lose(ctx, b); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Build(events.BuildFailed, b, r.s.time()))
	})
	if err == nil {
		r.s.templatesChanged(ctx)
	}
	return err
}

// snapshots removes those that were on the worker alone. Of the others, others have
// the disk; a memory was there alone.
func (r *removal) snapshots(ctx context.Context) error {
	return each(ctx, r, func(tx storage.Tx, after string) ([]*domain.Snapshot, string, error) {
		list, err := tx.Snapshots().List(ctx, storage.SnapshotFilter{
			IncludeEphemeral: true, WorkerID: r.worker, Page: storage.Page{Limit: removalBatch, Cursor: after},
		})
		return list.Items, list.Next, err
	}, func(tx storage.Tx, snap *domain.Snapshot) error {
		left, err := remains(ctx, tx, snap)
		if err != nil {
			return err
		}
		if left {
			snap.WorkerID, snap.Kind = "", domain.SnapshotDisk
			return tx.Snapshots().Update(ctx, snap)
		}
		if err := tx.Snapshots().Delete(ctx, snap.ProjectID, snap.ID); err != nil {
			return err
		}
		if snap.Ephemeral || snap.DiskOfVM {
			return nil // nobody was told that it is there
		}
		return tx.Outbox().Append(ctx, events.Snapshot(events.SnapshotDeleted, snap, r.s.time()))
	})
}

// remains reports whether a VM can be made from a snapshot without its worker.
func remains(ctx context.Context, tx storage.Tx, snap *domain.Snapshot) (bool, error) {
	if snap.Packed == nil || snap.State != domain.BuildReady {
		return false, nil
	}
	b, err := tx.Builds().Get(ctx, storage.System, snap.BuildID)
	if errors.HasCode(err, errors.NotFound) {
		return false, nil
	}
	return err == nil && b.State == domain.BuildReady, err
}

// volumes forgets those whose files were on the worker.
func (r *removal) volumes(ctx context.Context) error {
	return each(ctx, r, func(tx storage.Tx, after string) ([]*domain.Volume, string, error) {
		some, err := tx.Volumes().OnWorker(ctx, r.worker, domain.ID(after), removalBatch)
		return some, byID(some, func(v *domain.Volume) domain.ID { return v.ID }), err
	}, func(tx storage.Tx, v *domain.Volume) error { return tx.Volumes().Delete(ctx, v.ProjectID, v.ID) })
}

// end removes the worker itself.
func (r *removal) end(ctx context.Context, w *domain.Worker) error {
	err := r.step(ctx, func(tx storage.Tx) error {
		if err := tx.Workers().Delete(ctx, w.ID); err != nil {
			return err
		}
		for _, key := range []string{storage.SettingPool(w.ID), storage.SettingRemoved(w.ID)} {
			if err := tx.Settings().Delete(ctx, key); err != nil {
				return err
			}
		}
		return tx.Outbox().Append(ctx, events.Worker(events.WorkerRemoved, w, r.s.time()))
	})
	if err == nil {
		r.s.log.WarnContext(ctx, "a worker was removed", "worker", w.Name, "id", w.ID)
	}
	return err
}

// uploads are there no more: who wants to build from one has to send it again.
func (r *removal) uploads(ctx context.Context) error {
	return r.s.store.Update(ctx, func(tx storage.Tx) error { return tx.Uploads().DeleteOn(ctx, r.worker) })
}
