package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
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
		{"uploads", w.uploads.Sweep},
		{"logins", w.sweepLogins},
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
		func(tx storage.Tx) (int, error) { return tx.Uploads().DeleteExpired(ctx, now, sweepBatch) },
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
	before := w.time().Add(-w.config.KeepTasks)
	return w.seldom(&w.archiving.tasks, w.config.KeepTasks, func() error {
		for {
			gone, err := w.dropTasks(ctx, before)
			if err != nil || gone == 0 {
				return err
			}
		}
	})
}

// dropTasks removes some tasks that ended before a time, and tells how many.
func (w *Worker) dropTasks(ctx context.Context, before time.Time) (int, error) {
	var due []*domain.Task
	if err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
		due, err = tx.Tasks().Ended(ctx, before, sweepBatch)
		return err
	}); err != nil || len(due) == 0 {
		return 0, err
	}
	var begun archive.Begun
	if w.config.KeepArchives > 0 {
		few := projects{}
		due = slices.DeleteFunc(due, func(t *domain.Task) bool { return !few.fit(t.ProjectID) })
		var err error
		if begun, err = w.archiver().Prepare(ctx, w.Store, w.time(), few); err != nil {
			return 0, err
		}
	}
	var gone []*domain.Task
	err := w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if gone, err = tx.Tasks().Delete(ctx, due...); err != nil || w.config.KeepArchives == 0 {
			return err
		}
		return w.archiver().Add(ctx, tx, w.time(), begun, archive.Records{Tasks: gone})
	})
	return len(gone), err
}

// archiveEvery is how seldom what ended long ago is removed and archived: each time the
// archives that are added to are written anew.
const archiveEvery = 10 * time.Minute

// archiving is when that was done last, of each part.
type archiving struct{ tasks, tombstones, executions seldom }

// seldom is when something was done last.
type seldom struct {
	mu   sync.Mutex
	last time.Time
}

// seldom does what removes what was kept for so long, if it is time to; where it fails, it
// is done again with the next sweep.
func (w *Worker) seldom(s *seldom, keep time.Duration, do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := w.time()
	if since := now.Sub(s.last); w.config.KeepArchives > 0 && since >= 0 && since < min(archiveEvery, keep/10) {
		return nil
	}
	err := do()
	if err == nil {
		s.last = now
	}
	return err
}

// sweepTombstones removes VMs that ended long ago, with their executions and journals.
func (w *Worker) sweepTombstones(ctx context.Context) error {
	before := w.time().Add(-w.config.KeepTombstones)
	return w.seldom(&w.archiving.tombstones, w.config.KeepTombstones, func() error {
		return w.dropTombstones(ctx, true, func(tx storage.Tx) ([]*domain.VM, error) {
			return tx.VMs().Tombstones(ctx, w.id, before, tombstoneBatch)
		})
	})
}

// ForgetProject removes the tombstones of a project's VMs, with their
// executions, journals and logs, and its uploads. Other VMs of it stay.
func (w *Worker) ForgetProject(ctx context.Context, project domain.ID) error {
	forgotten := w.uploads.Forget(project) // it fails where one is arriving
	if w.Stored != nil {
		if _, err := w.Fetched.ShrinkTo(0); err != nil { // some may be the project's
			return err
		}
	}
	return errors.Join(forgotten, w.dropTombstones(ctx, false, func(tx storage.Tx) ([]*domain.VM, error) {
		list, err := tx.VMs().List(ctx, storage.VMFilter{
			ProjectID: project, WorkerID: w.id, States: []domain.ObservedState{domain.Deleted}, IncludeDeleted: true, Page: storage.Page{Limit: tombstoneBatch},
		})
		return list.Items, err
	}))
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
				// What has not ended was written when the VM had, by who did not know of it: it
				// goes with the VM.
				e.executions = append(e.executions, slices.DeleteFunc(list.Items, func(x *domain.Execution) bool { return !x.State.Ended() })...)
				if list.Next == "" {
					e.vms = append(e.vms, vm)
				}
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
	return w.seldom(&w.archiving.executions, w.config.KeepTombstones, func() error {
		for {
			gone, err := w.dropEnded(ctx, true, func(tx storage.Tx) (e remains, err error) {
				e.executions, err = tx.Executions().Expired(ctx, w.id, before, sweepBatch)
				return e, err
			})
			if err != nil || len(gone.executions) == 0 {
				return err
			}
		}
	})
}

