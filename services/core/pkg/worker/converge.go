package worker

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// steps remembers which VM is being stepped for which wish, so that a newer
// wish interrupts a step that would keep it waiting.
type steps struct {
	mu      sync.Mutex
	running map[domain.ID]*step
	closed  bool
}

// step is one that is under way, or about to be.
type step struct {
	generation int64              // of the wish that it serves
	cancel     context.CancelFunc // nil before it begins
	newest     int64              // the newest wish told of before it began
	row        *domain.VM         // as it was written last; nil: it was not
}

// enter says that a VM's row is about to be read and a step to be chosen. From
// here on newer wishes are noted; before, they are in the row.
func (s *steps) enter(id domain.ID) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		s.running = make(map[domain.ID]*step)
	}
	s.running[id] = &step{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, id)
	}
}

// begin gives the context of the step that was chosen for vm, which was
// entered. It has ended already when there is a newer wish.
func (s *steps) begin(ctx context.Context, vm *domain.VM) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[vm.ID]
	r.generation, r.cancel = vm.Generation, cancel
	if s.closed || r.newest > vm.Generation {
		cancel()
	}
	return ctx, cancel
}

// wrote takes note of a row that a step has written.
func (s *steps) wrote(vm *domain.VM) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[vm.ID]; r != nil {
		r.row = vm
	}
}

// written is the row that the step of a VM has written last.
func (s *steps) written(id domain.ID) *domain.VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[id].row
}

// serves reports whether a VM's step serves a wish, or a newer one.
func (s *steps) serves(id domain.ID, generation int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[id]
	return r != nil && r.cancel != nil && r.generation >= generation
}

func (s *steps) underway(id domain.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[id] != nil
}

// supersede cancels the step of a VM when it serves a wish older than generation.
func (s *steps) supersede(id domain.ID, generation int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := s.running[id]; {
	case r == nil:
	case r.cancel == nil:
		r.newest = max(r.newest, generation)
	case r.generation < generation:
		r.cancel()
	}
}

func (s *steps) cancelAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, r := range s.running {
		if r.cancel != nil {
			r.cancel()
		}
	}
}

// Wake implements service.Node.
func (w *Worker) Wake(ctx context.Context, project, id domain.ID) {
	w.enqueueConverge(ctx, project, id)
	if !w.steps.underway(id) {
		return
	}
	w.spawn(func() {
		if vm, err := w.load(w.ctx, id); err == nil {
			w.steps.supersede(id, vm.Generation)
		}
	})
}

// load reads a VM of any project.
func (w *Worker) load(ctx context.Context, id domain.ID) (*domain.VM, error) {
	var vm *domain.VM
	err := w.Store.Read(ctx, func(tx storage.Tx) (err error) {
		vm, err = tx.VMs().Get(ctx, storage.System, id)
		return err
	})
	return vm, err
}

// maxStepsInARow bounds how long one VM is stepped before the others get a
// turn; a life cycle needs at most four.
const maxStepsInARow = 8

// converge steps one VM of a project until it is as wanted. Calls for one VM never overlap.
// An error means: try again later.
func (w *Worker) converge(ctx context.Context, project, id domain.ID) error {
	for range maxStepsInARow {
		if done, err := w.convergeOnce(ctx, id); done || err != nil {
			return err
		}
	}
	w.enqueueConverge(ctx, project, id)
	return nil
}

// convergeOnce takes the one next step, and reports whether there is none left.
func (w *Worker) convergeOnce(ctx context.Context, id domain.ID) (done bool, err error) {
	defer w.steps.enter(id)()
	vm, err := w.load(ctx, id)
	if errors.HasCode(err, errors.NotFound) {
		w.clock.clear(id)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if vm.WorkerID != w.id {
		w.clock.clear(id)
		return true, nil
	}
	defer func() {
		if err != nil {
			w.retries.failed(vm)
		}
	}()
	next := lifecycle.Next(w.view(vm))
	if next == lifecycle.None {
		return true, w.settled(ctx, vm)
	}
	err = w.step(ctx, vm, next)
	switch {
	case errors.Is(err, errWaits):
		return true, nil
	case errors.HasCode(err, errors.Conflict) && w.changedMeanwhile(ctx, vm):
		return false, nil
	case err != nil:
		return false, err
	}
	// Where that was the last step the row need not be read again: whoever has
	// changed it since has had the VM stepped once more.
	if row := w.steps.written(id); row != nil && lifecycle.Next(w.view(row)) == lifecycle.None {
		return true, w.settled(ctx, row)
	}
	return false, nil
}

// changedMeanwhile reports whether the row is no longer what the step began with.
func (w *Worker) changedMeanwhile(ctx context.Context, vm *domain.VM) bool {
	now, err := w.load(ctx, vm.ID)
	return err == nil && now.Revision != vm.Revision
}

func (w *Worker) view(vm *domain.VM) lifecycle.View {
	return lifecycle.View{
		Desired:  vm.Desired,
		Observed: vm.Observed,
		Machine:  w.machines.status(vm.MachineID),
		Attached: w.vms.attached(vm.ID, vm.MachineID),
		Launched: vm.Epoch > 0 && vm.StoredID == "",
	}
}

// step runs one step under a context that a newer wish or Stop cancels.
func (w *Worker) step(ctx context.Context, vm *domain.VM, next lifecycle.Step) error {
	ctx, done := w.steps.begin(ctx, vm)
	defer done()
	start := time.Now()
	err := w.run(ctx, vm, next)
	w.Log.Debug("step", "vm", vm.ID, "step", next, "took", time.Since(start), "error", err)
	if err != nil && ctx.Err() != nil && w.ctx.Err() == nil {
		// Interrupted by a newer wish: look again.
		return nil
	}
	return err
}

// settled takes note of a VM that is as wanted: its alarm, and that its newest
// deadline is enforced.
func (w *Worker) settled(ctx context.Context, vm *domain.VM) error {
	w.vms.refresh(vm)
	w.setAlarm(vm)
	if vm.EgressAck != vm.EgressGen && vm.Observed != domain.Deleted {
		if err := w.ApplyEgress(ctx, vm.ID); err != nil {
			return err
		}
	}
	if vm.DeadlineAck == vm.DeadlineGen || vm.Observed == domain.Deleted {
		return nil
	}
	err := w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := tx.VMs().Get(ctx, storage.System, vm.ID)
		if err != nil {
			return err
		}
		if row.WorkerID != w.id {
			return errMoved(vm.ID)
		}
		row.DeadlineAck = vm.DeadlineGen
		return tx.VMs().Update(ctx, row)
	})
	if err == nil {
		w.Changes.Notify(vm.ID)
	}
	return err
}

// setAlarm sets the clock to when time next decides about vm.
func (w *Worker) setAlarm(vm *domain.VM) {
	now := w.Now()
	left, _, ok := lifecycle.TimeLeft(now, vm, w.vms.lastUsed(vm.ID, now))
	if !ok {
		w.clock.clear(vm.ID)
		return
	}
	w.clock.set(vm.ID, now.Add(left))
}
