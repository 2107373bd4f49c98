package worker

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/archive"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// sweepBatch bounds what one transaction of a sweep removes of each kind.
	sweepBatch = 500
	// tombstoneBatch bounds in how many VMs it is: there is a statement or two for each.
	tombstoneBatch = 50
)

// sweep removes what has been kept long enough.
func (w *Worker) sweep(ctx context.Context) {
	w.inTurn(ctx, []part{
		{"rows", w.sweepRows},
		{"ended tasks", w.sweepTasks},
		{"tombstones", w.sweepTombstones},
		{"executions", w.sweepExecutions},
		{"fork snapshots", w.sweepForkSnapshots},
		{"pool", w.pool.review},
		{"builds", w.sweepBuilds},
		{"copies", w.sweepCopies},
		{"snapshots never made", w.sweepUnmade},
		{"snapshots", w.sweepDisks},
		{"snapshots to store", w.sweepUnstored},
		{"disks of VMs", w.sweepAbandoned},
		{"journals of VMs that moved", w.sweepLeft},
		{"storage", w.sweepStorage},
		{"output", w.sweepOutput},
		{"fetched output", w.sweepFetched},
		{"room for output", w.relieve},
		{"layers", w.sweepLayers},
		{"tools", w.sweepTools},
		{"tool logs", w.sweepToolLogs},
		{"volumes", w.sweepVolumes},
	})
}

// sweepAsked finds what is asked of the worker that it was not told of: whoever
// wrote it down may have died before.
func (w *Worker) sweepAsked(ctx context.Context) {
	w.inTurn(ctx, []part{{"wishes", w.sweepWishes}, {"tasks", w.requeueTasks}})
}

// part is one of the things that a sweep looks at.
type part struct {
	name string
	do   func(context.Context) error
}

func (w *Worker) inTurn(ctx context.Context, parts []part) {
	for _, part := range parts {
		if err := part.do(ctx); err != nil && ctx.Err() == nil {
			w.Log.Error("sweep", "part", part.name, "error", err)
		}
	}
}

func (w *Worker) sweepWishes(ctx context.Context) error {
	var due []*domain.VM
	err := w.Store.View(ctx, func(tx storage.Tx) error {
		vms, err := tx.VMs().Unconverged(ctx, w.id, sweepBatch)
		if err != nil {
			return err
		}
		unacked, err := tx.VMs().Unacked(ctx, w.id, sweepBatch)
		vms = append(vms, unacked...)
		due = vms
		return err
	})
	now := time.Now()
	for _, vm := range due {
		if w.retries.planned(vm, now) || w.steps.serves(vm.ID, vm.Generation) {
			continue
		}
		w.Wake(ctx, vm.ProjectID, vm.ID)
	}
	return err
}

// sweepRows removes rows that are kept no longer, in transactions of their own:
// however many there are, others have their turns in between.
func (w *Worker) sweepRows(ctx context.Context) error {
	now := w.time()
	due := []func(tx storage.Tx) (int, error){
		func(tx storage.Tx) (int, error) { return tx.Idempotency().DeleteExpired(ctx, now, sweepBatch) },
		func(tx storage.Tx) (int, error) { return tx.Answers().DeleteExpired(ctx, now, sweepBatch) },
		func(tx storage.Tx) (int, error) {
			return tx.Outbox().DeleteBefore(ctx, now.Add(-w.config.KeepEvents), sweepBatch)
		},
	}
	if keep := w.config.KeepUsage; keep > 0 {
		due = append(due, func(tx storage.Tx) (int, error) { return tx.Usage().DeleteBefore(ctx, now.Add(-keep), sweepBatch) })
	}
	if keep := w.config.KeepArchives; keep > 0 {
		due = append(due, func(tx storage.Tx) (int, error) { return tx.Archives().DeleteBefore(ctx, now.Add(-keep), sweepBatch) })
	}
	for len(due) > 0 {
		var more []func(tx storage.Tx) (int, error)
		if err := w.Store.Update(ctx, func(tx storage.Tx) error {
			more = nil
			for _, remove := range due {
				n, err := remove(tx)
				if err != nil {
					return err
				}
				if n == sweepBatch {
					more = append(more, remove)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		due = more
	}
	return nil
}

// sweepTasks removes tasks that ended long ago.
func (w *Worker) sweepTasks(ctx context.Context) error {
	now, archived := w.time(), w.config.KeepArchives > 0
	if archived {
		if err := w.archiver().Ready(ctx); err != nil {
			return err
		}
	}
	for {
		var gone []*domain.Task
		err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
			gone, err = tx.Tasks().DeleteEnded(ctx, now.Add(-w.config.KeepTasks), sweepBatch)
			if err == nil && archived {
				err = w.archiver().Add(ctx, tx, now, archive.Records{Tasks: gone})
			}
			return err
		})
		if err != nil || len(gone) < sweepBatch {
			return err
		}
	}
}

// sweepTombstones removes VMs that ended long ago, with their executions and journals.
func (w *Worker) sweepTombstones(ctx context.Context) error {
	before := w.time().Add(-w.config.KeepTombstones)
	return w.dropTombstones(ctx, true, func(tx storage.Tx) ([]*domain.VM, error) {
		return tx.VMs().Tombstones(ctx, w.id, before, tombstoneBatch)
	})
}

// ForgetProject removes the tombstones of a project's VMs, with their
// executions, journals and logs. Other VMs of it stay.
func (w *Worker) ForgetProject(ctx context.Context, project domain.ID) error {
	if w.Stored != nil {
		if _, err := w.Fetched.ShrinkTo(0); err != nil { // some may be the project's
			return err
		}
	}
	return w.dropTombstones(ctx, false, func(tx storage.Tx) ([]*domain.VM, error) {
		list, err := tx.VMs().List(ctx, storage.VMFilter{
			ProjectID: project, WorkerID: w.id, States: []domain.ObservedState{domain.Deleted}, IncludeDeleted: true, Page: storage.Page{Limit: tombstoneBatch},
		})
		return list.Items, err
	})
}

// remains is VMs and executions that have ended and are to go.
type remains struct {
	vms        []*domain.VM // with executions of theirs that are among these
	executions []*domain.Execution
}

// dropTombstones removes VMs that have ended with what is left of them, some
// executions at a time, until none is found.
func (w *Worker) dropTombstones(ctx context.Context, archived bool, find func(storage.Tx) ([]*domain.VM, error)) error {
	for {
		gone, err := w.dropEnded(ctx, archived, func(tx storage.Tx) (e remains, err error) {
			vms, err := find(tx)
			if err != nil {
				return e, err
			}
			for _, vm := range vms {
				if len(e.executions) == sweepBatch {
					break // the next turn goes on with it
				}
				list, err := tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: vm.ProjectID, VMID: vm.ID, Page: storage.Page{Limit: sweepBatch - len(e.executions)}})
				if err != nil {
					return e, err
				}
				if list.Next != "" {
					e.executions = append(e.executions, slices.DeleteFunc(list.Items, func(x *domain.Execution) bool { return !x.State.Ended() })...)
					continue
				}
				e.executions, e.vms = append(e.executions, list.Items...), append(e.vms, vm)
			}
			return e, nil
		})
		if err != nil {
			return err
		}
		w.forgetEgressLogs(ctx, gone.vms)
		if len(gone.executions) == 0 && len(gone.vms) == 0 {
			return nil
		}
	}
}