// dropEnded removes rows first and journals after: a row without a journal
// would lie. A journal that a crash leaves without its row is too old to be made
// one again (recordSwallowed), and goes once its VM is not here any more
// (sweepLeft). What is archived is in an archive from the moment that its row is
// gone. It tells what went.
func (w *Worker) dropEnded(ctx context.Context, archived bool, find func(storage.Tx) (remains, error)) (gone remains, err error) {
	var open *opened
	if archived && w.config.KeepArchives > 0 {
		if open, err = w.openEnded(ctx, find); err != nil || open == nil {
			return remains{}, err
		}
	}
	var packs []*domain.OutputPack
	err = w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		if gone, err = find(tx); err != nil {
			return err
		}
		if open != nil {
			gone = gone.among(open.commands)
			for _, x := range gone.executions {
				x.Command = open.commands[keyOf(x)]
			}
			if err := w.archiver().Add(ctx, tx, w.time(), open.begun, archive.Records{VMs: gone.vms, Executions: gone.executions}); err != nil {
				return err
			}
		}
		packed, ids := map[domain.ID]bool{}, map[domain.ID][]domain.ID{}
		for _, x := range gone.executions {
			ids[x.ProjectID] = append(ids[x.ProjectID], x.ID)
			if x.PackID != "" {
				packed[x.PackID] = true
			}
		}
		for project, some := range ids {
			deleted, err := tx.Executions().Delete(ctx, project, some...)
			if err == nil && len(deleted) != len(some) {
				err = errors.New(errors.Conflict, "%d executions of %d that ended were removed by another", len(some)-len(deleted), len(some))
			}
			if err != nil {
				return err
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

// archiver makes this worker's archives.
func (w *Worker) archiver() archive.Archiver { return archive.Archiver{Sealer: w.Sealer, Worker: w.id} }

// executionKey names an execution: IDs are a project's.
type executionKey struct{ project, id domain.ID }

func keyOf(x *domain.Execution) executionKey { return executionKey{x.ProjectID, x.ID} }

// opened is what was made ready for some executions and VMs to be archived.
type opened struct {
	commands map[executionKey]domain.Command
	begun    archive.Begun
}

// maxOpened bounds the commands that one turn archives, encrypted.
const maxOpened = 4 << 20

// projects are those that one turn archives of; others wait for the next.
type projects map[domain.ID]bool

// fit reports whether a project is one of them, or can be.
func (p projects) fit(project domain.ID) bool {
	if !p[project] && len(p) == archive.MaxProjects {
		return false
	}
	p[project] = true
	return true
}

// bounded is as many of what is to go as one turn archives, and the projects that it is of.
func (e remains) bounded() (remains, projects) {
	few, known, left := projects{}, map[executionKey]domain.Command{}, maxOpened
	for _, x := range e.executions {
		if len(known) > 0 && len(x.CommandSealed) > left {
			break
		}
		if few.fit(x.ProjectID) {
			left -= len(x.CommandSealed)
			known[keyOf(x)] = domain.Command{}
		}
	}
	e = e.among(known)
	e.vms = slices.DeleteFunc(e.vms, func(vm *domain.VM) bool { return !few.fit(vm.ProjectID) })
	return e, few
}

// among leaves out executions that are not known, and VMs that have such.
func (e remains) among(known map[executionKey]domain.Command) remains {
	stay := map[domain.ID]bool{} // VMs
	e.executions = slices.DeleteFunc(slices.Clone(e.executions), func(x *domain.Execution) bool {
		_, ok := known[keyOf(x)]
		stay[x.VMID] = stay[x.VMID] || !ok
		return !ok
	})
	e.vms = slices.DeleteFunc(slices.Clone(e.vms), func(vm *domain.VM) bool { return stay[vm.ID] })
	return e
}

// openEnded makes ready what find finds, as much of it as one turn archives; nil: it finds
// nothing. A command that cannot be opened, for its key is gone, is archived without its
// arguments. Returns Unavailable while no key can be reached: nothing is removed then.
func (w *Worker) openEnded(ctx context.Context, find func(storage.Tx) (remains, error)) (*opened, error) {
	var found remains
	if err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
		found, err = find(tx)
		return err
	}); err != nil || len(found.executions) == 0 && len(found.vms) == 0 {
		return nil, err
	}
	found, few := found.bounded()
	commands := make(map[executionKey]domain.Command, len(found.executions))
	for _, x := range found.executions {
		commands[keyOf(x)] = domain.Command{}
		if len(x.CommandSealed) == 0 {
			continue
		}
		command, err := service.OpenCommand(ctx, w.Sealer, x.ID, x.CommandSealed)
		switch {
		case err == nil:
			commands[keyOf(x)] = command
		case errors.HasCode(err, errors.Unavailable) || ctx.Err() != nil:
			return nil, err
		default:
			w.Log.Warn("a command is archived without its arguments", "execution", x.ID, "error", err)
		}
	}
	begun, err := w.archiver().Prepare(ctx, w.Store, w.time(), few)
	return &opened{commands, begun}, err
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
