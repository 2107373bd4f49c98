package worker

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// moveAgain is when a VM whose move failed is tried again.
	moveAgain = time.Minute
	// maxClose bounds the removal of what a move has left.
	maxClose = 10 * time.Minute
)

// moves is what a drained worker does so that its VMs leave it.
type moves struct {
	look   chan struct{}           // one slot: it is to be looked
	wanted atomic.Bool             // they are to leave, as it was told last
	told   bool                    // no row says any more why its VM stays
	later  map[domain.ID]time.Time // VMs whose move failed, and when to try again
	open   []move                  // of which it is not known how they ended, or that left something
}

// tell says whether VMs are to leave.
func (m *moves) tell(wanted bool) {
	m.wanted.Store(wanted)
	select {
	case m.look <- struct{}{}:
	default: // it looks anyway
	}
}

// move is one VM's way from its machine into the storage.
type move struct {
	vm      *domain.VM
	memory  bool             // with what is in its memory
	disk    *domain.Snapshot // its row, as it was inserted; nil: it rests in the storage already
	machine domain.ID
	packed  *domain.Packed // nil: it is not in the storage
}

// errMoved is that a VM is another worker's by now.
func errMoved(id domain.ID) error {
	return errors.New(errors.Conflict, "the VM %s is another worker's", id)
}

// offer adds to what a driver says of itself what its VMs can do here.
func (w *Worker) offer(info domain.DriverInfo) domain.DriverInfo {
	if _, err := w.carrier(info.Name); err == nil && w.Depot != nil && slices.Contains(info.Capabilities, "carry") {
		info.Capabilities = append(slices.Clone(info.Capabilities), service.CanMove)
		if slices.Contains(info.Capabilities, "carry:"+string(domain.SnapshotMemory)) {
			info.Capabilities = append(info.Capabilities, service.CanMoveMemory)
		}
	}
	return info
}

// moveVMs has VMs leave the worker while that is wanted, one at a time, until it
// stops. Rows say what is to be done and what was done: killed at any point, the
// worker finds a VM to be its own, and whole, or not its own any more.
func (w *Worker) moveVMs() {
	for {
		select {
		case <-w.moves.look:
		case <-w.ctx.Done():
			return
		}
		w.moves.open = slices.DeleteFunc(w.moves.open, func(m move) bool { return w.closeMove(w.ctx, m) == nil })
		if !w.moves.wanted.Load() {
			w.moves.later = nil
			if !w.moves.told {
				w.moves.told = w.stayNoMore(w.ctx) == nil
			}
			continue
		}
		w.moves.told = false
		if err := w.moveDue(w.ctx); err != nil && w.ctx.Err() == nil {
			w.Log.Warn("it is not known which VMs are to leave this worker", "error", err)
		}
	}
}

// moveDue has those leave that rest, but for what failed lately, and notes how
// many cannot.
func (w *Worker) moveDue(ctx context.Context) error {
	vms, err := w.onWorker(ctx)
	if err != nil {
		return err
	}
	later, staying := map[domain.ID]time.Time{}, 0
	for _, vm := range vms {
		if ctx.Err() != nil || !w.moves.wanted.Load() {
			return ctx.Err()
		}
		switch {
		case vm.Desired == domain.WantDeleted:
			continue
		case vm.Observed == domain.Failed:
			staying++ // nothing is left of it to move
			continue
		}
		bound, err := w.bound(ctx, vm)
		rests := vm.Desired == domain.WantStopped && vm.Observed == domain.Stopped
		if err == nil && bound == "" && vm.KeepsMemory() {
			// Where it cannot leave it is given up, but not before its time.
			rests, err = w.memoryLeaves(ctx, vm)
		}
		if err != nil {
			return err
		}
		switch at, failed := w.moves.later[vm.ID]; {
		case bound != "":
			staying++
			if vm.Observed.Rests() {
				err = w.stays(ctx, vm, bound)
			}
		case !rests:
			// It is not yet.
		case failed && w.Now().Before(at):
			later[vm.ID] = at
			staying++
		case vm.InStorage():
			err = w.departs(ctx, move{vm: vm, memory: vm.KeepsMemory()})
		default:
			err = w.moveOne(ctx, vm)
		}
		if err != nil && !errors.HasCode(err, errors.Conflict) { // else it was wanted otherwise meanwhile
			if ctx.Err() != nil {
				return ctx.Err()
			}
			w.Log.Warn("a VM has not left this worker", "vm", vm.ID, "error", err)
			later[vm.ID] = w.Now().Add(moveAgain)
			staying++
			if serr := w.stays(ctx, vm, errors.Public(err).Message); serr != nil {
				w.Log.Warn("not told why a VM stays", "vm", vm.ID, "error", serr)
			}
		}
	}
	w.moves.later = later // without those that are gone
	return w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := tx.Workers().Get(ctx, w.id)
		if err != nil || row.Staying == staying || !movesAway(row) {
			return err
		}
		row.Staying = staying
		return tx.Workers().Update(ctx, row)
	})
}

