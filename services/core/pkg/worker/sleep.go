package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// pauseMode is what a deadline pauses by: what keeps most and holds least.
func (w *Worker) pauseMode(driver string) domain.PauseMode {
	for _, m := range service.PauseModes {
		if slices.Contains(w.info(driver).Capabilities, "pause:"+string(m)) {
			return m
		}
	}
	return domain.PauseFreeze // pause takes the wish back
}

// info is what a driver said of itself last.
func (w *Worker) info(driver string) domain.DriverInfo {
	for _, d := range w.offers.all() {
		if d.Name == driver {
			return d
		}
	}
	return domain.DriverInfo{Name: driver}
}

const (
	// maxPause bounds the writing of a machine's memory.
	maxPause = 10 * time.Minute
	// maxFreeze bounds the freezing of a machine's processes, and letting them go on.
	maxFreeze = time.Minute
)

// sleep pauses vm so that it holds no memory. What its executions wrote and is
// not in their journals stays in its memory, and comes when it goes on.
func (w *Worker) sleep(ctx context.Context, vm *domain.VM, driver vmm.Driver, p vmm.Pauser) error {
	if err := w.recordSwallowed(ctx, vm, ""); err != nil { // it may leave before anybody meets what is in it
		return err
	}
	id := vm.MachineID
	quiesced := w.quiesce(ctx, vm)
	w.vms.rest(vm.ID)
	// Once begun it is carried through: half a pause helps nobody, whatever is
	// wanted meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxPause)
	defer cancel()
	w.machines.sleeps(id, true)
	err := p.Pause(ctx, string(id), vm.PauseMode)
	if err == nil {
		w.machines.set(id, vm.Spec.Driver, lifecycle.MachinePaused)
		return w.settle(ctx, vm)
	}
	w.machines.sleeps(id, false)
	w.Log.Error("VM not paused", "vm", vm.ID, "mode", vm.PauseMode, "error", err)
	w.clock.hold(vm.ID, w.Now().Add(w.config.SweepEvery)) // should its deadline ask for it again
	if quiesced {
		w.thawAlone(context.WithoutCancel(ctx), driver, id)
	}
	return w.takeBack(ctx, vm, domain.WantRunning, "it could not be paused: "+errors.Public(err).Message)
}

// quiesce has a guest that can be talked to flush its file systems. It reports
// whether that is to be undone.
func (w *Worker) quiesce(ctx context.Context, vm *domain.VM) bool {
	l := w.vms.find(vm.ID)
	if l == nil || l.suspended.Load() {
		return false
	}
	if err := l.client.Quiesce(ctx); err != nil {
		w.Log.Warn("guest not quiesced", "vm", vm.ID, "error", err)
		return false
	}
	return true
}

// thawAlone undoes quiesce in a machine that nobody holds a session with.
func (w *Worker) thawAlone(ctx context.Context, driver vmm.Driver, machine domain.ID) {
	client := w.client(driver, machine)
	defer client.Close()
	if err := client.Thaw(ctx); err != nil {
		w.Log.Warn("guest not thawed", "machine", machine, "error", err)
	}
}

// restless is the VMs that an earlier life of the worker may have left quiesced.
type restless struct {
	mu  sync.Mutex
	vms map[domain.ID]bool
}

func (r *restless) add(vm domain.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vms == nil {
		r.vms = make(map[domain.ID]bool)
	}
	r.vms[vm] = true
}

// take reports whether a VM is one, once.
func (r *restless) take(vm domain.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.vms[vm]
	delete(r.vms, vm)
	return was
}

// unrest undoes what an earlier life of the worker began in a machine that runs:
// it was killed while it took a snapshot, or was about to pause it.
func (w *Worker) unrest(ctx context.Context, vm *domain.VM, client *guest.Client) {
	pausing := vm.Observed == domain.Pausing && vm.PauseMode != domain.PauseFreeze
	if snapshot := w.restless.take(vm.ID); !pausing && !snapshot || fresh(vm) {
		return
	}
	if err := client.Thaw(ctx); err != nil {
		w.Log.Warn("guest not thawed", "vm", vm.ID, "error", err)
	}
}

// notResumed keeps a VM paused that cannot go on: what it has in its memory is
// worth more than another try by itself.
func (w *Worker) notResumed(ctx context.Context, vm *domain.VM, why error) error {
	if ctx.Err() != nil || vm.PauseMode == domain.PauseFreeze {
		return why
	}
	w.Log.Error("VM not resumed", "vm", vm.ID, "error", why)
	return w.takeBack(ctx, vm, domain.WantPaused, "it could not be resumed: "+errors.Public(why).Message)
}

// takeBack gives up a wish that could not be fulfilled for what was before.
func (w *Worker) takeBack(ctx context.Context, vm *domain.VM, want domain.DesiredState, reason string) error {
	_, err := w.commit(ctx, vm.ID, events.VMUpdated, func(_ storage.Tx, row *domain.VM) error {
		row.Reason = reason
		if row.Generation == vm.Generation {
			row.Desired = want
			row.Generation++
		}
		if want == domain.WantPaused {
			row.Observed = domain.Paused
		}
		return nil
	})
	return err
}
