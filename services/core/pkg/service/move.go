package service

import (
	"context"
	"math/rand/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// CanMove is the capability that VMs of a driver leave the worker, and come to it,
// by the storage that it shares with others.
const CanMove = "move"

// CanMoveMemory is the capability that they do so with what is in their memory.
const CanMoveMemory = "move:memory"

// BeingTried is why a driver cannot be used of which nothing is known yet.
const BeingTried = "it is being tried out; ask again in a moment"

// Takes reports whether a worker can be given VMs of a driver out of a storage.
func Takes(w *domain.Worker, driver, store string) bool {
	d := infoOf(w, driver)
	return store != "" && w.Storage == store && d.Usable && can(d, CanMove)
}

// TakesMemory says why a worker cannot have VMs of a driver go on from memory that
// it saved in a version; nil: it can. Returns Conflict.
func TakesMemory(w *domain.Worker, driver, version string) error {
	d := infoOf(w, driver)
	switch {
	case !d.Usable || !can(d, CanMoveMemory):
		return errors.New(errors.Conflict, "the worker %s cannot have VMs of the driver %s go on from memory", w.Name, driver)
	case d.Version != version:
		return errors.New(errors.Conflict, "the VM's memory was saved by %s %s, and the worker %s has %s", driver, version, w.Name, d.Version)
	}
	return nil
}

// takes reports whether a worker can be given a VM that rests in a storage as disk
// says.
func takes(w *domain.Worker, disk *domain.Snapshot, store string) bool {
	return Takes(w, disk.Driver, store) &&
		(disk.Kind != domain.SnapshotMemory || TakesMemory(w, disk.Driver, disk.DriverVersion) == nil)
}

// Keeper picks a worker to look after a VM that rests in a storage as disk says,
// which needs no room; any of those that take what is new, and could start it.
// Returns Unavailable where there is none.
func Keeper(ctx context.Context, tx storage.Tx, disk *domain.Snapshot, store string) (domain.ID, error) {
	all, err := tx.Workers().All(ctx)
	if err != nil {
		return "", err
	}
	var able []domain.ID
	for _, w := range all {
		if w.State == domain.WorkerReady && takes(w, disk, store) {
			able = append(able, w.ID)
		}
	}
	switch {
	case len(able) > 0:
		return able[rand.IntN(len(able))], nil
	case disk.Kind == domain.SnapshotMemory:
		return "", errors.New(errors.Unavailable, "no other worker that is there can take its memory").
			WithHint("it needs a worker with the same storage, and the driver %s in the version %s", disk.Driver, disk.DriverVersion).WithRetryAfter(retryAway)
	}
	return "", errors.New(errors.Unavailable, "no other worker that is there can take it").
		WithHint("it needs a worker with the same storage and the driver %s", disk.Driver).WithRetryAfter(retryAway)
}

// MemoryLeaves says why what a VM has in its memory cannot leave its worker with
// it; empty: it can. A worker that could take it may be away, or cordoned.
func MemoryLeaves(ctx context.Context, tx storage.Tx, vm *domain.VM, store string) (string, error) {
	if len(vm.Spec.Tools) > 0 {
		return "it knows the tools' files as this worker has them", nil
	}
	all, err := tx.Workers().All(ctx)
	if err != nil {
		return "", err
	}
	var version string
	for _, w := range all {
		if d := infoOf(w, vm.Spec.Driver); d.Reason == BeingTried && w.Storage == store {
			return "", nil // it may, which is known soon: what is given up is lost
		} else if w.ID == vm.WorkerID {
			version = d.Version
		}
	}
	for _, w := range all {
		if w.ID != vm.WorkerID && Takes(w, vm.Spec.Driver, store) && TakesMemory(w, vm.Spec.Driver, version) == nil {
			return "", nil
		}
	}
	return "no other worker has " + vm.Spec.Driver + " " + version, nil
}

// replace gives a VM that rests in the storage, and is to be started, to a worker
// with room for it, in the transaction that wishes so.
// Returns what choose does.
func (s *Service) replace(ctx context.Context, tx storage.Tx, vm *domain.VM) error {
	at, err := findDisk(ctx, tx, vm.ProjectID, vm.StoredID)
	if err != nil {
		return err
	}
	if at.packed == nil {
		return notStored(vm)
	}
	store := at.packed.Store
	disk, err := tx.Snapshots().Get(ctx, vm.ProjectID, vm.StoredID)
	if err != nil {
		return err
	}
	if disk.Kind == domain.SnapshotMemory && vm.Desired == domain.WantStopped {
		disk.Kind = domain.SnapshotDisk // its worker has not given it up yet
		if err := tx.Snapshots().Update(ctx, disk); err != nil {
			return err
		}
	}
	n := s.needOf(vm, at, "too little %s is left; its disk is kept: delete or stop other VMs and start it again")
	unable := n.unable
	n.unable = func(w *domain.Worker) error {
		if !Takes(w, vm.Spec.Driver, store) {
			return errors.New(errors.Conflict, "the worker %s cannot get the VM's disk", w.Name).
				WithHint("give it the same storage, and the same driver, as the worker that the VM has left")
		}
		if disk.Kind == domain.SnapshotMemory {
			if err := TakesMemory(w, disk.Driver, disk.DriverVersion); err != nil {
				return errors.Wrap(err, errors.Conflict, "%s", errors.Public(err).Message).
					WithHint("stop it, to start it from its disk alone; what it had in its memory is lost then")
			}
		}
		return unable(w)
	}
	w, err := s.choose(ctx, tx, n)
	if err != nil {
		return err
	}
	driver, err := s.driverFor(w, vm.Spec)
	if w.ID != vm.WorkerID {
		vm.Moved(s.time(), false) // it may have been tried there
	}
	vm.WorkerID, vm.Isolation, vm.UnreachableSince = w.ID, driver.Isolation, nil
	vm.DeadlineGen++ // it has not taken note of the VM yet
	return err
}

// halfWay reports whether a worker that is away was to take a VM out of the storage
// with its memory, and had not all of it. Nothing of it goes on before that.
func (s *Service) halfWay(ctx context.Context, tx storage.Tx, vm *domain.VM) (bool, error) {
	if vm.MachineID == "" || vm.UnreachableSince == nil {
		return false, nil
	}
	return memoryStored(ctx, tx, vm)
}

// memoryStored reports whether what a VM had in its memory is in the storage, and
// nothing has gone on from it yet.
func memoryStored(ctx context.Context, tx storage.Tx, vm *domain.VM) (bool, error) {
	if vm.StoredID == "" {
		return false, nil
	}
	stored, err := tx.Snapshots().Get(ctx, vm.ProjectID, vm.StoredID)
	return err == nil && stored.Kind == domain.SnapshotMemory, err
}

// takeBack has a VM that came half way rest in the storage as before. What its
// worker has of it is nobody's: it may not write that the VM has arrived.
func (s *Service) takeBack(ctx context.Context, tx storage.Tx, vm *domain.VM) error {
	if err := tx.Machines().Delete(ctx, vm.MachineID); err != nil {
		return err
	}
	vm.MachineID, vm.Observed, vm.PauseMode = "", domain.Paused, domain.PauseMemory
	return nil
}

// entrust gives a VM that rests in the storage, and is to be deleted or to rest
// without its memory, to a worker that is there, if its own is not and another one is.
// Returns Unavailable where its own was removed, and there is no other.
func (s *Service) entrust(ctx context.Context, tx storage.Tx, vm *domain.VM) error {
	state, err := tx.Workers().State(ctx, vm.WorkerID)
	removed := errors.HasCode(err, errors.NotFound)
	if err == nil && state != domain.WorkerAway || err != nil && !removed {
		return err
	}
	disk, err := tx.Snapshots().Get(ctx, vm.ProjectID, vm.StoredID)
	if err != nil {
		return err
	}
	if disk.Packed == nil {
		return notStored(vm)
	}
	disk.Kind = domain.SnapshotDisk // what was in its memory is not needed for that
	keeper, err := Keeper(ctx, tx, disk, disk.Packed.Store)
	if errors.HasCode(err, errors.Unavailable) && !removed {
		return nil // its own does it when it is back
	}
	if err == nil {
		vm.WorkerID, vm.UnreachableSince = keeper, nil
	}
	return err
}

// notStored is for a row that says otherwise than what it names.
func notStored(vm *domain.VM) error {
	return errors.New(errors.Internal, "the disk of the VM %s is not in the storage", vm.ID)
}

// inStorage refuses what needs a VM's disk on a worker.
func inStorage(vm *domain.VM) error {
	return errors.New(errors.Conflict, "the VM %s has no machine: its disk is in the storage, since its worker was drained", vm.ID).
		WithHint("start it first")
}

// left is the node that has the output of an execution whose VM has left it.
// Returns Gone, Unavailable.
func (s *Service) left(ctx context.Context, at domain.ID) (Node, error) {
	var w *domain.Worker
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		w, err = tx.Workers().Get(ctx, at)
		return err
	})
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil, errors.Wrap(err, errors.Gone, "the output stayed on the worker %s when the VM left it, and that worker is no more", at).
			WithHint("what became of the execution is known: get it without its output")
	case err != nil:
		return nil, err
	case w.State == domain.WorkerAway:
		return nil, errors.New(errors.Unavailable, "the output stayed on the worker %s when the VM left it, and that worker is away", w.Name).
			WithHint("what became of the execution is known: get it without its output").WithRetryAfter(retryAway)
	}
	return s.nodes.Node(at)
}