// sweepExecutions removes executions that ended long ago in VMs that live on.
func (w *Worker) sweepExecutions(ctx context.Context) error {
	before := w.time().Add(-w.config.KeepTombstones)
	for {
		gone, err := w.dropEnded(ctx, true, func(tx storage.Tx) (e remains, err error) {
			e.executions, err = tx.Executions().Expired(ctx, w.id, before, sweepBatch)
			return e, err
		})
		if err != nil || len(gone.executions) < sweepBatch {
			return err
		}
	}
}

// dropEnded removes rows first and journals after: a row without a journal
// would lie. A journal that a crash leaves without its row is too old to be made
// one again (recordSwallowed), and goes once its VM is not here any more
// (sweepLeft). What is archived is in an archive from the moment that its row is
// gone. It tells what went.
func (w *Worker) dropEnded(ctx context.Context, archived bool, find func(storage.Tx) (remains, error)) (gone remains, err error) {
	archived = archived && w.config.KeepArchives > 0
	var commands map[domain.ID]domain.Command
	if archived {
		if commands, err = w.openEnded(ctx, find); err != nil || commands == nil {
			return remains{}, err
		}
	}
	var packs []*domain.OutputPack
	err = w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if gone, err = find(tx); err != nil {
			return err
		}
		packed, ids := map[domain.ID]bool{}, map[domain.ID][]domain.ID{}
		for _, x := range gone.executions {
			ids[x.ProjectID] = append(ids[x.ProjectID], x.ID)
			if x.PackID != "" {
				packed[x.PackID] = true
			}
			var known bool
			if x.Command, known = commands[x.ID]; archived && !known {
				return errElsewhere // it is to go by now: the next sweep finds it
			}
		}
		if archived {
			if err := w.archiver().Add(ctx, tx, w.time(), archive.Records{VMs: gone.vms, Executions: gone.executions}); err != nil {
				return err
			}
		}
		for project, some := range ids {
			deleted, err := tx.Executions().Delete(ctx, project, some...)
			if err != nil {
				return err
			}
			if archived && len(deleted) != len(some) {
				return errElsewhere // which has archived them
			}
		}
		for _, vm := range gone.vms {
			if err := tx.VMs().Delete(ctx, vm.ProjectID, vm.ID); err != nil {
				return err
			}
		}
		packs, err = tx.OutputPacks().DeleteUnused(ctx, slices.Collect(maps.Keys(packed))...)
		return err
	})
	if err != nil {
		if errors.Is(err, errElsewhere) {
			err = nil
		}
		return remains{}, err
	}
	for _, x := range gone.executions {
		err = errors.Join(err, w.Journals.Delete(journalKey(x)))
	}
	for _, p := range packs {
		w.dropOutput(ctx, p)
	}
	return gone, err
}