func movesAway(w *domain.Worker) bool { return w.DrainAt != nil && w.Moving }

// bound says what of a VM is on this worker alone; empty: it can leave.
func (w *Worker) bound(ctx context.Context, vm *domain.VM) (string, error) {
	if len(vm.Spec.Mounts) > 0 {
		return "its volume " + vm.Spec.Mounts[0].Source + " is there", nil
	}
	if w.Depot == nil {
		return "the worker has no storage", nil
	}
	if _, err := w.carrier(vm.Spec.Driver); errors.HasCode(err, errors.Unsupported) {
		return "the driver " + vm.Spec.Driver + " cannot pack its disk", nil
	}
	b, err := w.loadBuild(ctx, vm.Spec.BuildID)
	if err != nil {
		return "", err
	}
	if p := b.Packed(); b.WorkerID != "" && (p == nil || p.Store != w.Depot.Name()) {
		return "its template is not in the storage", nil
	}
	return "", nil
}

// memoryLeaves reports whether what a VM has in its memory can leave with it.
func (w *Worker) memoryLeaves(ctx context.Context, vm *domain.VM) (bool, error) {
	if vm.InStorage() {
		return true, nil
	}
	why, err := w.memoryStays(ctx, vm)
	return why == "", err
}

// memoryStays says why what a VM has in its memory cannot leave with it; empty: it can.
func (w *Worker) memoryStays(ctx context.Context, vm *domain.VM) (why string, err error) {
	d, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return "", err
	}
	if _, ok := d.(vmm.MemoryCarrier); !ok {
		return "the driver " + vm.Spec.Driver + " cannot pack it", nil
	}
	err = w.Store.View(ctx, func(tx storage.Tx) (err error) {
		why, err = service.MemoryLeaves(ctx, tx, vm, w.Depot.Name())
		return err
	})
	return why, err
}

// stays has a VM's row say why it does not leave, for people.
func (w *Worker) stays(ctx context.Context, vm *domain.VM, why string) error {
	why = staysReason + why
	if vm.Reason == why {
		return nil
	}
	_, err := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		if row.Observed.Rests() && row.Observed != domain.Failed && !row.InStorage() {
			row.Reason = why
		}
		return nil
	})
	return err
}

// staysReason begins what a row says of a VM that does not leave.
const staysReason = "it stays on its worker, which is drained: "

// stayNoMore has no row say so any more: the drain was taken back.
func (w *Worker) stayNoMore(ctx context.Context) error {
	vms, err := w.onWorker(ctx)
	for _, vm := range vms {
		if !strings.HasPrefix(vm.Reason, staysReason) {
			continue
		}
		_, cerr := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
			if row.Reason == vm.Reason {
				row.Reason = ""
			}
			return nil
		})
		err = errors.Join(err, cerr)
	}
	return err
}

