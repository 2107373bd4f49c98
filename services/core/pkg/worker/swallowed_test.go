package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

// lateRows has the bed's worker work with a store whose rows of executions can be late.
func (b *bed) lateRows() *lateRows {
	b.t.Helper()
	late := &lateRows{Store: b.store, asked: make(chan struct{}, 1)}
	b.down()
	b.store = late
	b.up()
	return late
}

// wanted writes a wish, as a gateway does while the worker is not there.
func (b *bed) wanted(vm domain.ID, change func(*domain.VM)) {
	b.t.Helper()
	must(b.t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		row, err := tx.VMs().Get(b.ctx, b.by.ProjectID, vm)
		if err != nil {
			return err
		}
		change(row)
		row.Generation++
		return tx.VMs().Update(b.ctx, row)
	}))
}

// began starts a command that was told of, and whose row is not written.
func (b *bed) began(vm domain.ID, line string) domain.ID {
	b.t.Helper()
	x, err := b.StartExecution(b.ctx, b.by, vm, vmm.StartExecution{ID: domain.NewID(), Command: domain.Command{Args: []string{"sh", "-c", line}}})
	must(b.t, err)
	return x.ID
}

// unwritten checks that an execution has no row.
func (b *bed) unwritten(x domain.ID) {
	b.t.Helper()
	err := b.store.View(b.ctx, func(tx storage.Tx) error {
		_, err := tx.Executions().Get(b.ctx, storage.System, x)
		return err
	})
	if !errors.HasCode(err, errors.NotFound) {
		b.t.Fatalf("its row is written: %v", err)
	}
}

// onRecord waits until an execution is on record. It is not told to be absent before.
func (b *bed) onRecord(x domain.ID) *domain.Execution {
	b.t.Helper()
	for {
		row, err := b.GetExecution(b.ctx, b.by, x)
		if err == nil {
			return row
		}
		if !errors.HasCode(err, errors.Unavailable) || b.ctx.Err() != nil {
			b.t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // it is written beside
	}
}

// What was told to have begun ends in the record, although worker and machine were
// gone before its row was written: as it did, where that is known, or as lost.
func TestRowsThatAMachinesEndWouldSwallow(t *testing.T) {
	t.Parallel()
	machineEnds := func(b *bed, vm *domain.VM) { b.node.Kill(string(vm.MachineID), vmm.Exit{}) }
	for name, end := range map[string]func(*bed, *domain.VM){
		"the machine ends": machineEnds,
		"the VM is to stop, and its machine ends": func(b *bed, vm *domain.VM) {
			machineEnds(b, vm)
			b.wanted(vm.ID, func(row *domain.VM) { row.Desired = domain.WantStopped })
		},
		"the VM is to stop": func(b *bed, vm *domain.VM) {
			b.wanted(vm.ID, func(row *domain.VM) { row.Desired = domain.WantStopped })
		},
		"the VM is to be deleted": func(b *bed, vm *domain.VM) {
			b.wanted(vm.ID, func(row *domain.VM) { row.Desired = domain.WantDeleted })
		},
		"the VM is stopped": func(b *bed, vm *domain.VM) {
			machineEnds(b, vm)
			b.wanted(vm.ID, func(row *domain.VM) { row.Desired, row.Observed = domain.WantStopped, domain.Stopped })
			must(b.t, b.store.Update(b.ctx, func(tx storage.Tx) error {
				_, err := tx.Executions().LoseOpen(b.ctx, vm.ID, vm.Epoch, "the VM was stopped", time.Now())
				return err
			}))
		},
		"the disk is gone": func(b *bed, vm *domain.VM) { must(b.t, fake.New(b.node).Delete(b.ctx, string(vm.MachineID))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			late := b.lateRows()
			vm := b.running(vmm.CreateVM{})
			written := b.began(vm.ID, "sleep 1000")
			must(t, b.worker.FlushExecutions(b.ctx))
			late.shut.Store(true)
			runs, ends := b.began(vm.ID, "echo said; exec sleep 1000"), b.began(vm.ID, "echo done; exit 3")
			long := b.began(vm.ID, "echo long # "+strings.Repeat("x", 1<<10))
			b.said(runs, "said\n")
			b.ended(ends)
			b.ended(long)
			b.crash()
			late.shut.Store(false)
			b.unwritten(runs)
			b.unwritten(ends)
			end(b, vm)
			b.up()
			if _, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil && !errors.HasCode(err, errors.Conflict) { // it has failed
				t.Fatal(err)
			}
			for _, id := range []domain.ID{written, runs} {
				if x := b.onRecord(id); x.State != domain.ExecutionLost || x.LostReason == "" || x.VMID != vm.ID {
					t.Errorf("what ran: %+v", x)
				}
			}
			if x := b.onRecord(ends); x.State != domain.ExecutionExited || x.ExitCode == nil || *x.ExitCode != 3 || x.OutputBytes != 5 {
				t.Errorf("what had ended: %+v", x)
			}
			if out := b.output(runs); out != "said\n" {
				t.Errorf("%q", out)
			}
			for id, line := range map[domain.ID]string{runs: "echo said; exec sleep 1000", ends: "echo done; exit 3"} {
				if args := b.onRecord(id).Command.Args; len(args) != 3 || args[2] != line {
					t.Errorf("the command of %s is %q", line, args)
				}
			}
			if x := b.onRecord(long); x.State != domain.ExecutionExited || len(x.Command.Args) > 0 { // there is no room for it
				t.Errorf("what was long: %+v", x)
			}
			list, err := b.ListExecutions(b.ctx, b.by, vm.ID, vmm.Page{})
			if err != nil || len(list.Items) != 4 {
				t.Errorf("%d executions, %v", len(list.Items), err)
			}
		})
	}
}

// What runs in a machine that no worker meets, since it is paused, is on record.
func TestRowsOfWhatIsPaused(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]struct{ before, after func(*bed, domain.ID) }{
		"it was paused before": {func(b *bed, vm domain.ID) { b.pause(vm, domain.PauseMemory) }, func(*bed, domain.ID) {}},
		"it is paused after": {func(*bed, domain.ID) {}, func(b *bed, vm domain.ID) {
			b.wanted(vm, func(row *domain.VM) { row.Desired, row.PauseMode = domain.WantPaused, domain.PauseMemory })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newMemoryBed(t)
			late := b.lateRows()
			vm := b.running(vmm.CreateVM{})
			late.shut.Store(true)
			x := b.talk(vm.ID)
			when.before(b, vm.ID)
			b.crash()
			b.unwritten(x)
			when.after(b, vm.ID)
			if vm, err := b.GetVM(b.ctx, b.by, vm.ID); err != nil {
				t.Fatal(err)
			} else if vm.Observed == domain.Paused {
				// As long as it is not on record it is not told to be absent.
				b.up()
				_, err := b.GetExecution(b.ctx, b.by, x)
				refused(t, err, errors.Unavailable)
				late.shut.Store(false)
			} else {
				late.shut.Store(false)
				b.up()
			}
			if paused, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil || paused.Observed != domain.Paused {
				t.Fatalf("%+v, %v", paused, err)
			}
			if row := b.onRecord(x); row.State != domain.ExecutionRunning || row.VMID != vm.ID {
				t.Errorf("%+v", row)
			}
			b.resume(vm.ID)
			_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
			must(t, err)
			if row := b.ended(x); !row.State.Ended() {
				t.Errorf("%+v", row)
			}
		})
	}
}