// errElsewhere takes a turn back: another worker, which sweeps what is of none any more as
// well, was at the same rows.
var errElsewhere = errors.New(errors.Conflict, "another worker removes the same just now")

// archiver makes this worker's archives.
func (w *Worker) archiver() archive.Archiver { return archive.Archiver{Sealer: w.Sealer, Worker: w.id} }

// openEnded gives the commands of what find finds; nil: it finds nothing. One that cannot
// be opened, for its key is gone, is archived without. Returns Unavailable while no key
// can be reached: nothing is removed then.
func (w *Worker) openEnded(ctx context.Context, find func(storage.Tx) (remains, error)) (map[domain.ID]domain.Command, error) {
	var found remains
	if err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
		found, err = find(tx)
		return err
	}); err != nil || len(found.executions) == 0 && len(found.vms) == 0 {
		return nil, err
	}
	commands := make(map[domain.ID]domain.Command, len(found.executions))
	for _, x := range found.executions {
		commands[x.ID] = domain.Command{}
		if len(x.CommandSealed) == 0 {
			continue
		}
		command, err := service.OpenCommand(ctx, w.Sealer, x.ID, x.CommandSealed)
		switch {
		case err == nil:
			commands[x.ID] = command
		case errors.HasCode(err, errors.Unavailable) || ctx.Err() != nil:
			return nil, err
		default:
			w.Log.Warn("a command is archived without its arguments", "execution", x.ID, "error", err)
		}
	}
	return commands, w.archiver().Ready(ctx)
}

// sweepForkSnapshots removes the frozen disks below forks that all run by now.
func (w *Worker) sweepForkSnapshots(ctx context.Context) error {
	return w.dropForkSnapshots(ctx, unmadeAge)
}

// dropForkSnapshots looks at those of an age. A young one may be about to get
// its first fork, unless the process that was to make it has ended.
func (w *Worker) dropForkSnapshots(ctx context.Context, age time.Duration) error {
	var rows []*domain.Snapshot
	err := w.Store.View(ctx, func(tx storage.Tx) error {
		list, err := tx.Snapshots().List(ctx, storage.SnapshotFilter{IncludeEphemeral: true, WorkerID: w.id, Page: storage.Page{Limit: storage.MaxPage}})
		rows = list.Items
		return err
	})
	for _, s := range rows {
		if s.Ephemeral && w.Now().Sub(s.CreatedAt) >= age && !w.making.has(s.ID) {
			w.dropForkSnapshot(ctx, s.ProjectID, s.ID)
		}
	}
	return err
}

// sweepBuilds removes builds that no template, VM or snapshot uses any more.
func (w *Worker) sweepBuilds(ctx context.Context) error {
	var orphans []*domain.Build
	err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
		orphans, err = tx.Builds().Orphans(ctx, w.id, sweepBatch)
		return err
	})
	for _, b := range orphans {
		if w.builds.needed(b.ID) {
			continue // another is being made of it
		}
		err = errors.Join(err, w.deleteBuild(ctx, b.ID))
	}
	return err
}

// usageBatch bounds how many spans one transaction records.
const usageBatch = 500

// sampleUsage records what each running VM used since the last sample, in few
// transactions.
func (w *Worker) sampleUsage(ctx context.Context) {
	var spans []domain.Usage
	record := func() {
		err := w.Store.Aside(ctx, func(tx storage.Tx) error { return tx.Usage().Record(ctx, spans...) })
		if err != nil {
			w.Log.Debug("usage not recorded", "vms", len(spans), "error", err)
		}
		spans = spans[:0]
	}
	for _, l := range w.vms.all() {
		if ctx.Err() != nil {
			return
		}
		span, ok, err := w.usageOf(ctx, l)
		if err != nil {
			w.Log.Debug("usage not read", "vm", l.id, "error", err)
		}
		if ok {
			spans = append(spans, span)
		}
		if len(spans) == usageBatch {
			record()
		}
	}
	if len(spans) > 0 {
		record()
	}
}

// usageOf is the span since the last sample of one VM, if there was one.
func (w *Worker) usageOf(ctx context.Context, l *liveVM) (_ domain.Usage, ok bool, err error) {
	vm := l.row()
	driver, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return domain.Usage{}, false, err
	}
	meter, ok := driver.(vmm.Meter)
	if !ok {
		return domain.Usage{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	now, err := meter.Usage(ctx, string(vm.MachineID))
	if err != nil {
		return domain.Usage{}, false, err
	}
	before, since := l.metered(now)
	if since.IsZero() {
		return domain.Usage{}, false, nil
	}
	span := now.At.Sub(since)
	return domain.Usage{
		ProjectID: vm.ProjectID, VMID: vm.ID, From: since.UTC().Truncate(time.Microsecond), To: now.At.UTC().Truncate(time.Microsecond),
		CPUSeconds:    max(0, now.CPUTime-before.CPUTime).Seconds(),
		MemoryByteSec: float64(before.MemoryBytes+now.MemoryBytes) / 2 * span.Seconds(),
		DiskBytes:     now.DiskBytes,
		EgressBytes:   max(0, now.TxBytes-before.TxBytes),
	}, true, nil
}
