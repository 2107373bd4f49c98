package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// occupy is attach for a machine from the pool that is vm's by its row. An error means
// that the machine is of no use; the VM can have another one.
func (w *Worker) occupy(ctx context.Context, vm *domain.VM, driver vmm.Driver, m *warm, trace *trace) error {
	trace.phase("claim")
	w.machines.set(m.id, vm.Spec.Driver, lifecycle.MachineRunning)
	client := m.client
	_, plain := w.plain(ctx, vm)
	trace.greeted, trace.configured = client != nil, m.told && plain
	if client == nil {
		client = w.client(driver, vm.MachineID)
	}
	err := w.enforceEgress(ctx, vm)
	if err == nil {
		// From here on the machine may wait for keys: its policy is in force.
		err = w.greet(ctx, vm, driver, client, trace)
	}
	var inherited []*domain.Execution
	switch {
	case err == nil && m.told:
		inherited, err = w.begin(ctx, vm, m.runs)
	case err == nil:
		inherited, err = w.inherit(ctx, vm, client, trace)
	}
	if err != nil {
		client.Close()
		return err
	}
	return w.takeOver(ctx, vm, client, inherited, trace)
}

// plain reports whether vm asks for nothing that an agent has to be told which knows
// what its build sets, and gives that build.
func (w *Worker) plain(ctx context.Context, vm *domain.VM) (*domain.Build, bool) {
	if len(vm.EnvSealed) > 0 || len(vm.Spec.Secrets) > 0 || len(vm.Spec.Tools) > 0 {
		return nil, false
	}
	b, err := w.buildOf(ctx, vm.Spec.BuildID)
	return b, err == nil && vm.Spec.DefaultUser == b.DefaultUser
}

// serves reports whether a machine of the pool needs nothing but a name to be vm's.
// Nothing of vm is in it before vm's row says that it runs there: where that row is
// not written it is the pool's as before, and it is found there by the next worker.
func (w *Worker) serves(ctx context.Context, m *warm, vm *domain.VM) bool {
	if m.client == nil || !m.told || len(m.runs) > 0 || vm.EgressGen != 0 || vm.Epoch > 0 {
		return false
	}
	b, plain := w.plain(ctx, vm)
	return plain && b.Warm.Start == "" // else a command runs before
}

// occupyAtOnce has vm run in a machine that serves it, by one transaction: that it runs,
// and where, is written with whose the machine is. It gets its name beside that. After an
// error the machine is given back, unless vm runs there.
func (w *Worker) occupyAtOnce(ctx context.Context, vm *domain.VM, driver vmm.Driver, m *warm, trace *trace) error {
	trace.unclaimed = true
	next := *vm
	next.MachineID, next.Observed = m.id, domain.Creating
	trace.phase("claim")
	w.watchExit(&next, m.id, driver)
	limited, cancel := context.WithTimeout(ctx, w.config.ReadyTimeout)
	defer cancel()
	trace.named = w.rename(limited, &next, driver)
	err := w.takeOver(ctx, &next, m.client, nil, trace)
	_ = trace.named.get() // nothing of vm is done in a machine that is given back
	if err != nil {
		w.pool.giveBack(m)
	}
	return err
}

// claim writes whose a machine of the pool is from now on. Returns Conflict when the
// VM has got another one meanwhile; the transaction fails with NotFound when the machine
// is the pool's no more.
func claim(ctx context.Context, tx storage.Tx, row, vm *domain.VM) error {
	if row.MachineID != "" {
		return errors.New(errors.Conflict, "the VM %s has a machine", row.ID)
	}
	row.MachineID = vm.MachineID
	return tx.Machines().Take(ctx, vm.MachineID, row.ID, row.Epoch)
}

// another reports whether vm needs another machine than the pool's that did not become
// its own: nothing has run in that one. Where it is not known what was written, it does not.
func (w *Worker) another(ctx context.Context, vm *domain.VM, m *warm, why error) bool {
	if ctx.Err() != nil || isAway(why) {
		return false
	}
	if row, err := w.load(ctx, vm.ID); err != nil || row.WorkerID != w.id || row.Observed == domain.Running || row.Epoch > 0 {
		return false
	}
	w.Log.Warn("a machine from the pool is of no use, making one", "vm", vm.ID, "machine", m.id, "error", why)
	return true
}
