package service

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// CreateSnapshot implements vmm.Snapshots.
func (s *Service) CreateSnapshot(ctx context.Context, by vmm.Caller, vmID domain.ID, req vmm.CreateSnapshot) (*domain.Snapshot, error) {
	if err := domain.ValidateTemplateName("name", req.Name); err != nil {
		return nil, err
	}
	if err := req.Kind.Validate("kind"); err != nil {
		return nil, err
	}
	if req.Kind == "" {
		req.Kind = domain.SnapshotDisk
	}
	snap, err := s.takeSnapshot(ctx, by, vmID, req, false)
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// MaxSnapshot bounds how long it may take to make a snapshot.
const MaxSnapshot = 10 * time.Minute

// maxForget bounds how long it may take to forget one that was not made.
const maxForget = time.Minute

// takeSnapshot writes the intent, lets the node copy, and sees that the result is
// written. A crash of the node in between leaves a waiting row, which the worker
// removes with its data when it starts, and when nobody can be making it any more.
func (s *Service) takeSnapshot(ctx context.Context, by vmm.Caller, vmID domain.ID, req vmm.CreateSnapshot, ephemeral bool) (*domain.Snapshot, error) {
	var vm *domain.VM
	var snap *domain.Snapshot
	var node Node
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if vm, err = tx.VMs().Get(ctx, by.ProjectID, vmID); err != nil {
			return err
		}
		if node, err = s.nodeOf(vm); err != nil {
			return err
		}
		if vm.InStorage() {
			return inStorage(vm)
		}
		switch vm.Observed {
		case domain.Running, domain.Paused, domain.Stopped:
		default:
			return notRunning(vm)
		}
		info, err := driverOf(ctx, tx, vm)
		if err != nil {
			return err
		}
		if err := maySnapshot(info, vm, req.Kind); err != nil {
			return err
		}
		if snap, err = s.newSnapshot(ctx, vm, req); err != nil {
			return err
		}
		snap.DriverVersion = info.Version
		snap.Ephemeral = ephemeral
		if !ephemeral {
			if err := s.withinQuota(ctx, tx, by.ProjectID, domain.Quota{Snapshots: 1}, ""); err != nil {
				return err
			}
		}
		return tx.Snapshots().Insert(ctx, snap)
	})
	if err != nil {
		return nil, err
	}
	// Once begun it is carried through: a caller that goes away must not leave half a snapshot.
	ctx = context.WithoutCancel(ctx)
	making, cancel := context.WithTimeout(ctx, MaxSnapshot)
	defer cancel()
	info, failed := node.Snapshot(making, vm, snap.ID, snap.Kind)
	ctx, cancel = context.WithTimeout(ctx, maxForget) // its own time may be up
	defer cancel()
	// Its worker has written that down, also where the answer that says so was lost.
	var made *domain.Snapshot
	err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
		made, err = tx.Snapshots().Get(ctx, by.ProjectID, snap.ID)
		return err
	})
	if err != nil || made.State != domain.BuildReady {
		made, err = EndSnapshot(ctx, s.store, s.time(), snap, info, failed)
	}
	if err != nil {
		return nil, err
	}
	if !ephemeral {
		node.SnapshotsChanged(ctx)
	}
	return made, nil
}

// EndSnapshot writes down what became of a snapshot that was to be made: it is ready,
// or if that failed it is gone, and the error is the same. The worker that made it does
// so, and then who asked for it, in case the worker is of an older version, or could
// not: what was written first holds. Returns NotFound for one that was given up.
func EndSnapshot(ctx context.Context, store storage.Store, now time.Time, of *domain.Snapshot, info vmm.SnapshotInfo, failed error) (snap *domain.Snapshot, err error) {
	err = store.Update(ctx, func(tx storage.Tx) error {
		snap, err = tx.Snapshots().Get(ctx, of.ProjectID, of.ID)
		switch {
		case err != nil:
			return err
		case snap.State == domain.BuildReady:
			failed = nil
			return nil
		case failed != nil:
			return tx.Snapshots().Delete(ctx, of.ProjectID, of.ID)
		}
		snap.Bytes, snap.State = info.Bytes, domain.BuildReady
		if info.MemoryVersion != "" {
			snap.DriverVersion = info.MemoryVersion // a memory is of use to who saved it
		}
		if err := tx.Snapshots().Update(ctx, snap); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Snapshot(events.SnapshotCreated, snap, now))
	})
	if failed != nil && errors.HasCode(err, errors.NotFound) {
		err = nil // it is gone
	}
	return snap, errors.Join(failed, err)
}