// moveOne puts the disk of a VM that rests into the storage, with what it had in its
// memory if it is paused so, and has the VM leave in one transaction. Until then it is as it was; from then on what is here of it
// is nobody's.
func (w *Worker) moveOne(ctx context.Context, vm *domain.VM) error {
	c, err := w.carrier(vm.Spec.Driver)
	if err != nil {
		return err
	}
	err = w.recordSwallowed(ctx, vm, "")
	if err == nil {
		err = w.rows.flush(ctx)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxStore)
	defer cancel()
	begun := w.Now()
	kind := domain.SnapshotDisk
	if vm.KeepsMemory() {
		kind = domain.SnapshotMemory
	}
	m := move{vm: vm, memory: vm.KeepsMemory(), machine: vm.MachineID, disk: &domain.Snapshot{
		ID: domain.NewID(), ProjectID: vm.ProjectID, VMID: vm.ID, BuildID: vm.Spec.BuildID, Driver: vm.Spec.Driver,
		DriverVersion: w.info(vm.Spec.Driver).Version, Kind: kind, Spec: vm.Spec, WorkerID: w.id,
		State: domain.BuildWaiting, DiskOfVM: true, CreatedAt: w.time(),
	}}
	err = w.Store.Update(ctx, func(tx storage.Tx) error {
		// Where nobody is to take it, nothing is packed.
		if _, err := w.leaves(ctx, tx, m); err != nil {
			return err
		}
		return tx.Snapshots().Insert(ctx, m.disk)
	})
	if err == nil {
		err = w.packDisk(ctx, c, &m)
	}
	if err == nil {
		err = w.departs(ctx, m)
	}
	if err == nil {
		w.tellLost(vm.ID) // of what goes on elsewhere nothing ends here
		w.Journals.Part(vm.ID, vm.Epoch)
	}
	if closed := w.tryClose(m); err == nil && closed {
		w.Log.Info("a VM has left this worker", "vm", vm.ID, "bytes", m.packed.Bytes, "memory", m.memory, "took", w.Now().Sub(begun))
	}
	return err
}

// tryClose closes a move now, or, where that fails, later.
func (w *Worker) tryClose(m move) (closed bool) {
	ctx, cancel := context.WithTimeout(w.ctx, maxClose)
	defer cancel()
	err := w.closeMove(ctx, m)
	if err != nil && w.ctx.Err() == nil { // else the next process does
		w.Log.Warn("what a move has left is removed later", "vm", m.vm.ID, "error", err)
		w.moves.open = append(w.moves.open, m)
	}
	return err == nil
}

// packDisk has the disk in the storage, and nothing more of it here than before.
func (w *Worker) packDisk(ctx context.Context, c carrier, m *move) error {
	id := string(m.disk.ID)
	done, err := w.turns.take(ctx, m.machine)
	if err != nil {
		return err
	}
	info, err := c.Snapshot(ctx, string(m.machine), id, m.disk.Kind)
	done()
	if err != nil {
		return err
	}
	m.disk.Bytes = info.Bytes
	if saved := info.MemoryVersion; m.memory && saved != "" && saved != m.disk.DriverVersion {
		return errors.Join(errors.New(errors.Unsupported, "its memory was saved by %s %s, and its worker has %s", m.disk.Driver, saved, m.disk.DriverVersion).
			WithHint("stop it, and it leaves without its memory"), c.DeleteSnapshot(ctx, id))
	}
	pack := c.PackSnapshot
	if m.memory {
		mc, ok := c.(vmm.MemoryCarrier)
		if !ok {
			return errors.New(errors.Unsupported, "the driver %s packs no memory", m.disk.Driver)
		}
		pack = mc.PackMemory
	}
	p, err := w.Depot.SendSnapshot(ctx, m.disk, func(to io.Writer) error { return pack(ctx, id, to) })
	if err != nil {
		return err
	}
	m.packed = &p
	return c.DeleteSnapshot(ctx, id)
}

