package worker

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// startID and readyID are those of the start and ready commands' executions in
// an epoch of a VM: each is run once, however often this process dies.
func startID(vm domain.ID, epoch int64) domain.ID { return guest.InheritedID(vm, epoch, "") }
func readyID(vm domain.ID, epoch int64) domain.ID { return guest.InheritedID(vm, epoch, "ready") }

// untilReady tries a line of shell, its first argument, twice a second.
const untilReady = `until /bin/sh -c "$1"; do sleep 0.5; done`

// errNotReady is why a VM cannot be used though its agent answers.
var errNotReady = errors.Plain("what the template starts is not ready")

// startUp runs the start command of a VM's template in a machine that was
// started anew, where it does not run already, and waits until it is ready.
// Errors that are errNotReady are the template's.
func (w *Worker) startUp(ctx context.Context, l *liveVM, trace *trace) error {
	vm := l.row()
	b, err := w.buildOf(ctx, vm.Spec.BuildID)
	if errors.HasCode(err, errors.NotFound) || err == nil && b.Warm.Start == "" {
		return nil
	}
	if err != nil {
		return err
	}
	if vm.Epoch == 1 {
		m, err := w.loadMachine(ctx, vm.MachineID)
		if err != nil || m.Memory {
			return err
		}
	}
	start := startID(vm.ID, vm.Epoch)
	if err := w.runOnce(ctx, l, start, shell(b.Warm.Start)); err != nil {
		if b.Warm.Ready != "" {
			return w.notStarted(ctx, l, err)
		}
		// Its VM is of use without it, and whoever looks for it finds why it is not there.
		w.Log.Warn("a template's start command was not started", "vm", vm.ID, "error", err)
	}
	trace.phase("start command")
	if b.Warm.Ready == "" {
		return nil
	}
	if err := w.awaitReady(ctx, l, start, b.Warm.Ready); err != nil {
		return err
	}
	trace.phase("ready command")
	return nil
}

// runOnce runs a command in a VM unless it has run, and notes that it did.
func (w *Worker) runOnce(ctx context.Context, l *liveVM, id domain.ID, c domain.Command) error {
	started, err := l.session.Start(ctx, guest.StartRequest{ID: id, Command: c})
	switch {
	case errors.HasCode(err, errors.Conflict): // it has run, and ended
	case err != nil:
		return err
	default:
		w.confirmed(started, l)
	}
	return nil
}

// awaitReady waits until a VM's ready command succeeds, or the start command fails.
func (w *Worker) awaitReady(ctx context.Context, l *liveVM, start domain.ID, line string) error {
	vm := l.row()
	id, c := readyID(vm.ID, vm.Epoch), domain.Command{Args: []string{"/bin/sh", "-c", untilReady, "ready", line}, Timeout: w.config.StartUpTimeout}
	if err := w.runOnce(ctx, l, id, c); err != nil {
		return w.notStarted(ctx, l, err)
	}
	driver, err := w.driver(vm.Spec.Driver)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithCancelCause(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() {
		// One that ends well may have left something running.
		if end, err := l.session.Wait(waiting, start); err == nil && !well(end) {
			cancel(errors.Wrap(errNotReady, errors.GuestFault, "its template's start command ended with exit code %d before it was ready: %s",
				end.ExitCode, w.lastWords(vm, start)))
		}
	})
	watchers.Go(func() {
		if _, err := driver.Wait(waiting, string(vm.MachineID)); err == nil {
			cancel(errors.Wrap(errNotReady, errors.GuestFault, "its machine ended before what its template starts was ready"))
		}
	})
	// The guest keeps to the time; a guest that does not is not waited for.
	late := time.AfterFunc(w.config.StartUpTimeout+w.config.ReadyTimeout, func() {
		cancel(errors.Wrap(errNotReady, errors.GuestFault, "what its template starts was not ready in %s", w.config.StartUpTimeout))
	})
	end, err := l.session.Wait(waiting, id)
	failure := context.Cause(waiting)
	late.Stop()
	cancel(nil)
	watchers.Wait()
	switch {
	case errors.Is(failure, errNotReady):
		return failure
	case err != nil:
		return err
	case end.TimedOut:
		return errors.Wrap(errNotReady, errors.GuestFault, "its template's ready command did not succeed in %s: %s", w.config.StartUpTimeout, w.lastWords(vm, id))
	case !well(end):
		return errors.Wrap(errNotReady, errors.GuestFault, "its template's ready command ended with exit code %d: %s", end.ExitCode, w.lastWords(vm, id))
	}
	return nil
}

func well(end domain.ExecutionEnd) bool {
	return end.ExitCode == 0 && end.LostReason == "" && !end.TimedOut
}

// notStarted tells a command that the guest cannot run from a guest that cannot
// be asked, which is asked again.
func (w *Worker) notStarted(ctx context.Context, l *liveVM, err error) error {
	if ctx.Err() != nil || errors.HasCode(err, errors.Unavailable) || errors.HasCode(err, errors.DeadlineExceeded) {
		return err
	}
	return errors.Wrap(errors.Join(errNotReady, err), errors.GuestFault, "its template's commands cannot be run: %s", errors.Public(err).Message)
}

// lastWords is the end of what an execution wrote.
func (w *Worker) lastWords(vm *domain.VM, id domain.ID) string {
	tail, err := w.Journals.Tail(journalKey(&domain.Execution{VMID: vm.ID, Epoch: vm.Epoch, ID: id}), 200)
	if err != nil || len(tail) == 0 {
		return "it wrote nothing"
	}
	return strings.TrimSpace(printable(tail))
}

// neverReady ends a machine in which what its template starts did not get
// ready: the VM has failed, or, where it ran before, is stopped.
func (w *Worker) neverReady(ctx context.Context, vm *domain.VM, driver vmm.Driver, why error) error {
	if err := driver.Stop(context.WithoutCancel(ctx), string(vm.MachineID), 0); err != nil {
		return errors.Join(why, err)
	}
	w.vms.close(ctx, vm.ID, errors.Public(why).Message)
	if vm.Epoch > 0 {
		// Its next start has commands of its own, and does not find the ends of these.
		_, err := w.commit(ctx, vm.ID, "", func(_ storage.Tx, row *domain.VM) error {
			row.Epoch = epochOf(vm)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return w.createFailed(ctx, vm, driver, why)
}
