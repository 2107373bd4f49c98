package worker

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// offers is what is known of the drivers so far.
type offers struct {
	mu    sync.Mutex
	infos []domain.DriverInfo
}

func (o *offers) all() []domain.DriverInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.infos)
}

// set puts a driver's information in the place of what was known of it.
func (o *offers) set(info domain.DriverInfo) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.infos = slices.DeleteFunc(o.infos, func(i domain.DriverInfo) bool { return i.Name == info.Name })
	o.infos = append(o.infos, info)
	slices.SortFunc(o.infos, func(a, b domain.DriverInfo) int { return strings.Compare(a.Name, b.Name) })
}

// learn asks the drivers what they can do here. Those whose trial takes long
// are what they were when the worker last knew, and tried out meanwhile; why
// one could not be used may have been mended since.
func (w *Worker) learn(ctx context.Context, before []domain.DriverInfo) {
	var trials sync.WaitGroup
	for name, d := range w.Deps.Drivers {
		if w.config.NoTrials || slices.Contains(w.config.Late, name) {
			info := domain.DriverInfo{Name: name, Reason: service.BeingTried, Capabilities: []string{}}
			if i := slices.IndexFunc(before, func(i domain.DriverInfo) bool { return i.Name == name && (i.Usable || w.config.NoTrials) }); i >= 0 {
				info = before[i]
			}
			w.offers.set(info)
			continue
		}
		trials.Go(func() { w.offers.set(w.offer(d.Info(ctx))) })
	}
	for _, absent := range w.Deps.Absent {
		w.offers.set(absent)
	}
	trials.Wait()
}

// tryLate tries out the drivers that take long for it, all at once, and says in
// the worker's row what they can do.
func (w *Worker) tryLate() {
	if w.config.NoTrials {
		return
	}
	for _, name := range w.config.Late {
		d := w.Deps.Drivers[name]
		if d == nil {
			continue
		}
		w.wg.Go(func() {
			info := w.offer(d.Info(w.ctx))
			if w.ctx.Err() != nil {
				return // a trial that was cut short tells nothing
			}
			w.tell(w.ctx, info)
			if !info.Usable {
				w.Log.Info("a driver cannot be used", "driver", name, "reason", info.Reason)
			}
		})
	}
}

// tell says in the worker's row what a driver can do. Where that cannot be written
// what was known before stands, so that whoever looks again says it again.
func (w *Worker) tell(ctx context.Context, info domain.DriverInfo) {
	before := w.info(info.Name)
	w.offers.set(info)
	err := w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := tx.Workers().Get(ctx, w.id)
		if err != nil {
			return err
		}
		row.Drivers = w.offers.all()
		return tx.Workers().Update(ctx, row)
	})
	if err == nil {
		return
	}
	if before.Usable && info.Usable {
		w.offers.set(before)
	}
	if ctx.Err() == nil {
		w.Log.Error("what a driver can do is not stored", "driver", info.Name, "error", err)
	}
}

// lookAgain asks a driver that keeps memory what it is now, before it is said which
// memories are of use to it: its monitor may have been upgraded since it was asked.
// While it says that it cannot be used, as in the middle of an upgrade, what was
// known stands.
func (w *Worker) lookAgain(ctx context.Context, name string) {
	known := w.info(name)
	d := w.Deps.Drivers[name]
	if d == nil || w.config.NoTrials || !known.Usable || !slices.Contains(known.Capabilities, "snapshot:"+string(domain.SnapshotMemory)) {
		return
	}
	now := w.offer(d.Info(ctx))
	if !now.Usable || now.Version == known.Version {
		return
	}
	w.Log.Info("a driver has another version: memories of the one before are of no use to it", "driver", name, "before", known.Version, "now", now.Version)
	w.tell(ctx, now)
}

// driver returns a VM's driver. Returns Unavailable for one that this worker has
// and could not open: what it knows of the VM is then not lost.
func (w *Worker) driver(name string) (vmm.Driver, error) {
	if d, ok := w.Deps.Drivers[name]; ok {
		return d, nil
	}
	if i := slices.IndexFunc(w.Deps.Absent, func(i domain.DriverInfo) bool { return i.Name == name }); i >= 0 {
		return nil, errors.New(errors.Unavailable, "the driver %s cannot be used now: %s", name, w.Deps.Absent[i].Reason).
			WithHint("start the server again once it can, or take it out of the drivers in the configuration: its VMs are then given up")
	}
	return nil, errors.New(errors.Unsupported, "this worker has no driver %q", name)
}