// What began on a worker that is away, and is not on record yet, is not told to
// be absent: who was told that it began would take it for lost.
func TestAnExecutionIsNotAbsentWhileItsWorkerIsAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, silentByItself)
	late := &lateRows{Store: f.one.store, asked: make(chan struct{}, 1)}
	f.crash(f.one)
	f.one.store = late
	f.again(f.one)
	one := f.one
	vm := one.running(vmm.CreateVM{})
	if vm.WorkerID != one.worker.ID() {
		t.Fatalf("the VM is on %s", vm.WorkerID)
	}
	late.shut.Store(true)
	x := one.began(vm.ID, "sleep 1000")
	one.unwritten(x)
	f.silent(f.other)
	_, err := f.beside.GetExecution(one.ctx, one.by, x)
	refused(t, err, errors.Unavailable)
	_, err = f.beside.Output(one.ctx, one.by, x, 0, true)
	refused(t, err, errors.Unavailable)
	// Who has nothing there misses nothing.
	stranger := vmm.Caller{ProjectID: domain.NewID(), Name: "stranger"}
	_, err = f.beside.GetExecution(one.ctx, stranger, x)
	refused(t, err, errors.NotFound)

	_, err = one.worker.Heartbeat(one.ctx)
	must(t, err)
	for range 2 { // in its worker's memory, and by its row
		if row, err := f.beside.GetExecution(one.ctx, one.by, x); err != nil || row.ID != x {
			t.Errorf("%+v, %v", row, err)
		}
		late.shut.Store(false)
		must(t, one.worker.FlushExecutions(one.ctx))
	}

	// What rests has no rows to be written.
	_, err = f.StopVM(one.ctx, one.by, vm.ID)
	must(t, err)
	_, err = f.WaitVM(one.ctx, one.by, vm.ID)
	must(t, err)
	f.silent(f.other)
	_, err = f.beside.GetExecution(one.ctx, one.by, domain.NewID())
	refused(t, err, errors.NotFound)
}

// What has ended does not begin again, in whichever order its rows come to be written together.
func TestRowsOfOneTransactionGoForward(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	late := b.lateRows()
	vm := b.running(vmm.CreateVM{})
	late.shut.Store(true)
	at, code := time.Now().UTC().Truncate(time.Microsecond), 3
	running := domain.Execution{ID: domain.NewID(), ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: vm.Epoch, State: domain.ExecutionRunning, CreatedAt: at, StartedAt: &at}
	exited := running
	exited.State, exited.EndedAt, exited.ExitCode = domain.ExecutionExited, &at, &code
	b.worker.PutRow(&running, events.ExecutionStarted)
	b.worker.PutRow(&exited, events.ExecutionExited)
	b.worker.PutRow(&running, events.ExecutionStarted)
	late.shut.Store(false)
	must(t, b.worker.FlushExecutions(b.ctx))
	if row, err := b.GetExecution(b.ctx, b.by, running.ID); err != nil || row.State != domain.ExecutionExited {
		t.Errorf("%+v, %v", row, err)
	}
}