// leaves gives the row of a VM that is to leave as it is now, with the worker that
// looks after it next. Returns Conflict where it is not to leave any more, Unavailable.
func (w *Worker) leaves(ctx context.Context, tx storage.Tx, m move) (*domain.VM, error) {
	me, err := tx.Workers().Get(ctx, w.id)
	if err != nil {
		return nil, err
	}
	row, err := tx.VMs().Get(ctx, storage.System, m.vm.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case !movesAway(me):
		return nil, errors.New(errors.Conflict, "the drain was taken back")
	case row.WorkerID != w.id:
		return nil, errMoved(row.ID)
	case row.Generation != m.vm.Generation || row.Epoch != m.vm.Epoch || row.MachineID != m.machine ||
		row.KeepsMemory() != m.memory || !m.memory && (row.Desired != domain.WantStopped || row.Observed != domain.Stopped):
		return nil, errors.New(errors.Conflict, "the VM %s is wanted otherwise", row.ID)
	}
	disk := m.disk
	if disk == nil {
		if disk, err = tx.Snapshots().Get(ctx, row.ProjectID, row.StoredID); err != nil {
			return nil, err
		}
	}
	keeper, err := service.Keeper(ctx, tx, disk, w.Depot.Name())
	if err != nil {
		return nil, err
	}
	row.Moved(w.time(), m.memory)
	row.WorkerID, row.MachineID, row.Reason = keeper, "", ""
	row.Generation++
	row.DeadlineGen++ // its keeper takes note of the VM
	row.UpdatedAt = w.time()
	return row, nil
}

// departs writes that a VM has left: from its machine into the storage, where it was
// not there before, and from this worker to the one that looks after it.
func (w *Worker) departs(ctx context.Context, m move) error {
	return w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := w.leaves(ctx, tx, m)
		if err != nil {
			return err
		}
		if m.disk != nil {
			disk, err := tx.Snapshots().Get(ctx, m.disk.ProjectID, m.disk.ID)
			if err != nil {
				return err
			}
			disk.State, disk.WorkerID, disk.Bytes, disk.Packed = domain.BuildReady, "", m.disk.Bytes, m.packed
			row.StoredID = disk.ID
			if err := errors.Join(tx.Snapshots().Update(ctx, disk), tx.Machines().Delete(ctx, m.machine)); err != nil {
				return err
			}
		}
		if err := tx.VMs().Update(ctx, row); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.VM(events.VMUpdated, row, row.UpdatedAt))
	})
}

// closeMove removes what a move has left: of a VM that went, what is here; of one
// that did not, what was stored. Which of them it is, its row says: whoever was not
// answered by the database does not know.
func (w *Worker) closeMove(ctx context.Context, m move) error {
	c, err := w.carrier(m.disk.Driver)
	if err != nil {
		return err
	}
	row, err := w.load(ctx, m.vm.ID)
	switch {
	case errors.HasCode(err, errors.NotFound):
		row = &domain.VM{} // nothing of it is anybody's
	case err != nil:
		return err
	}
	if row.StoredID != m.disk.ID {
		err := w.Store.Update(ctx, func(tx storage.Tx) error { return tx.Snapshots().Delete(ctx, m.disk.ProjectID, m.disk.ID) })
		if err != nil && !errors.HasCode(err, errors.NotFound) {
			return err
		}
		w.dropPacked(ctx, "disk", m.disk.ID, m.packed)
		if err := c.DeleteSnapshot(ctx, string(m.disk.ID)); err != nil {
			return err
		}
	}
	if row.MachineID == m.machine || row.Tombstone != nil && row.Tombstone.MachineID == m.machine {
		return nil // it did not leave
	}
	if err := removeMachine(ctx, c, string(m.machine)); err != nil {
		return err
	}
	w.machines.forget(m.machine)
	return nil // it may be here again by now: its alarm and its session are not touched
}