func (s *Service) newSnapshot(ctx context.Context, vm *domain.VM, req vmm.CreateSnapshot) (*domain.Snapshot, error) {
	snap := &domain.Snapshot{
		ID: domain.NewID(), ProjectID: vm.ProjectID, VMID: vm.ID, Name: req.Name,
		BuildID: vm.Spec.BuildID, Driver: vm.Spec.Driver, Kind: req.Kind, Spec: vm.Spec,
		WorkerID: vm.WorkerID, State: domain.BuildWaiting, CreatedAt: s.time(),
	}
	if len(vm.EnvSealed) == 0 {
		return snap, nil
	}
	plain, err := s.sealer.Open(ctx, storage.SealedVMEnv(vm.ID), vm.EnvSealed)
	if err != nil {
		return nil, err
	}
	snap.EnvSealed, err = s.sealer.Seal(ctx, storage.SealedSnapshotEnv(snap.ID), plain)
	return snap, err
}

// GetSnapshot implements vmm.Snapshots.
func (s *Service) GetSnapshot(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Snapshot, error) {
	var snap *domain.Snapshot
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		snap, err = tx.Snapshots().Get(ctx, by.ProjectID, id)
		return err
	})
	return snap, err
}

// ListSnapshots implements vmm.Snapshots.
func (s *Service) ListSnapshots(ctx context.Context, by vmm.Caller, vmID domain.ID, p vmm.Page) (vmm.List[*domain.Snapshot], error) {
	var list vmm.List[*domain.Snapshot]
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.Snapshots().List(ctx, storage.SnapshotFilter{ProjectID: by.ProjectID, VMID: vmID, Page: p})
		return err
	})
	return list, err
}

// DeleteSnapshot implements vmm.Snapshots. What workers that cannot be reached
// have of it they remove later.
func (s *Service) DeleteSnapshot(ctx context.Context, by vmm.Caller, id domain.ID) error {
	var snap *domain.Snapshot
	var copies []domain.ID
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if snap, err = tx.Snapshots().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		if copies, err = tx.Snapshots().Copies(ctx, snap); err != nil {
			return err
		}
		if err := tx.Snapshots().Delete(ctx, by.ProjectID, id); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Snapshot(events.SnapshotDeleted, snap, s.time()))
	})
	if err != nil {
		return err
	}
	for _, at := range append(copies, snap.WorkerID) {
		node, rerr := s.reach(ctx, at)
		if rerr != nil {
			s.log.WarnContext(ctx, "snapshot data is left to the sweep", "snapshot", id, "worker", at, "error", rerr)
			continue
		}
		err = errors.Join(err, node.DeleteSnapshot(ctx, snap))
	}
	return err
}

// maxForks bounds one fork call.
const maxForks = 100

// ForkVM implements vmm.VMs: one frozen copy of the disk, and of the memory
// where that can be had, count VMs from it.
// The copy is the forks' own: it is removed with the last of them.
func (s *Service) ForkVM(ctx context.Context, by vmm.Caller, id domain.ID, count int, req vmm.CreateVM) ([]*domain.VM, error) {
	if count < 1 || count > maxForks {
		return nil, errors.New(errors.InvalidArgument, "%d forks are out of range", count).WithField("count").WithHint("between 1 and %d", maxForks)
	}
	if req.Name != "" && count > 1 {
		return nil, errors.New(errors.InvalidArgument, "a name fits one fork only").WithField("name")
	}
	origin, err := s.GetVM(ctx, by, id)
	if err != nil {
		return nil, err
	}
	if err := sameDriver(req.Driver, origin.Spec.Driver); err != nil {
		return nil, err
	}
	req.Template, req.Driver = string(origin.ID), origin.Spec.Driver
	if req.Network == "" {
		req.Network = origin.Spec.Network
	}
	if req.OnTimeout == "" {
		req.OnTimeout = origin.OnTimeout
	}
	if req.IdleTimeout == 0 {
		req.IdleTimeout = origin.IdleTimeout
	}
	if req.Previews.IsZero() {
		req.Previews = origin.Spec.Previews
	}
	if req.ResumeFor == 0 {
		req.ResumeFor = origin.Spec.ResumeFor
	}
	if err := s.checkCreate(&req); err != nil {
		return nil, err
	}
	if req.Metadata == nil {
		req.Metadata = origin.Metadata
	}
	kind, err := s.forkKind(ctx, origin, req)
	if err != nil {
		return nil, err
	}
	req.RequestDigest = fmt.Sprintf("%s %d %s", origin.ID, count, req.RequestDigest)
	if made, err := s.knownForks(ctx, by, count, req); err != nil || made != nil {
		return made, err
	}
	if err := s.mayFork(ctx, by, count, req, origin); err != nil {
		return nil, err
	}
	snap, err := s.takeSnapshot(ctx, by, id, vmm.CreateSnapshot{Kind: kind}, true)
	if err != nil {
		return nil, err
	}
	vms, err := s.insertForks(ctx, by, count, req, snap, origin)
	if err != nil {
		err = errors.Join(err, s.DeleteSnapshot(context.WithoutCancel(ctx), by, snap.ID))
		if errors.HasCode(err, errors.AlreadyExists) {
			// The same request was quicker, or its key is another request's.
			if made, kerr := s.knownForks(ctx, by, count, req); kerr != nil || made != nil {
				return made, kerr
			}
		}
		return nil, err
	}
	for _, vm := range vms {
		s.wake(ctx, vm)
	}
	return vms, nil
}

