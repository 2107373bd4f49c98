package worker

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// earlier is the journals that an earlier life of the worker left of VMs that are
// here, in the epochs that they are in. The worker may have been killed before it
// wrote the rows of some. Most of these are met in the machine, which tells more
// about them; what nobody meets any more is made a row from its journal.
type earlier struct {
	one   keyed[domain.ID] // looks which of a VM's have rows
	mu    sync.Mutex
	byVM  map[domain.ID]map[domain.ID]time.Time // when each was last written to, by execution
	epoch map[domain.ID]int64                   // of each VM
	of    map[domain.ID]domain.ID               // the VM of each execution
}

// note takes down what there is when the worker starts.
func (e *earlier) note(vms []*domain.VM, journals []journal.Info) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byVM, e.epoch, e.of = map[domain.ID]map[domain.ID]time.Time{}, make(map[domain.ID]int64, len(vms)), map[domain.ID]domain.ID{}
	for _, vm := range vms {
		e.epoch[vm.ID] = vm.Epoch
	}
	for _, j := range journals {
		if epoch, here := e.epoch[j.Key.VM]; !here || epoch != j.Key.Epoch {
			continue
		}
		if e.byVM[j.Key.VM] == nil {
			e.byVM[j.Key.VM] = map[domain.ID]time.Time{}
		}
		e.byVM[j.Key.VM][j.Key.Execution] = j.Modified
		e.of[j.Key.Execution] = j.Key.VM
	}
}

// find gives the journal of an execution.
func (e *earlier) find(id domain.ID) (journal.Key, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	vm, ok := e.of[id]
	return journal.Key{VM: vm, Epoch: e.epoch[vm], Execution: id}, ok
}

// written notes that an execution is on record.
func (e *earlier) written(id domain.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of, id)
}

// in lists those of a VM in an epoch.
func (e *earlier) in(vm *domain.VM) map[domain.ID]time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.epoch[vm.ID] != vm.Epoch {
		return nil
	}
	return e.byVM[vm.ID]
}

// done forgets those of a VM: all of them are on record.
func (e *earlier) done(vm domain.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.byVM[vm] {
		delete(e.of, id)
	}
	delete(e.byVM, vm)
	delete(e.epoch, vm)
}

// recordSwallowed makes rows of a VM's executions that an earlier life of the worker
// told to have begun and was killed before it wrote them: as their journals say that
// they ended, or else as lost for a reason. Without one they go on with their VM,
// and are written as running. What their commands are is told by their journals,
// where these have room for it.
func (w *Worker) recordSwallowed(ctx context.Context, vm *domain.VM, reason string) error {
	defer w.earlier.one.lock(vm.ID)()
	all := w.earlier.in(vm)
	if len(all) == 0 {
		return nil
	}
	if err := w.rows.flush(ctx); err != nil { // of what was met
		return err
	}
	written := make(map[domain.ID]bool, len(all))
	err := each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.Execution], error) {
		return tx.Executions().List(ctx, storage.ExecutionFilter{VMID: vm.ID, Page: p})
	}, func(x *domain.Execution) { written[x.ID] = true })
	if err != nil {
		return err
	}
	before := w.Now().Add(-w.config.KeepTombstones)
	for id, at := range all {
		if _, _, met := w.execs.get(id); met || written[id] || at.Before(before) { // of the oldest, rows were removed
			continue
		}
		if err := w.recordJournal(journal.Key{VM: vm.ID, Epoch: vm.Epoch, Execution: id}, vm, at, reason); err != nil {
			return err
		}
	}
	if err := w.rows.flush(ctx); err != nil {
		return err
	}
	w.earlier.done(vm.ID)
	return nil
}

// swallowed reports whether an execution that is not in this process's memory is one
// of those without a row. An error tells that it is not known.
func (w *Worker) swallowed(ctx context.Context, id domain.ID) (bool, error) {
	key, ok := w.earlier.find(id)
	if !ok {
		return false, nil
	}
	err := w.Store.Read(ctx, func(tx storage.Tx) error {
		_, err := tx.Executions().InVM(ctx, key.VM, id)
		return err
	})
	switch {
	case err == nil:
		w.earlier.written(id)
		return false, nil
	case !errors.HasCode(err, errors.NotFound):
		return false, err
	}
	j, err := w.Journals.Lookup(key)
	if errors.HasCode(err, errors.NotFound) {
		return false, nil
	}
	if err == nil {
		j.Close()
	}
	return err == nil, err
}

// recordJournal makes a row of what there is but a journal of, last written to at a time.
func (w *Worker) recordJournal(k journal.Key, vm *domain.VM, at time.Time, reason string) error {
	j, err := w.Journals.Lookup(k)
	if errors.HasCode(err, errors.NotFound) {
		return nil // it was not started after all, or is kept no longer
	}
	if err != nil {
		return err
	}
	defer j.Close()
	at = at.UTC().Truncate(time.Microsecond)
	row := &domain.Execution{
		ID: k.Execution, ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: k.Epoch, State: domain.ExecutionRunning, CreatedAt: at, StartedAt: &at,
		CommandSealed: guest.SealedCommand(j),
	}
	if _, err := service.OpenCommand(w.ctx, w.Sealer, row.ID, row.CommandSealed); err != nil {
		row.CommandSealed = nil // its key is kept no more, or there is none
	}
	end, over := j.Ended()
	if !over && reason == "" {
		w.rows.put(row, events.ExecutionStarted, at, nil)
		return nil
	}
	if !over {
		end = domain.ExecutionEnd{ExitCode: -1, LostReason: reason}
		if err := j.AppendEnd(end); err != nil { // the row says it all the same
			w.Log.Warn("journal without an end", "execution", k.Execution, "error", err)
		}
	}
	w.Log.Info("the record of an execution was made from its journal", "vm", vm.ID, "execution", k.Execution, "lost", end.LostReason)
	w.recordEnd(row, guest.Ended{ID: k.Execution, End: end, OutputBytes: j.NextOffset()}, nil)
	return nil
}

// recordResting makes the rows of what nobody meets soon, or at all, in VMs that did
// not run when the worker started.
func (w *Worker) recordResting(vms []*domain.VM) {
	for _, vm := range vms {
		reason := ""
		switch vm.Observed {
		case domain.Paused: // it goes on
		case domain.Stopped:
			reason = "the VM was stopped"
		case domain.Failed:
			reason = "the VM failed"
		default:
			continue
		}
		if err := w.recordSwallowed(w.ctx, vm, reason); err != nil && w.ctx.Err() == nil {
			w.Log.Error("executions of a VM that rests are not on record", "vm", vm.ID, "error", err)
		}
	}
}