// removeMachine removes a machine that is nobody's, with its log.
func removeMachine(ctx context.Context, d vmm.Driver, id string) error {
	if c, ok := d.(vmm.EgressController); ok {
		if err := c.ForgetEgressLog(ctx, id); err != nil {
			return err
		}
	}
	return d.Delete(ctx, id)
}

// discard removes a machine, if there is one, that nothing has gone on in.
func (w *Worker) discard(ctx context.Context, id domain.ID, driver vmm.Driver) error {
	if id == "" {
		return nil
	}
	err := removeMachine(context.WithoutCancel(ctx), driver, string(id))
	if err == nil {
		w.machines.forget(id)
	}
	return err
}

// notTaken removes the machine of a VM that could not be started from the storage:
// its disk is there still, and its next start may be on another worker.
func (w *Worker) notTaken(ctx context.Context, vm *domain.VM, driver vmm.Driver, why error) error {
	if err := w.discard(ctx, vm.MachineID, driver); err != nil {
		return errors.Join(why, err)
	}
	w.Log.Error("a VM was not taken out of the storage", "vm", vm.ID, "error", why)
	_, err := w.commitEnd(ctx, vm, events.VMStopped, "the VM was stopped", func(tx storage.Tx, row *domain.VM) error {
		if row.MachineID != "" {
			if err := tx.Machines().Delete(ctx, row.MachineID); err != nil {
				return err
			}
		}
		row.MachineID, row.Observed = "", domain.Stopped
		row.Tombstone = vmm.Bury(&domain.Tombstone{Cause: domain.CauseCreateFault, By: "worker", At: w.time()}, why)
		if row.Desired != domain.WantDeleted {
			row.Desired = domain.WantStopped
			row.Generation++
		}
		return nil
	})
	return err
}

// dropStored removes what was a VM's disk in the storage: it has another one, or
// none any more.
func (w *Worker) dropStored(ctx context.Context, project, id domain.ID) {
	if id == "" {
		return
	}
	var disk *domain.Snapshot
	err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if disk, err = tx.Snapshots().Get(ctx, project, id); err != nil {
			return err
		}
		return tx.Snapshots().Delete(ctx, project, id)
	})
	switch {
	case errors.HasCode(err, errors.NotFound):
		return
	case err == nil:
		err = w.DeleteSnapshot(ctx, disk)
	}
	if err != nil {
		w.Log.Warn("what was a VM's disk is left to the sweep", "snapshot", id, "error", err)
	}
}

// sweepAbandoned removes disks of VMs that have another one, or are gone.
func (w *Worker) sweepAbandoned(ctx context.Context) error {
	if w.Depot == nil {
		return nil
	}
	return each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.Snapshot], error) {
		return tx.Snapshots().List(ctx, storage.SnapshotFilter{IncludeEphemeral: true, Abandoned: true, States: []domain.BuildState{domain.BuildReady}, Page: p})
	}, func(s *domain.Snapshot) {
		if s.Packed != nil && s.Packed.Store == w.Depot.Name() {
			w.dropStored(ctx, s.ProjectID, s.ID)
		}
	})
}

// sweepLeft removes what executions wrote whose VMs have left this worker, when it
// is kept no longer. Their rows are removed where the VMs are.
func (w *Worker) sweepLeft(ctx context.Context) (err error) {
	before := w.Now().Add(-w.config.KeepTombstones)
	left := map[domain.ID]bool{} // by VM
	for _, j := range w.Journals.List() {
		if j.Open || j.Modified.After(before) {
			continue
		}
		gone, known := left[j.Key.VM]
		if !known {
			vm, lerr := w.load(ctx, j.Key.VM)
			if lerr != nil && !errors.HasCode(lerr, errors.NotFound) {
				return lerr
			}
			gone = lerr != nil || vm.WorkerID != w.id
			left[j.Key.VM] = gone
		}
		if gone {
			err = errors.Join(err, w.Journals.Delete(j.Key))
		}
	}
	return err
}