// mayFork refuses forks beyond the quota, and while others wait for long, before a disk
// is copied for them. The quota that counts is the one when they are made.
func (s *Service) mayFork(ctx context.Context, by vmm.Caller, count int, req vmm.CreateVM, origin *domain.VM) error {
	if err := s.backlog.open(by.ProjectID); err != nil {
		return err
	}
	fork := &domain.VM{Spec: domain.VMSpec{Resources: req.Resources.Or(origin.Spec.Resources)}}
	return s.store.View(ctx, func(tx storage.Tx) error {
		return s.withinQuota(ctx, tx, by.ProjectID, quotaOf(slices.Repeat([]*domain.VM{fork}, count)...), "")
	})
}

// insertForks makes VMs from a snapshot that nobody else sees: they are shown
// as of the template that their origin is of. Unless they were given a time of
// their own, theirs ends with the origin's.
func (s *Service) insertForks(ctx context.Context, by vmm.Caller, count int, req vmm.CreateVM, snap *domain.Snapshot, origin *domain.VM) ([]*domain.VM, error) {
	req.Template = origin.Spec.Template
	vms := make([]*domain.VM, count)
	for i := range vms {
		id := domain.NewID()
		if i > 0 {
			id = sibling(vms[0].ID, i)
		}
		vm, err := s.newVM(ctx, by, id, req)
		if err != nil {
			return nil, err
		}
		if req.Timeout == nil {
			vm.Deadline = origin.Deadline
		}
		vms[i] = vm
	}
	served, err := s.backlog.take(ctx, by.ProjectID)
	if err != nil {
		return nil, err
	}
	defer served()
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		defer served() // it has its turn
		if req.IdempotencyKey != "" {
			now := s.time()
			err := tx.Idempotency().Insert(ctx, &storage.Idempotent{
				ProjectID: by.ProjectID, Key: forkKey(req), RequestDigest: req.RequestDigest, SubjectID: vms[0].ID,
				Status: 201, CreatedAt: now, ExpiresAt: now.Add(keepIdempotencyKeys),
			})
			if err != nil {
				return err
			}
		}
		for _, vm := range vms {
			if err := s.fromSnapshot(ctx, tx, req, vm, snap, asked{network: req.Network}); err != nil { // its driver was looked at
				return err
			}
		}
		if err := s.withinQuota(ctx, tx, by.ProjectID, quotaOf(vms...), ""); err != nil {
			return err
		}
		for _, vm := range vms {
			if err := s.insertVM(ctx, tx, req, vm, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return vms, err
}

func forkKey(req vmm.CreateVM) string { return forkScope + ":" + req.IdempotencyKey }

// knownForks returns the forks that this request's key made before; none is no error.
// The first is on record; the others' IDs follow from its.
func (s *Service) knownForks(ctx context.Context, by vmm.Caller, count int, req vmm.CreateVM) ([]*domain.VM, error) {
	if req.IdempotencyKey == "" {
		return nil, nil
	}
	var vms []*domain.VM
	err := s.store.View(ctx, func(tx storage.Tx) error {
		rec, err := tx.Idempotency().Get(ctx, by.ProjectID, forkKey(req), s.time())
		switch {
		case errors.HasCode(err, errors.NotFound):
			return nil
		case err != nil:
			return err
		case rec.RequestDigest != req.RequestDigest:
			return errKeyUsed()
		}
		for i := range count {
			id := rec.SubjectID
			if i > 0 {
				id = sibling(id, i)
			}
			vm, err := tx.VMs().Get(ctx, by.ProjectID, id)
			if err != nil {
				return err
			}
			vms = append(vms, vm)
		}
		return nil
	})
	return vms, err
}

// sibling is the ID of the n-th fork of a request, as random as the first one's.
func sibling(first domain.ID, n int) domain.ID {
	return domain.DerivedID("fork", first.String(), strconv.Itoa(n))
}
