package worker

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// storeAgain is when a snapshot that could not be stored is tried again.
	storeAgain = 10 * time.Minute
	// storeRefused is when one is that its driver does not pack as it is.
	storeRefused = 24 * time.Hour
	// maxStore bounds how long it may take to store one: less than collectAge.
	maxStore = 12 * time.Hour
)

// unstored is what is known of this worker's snapshots that are not in the storage.
type unstored struct {
	look  chan struct{}           // one slot: there may be some
	later map[domain.ID]time.Time // those that could not be stored, and when to try again
}

// carrier is a driver whose snapshots go to other workers.
type carrier interface {
	vmm.Driver
	vmm.Snapshotter
	vmm.Carrier
}

// carrier returns Unsupported for a driver that is none, Unavailable.
func (w *Worker) carrier(name string) (carrier, error) {
	d, err := w.driver(name)
	if err != nil {
		return nil, err
	}
	c, ok := d.(carrier)
	if !ok {
		return nil, errors.New(errors.Unsupported, "snapshots of the driver %s stay on their worker", name)
	}
	return c, nil
}

// SnapshotsChanged implements service.Node.
func (w *Worker) SnapshotsChanged(context.Context) {
	select {
	case w.unstored.look <- struct{}{}:
	default: // it looks anyway
	}
}

// sweepUnstored has looked for snapshots that nobody told of.
func (w *Worker) sweepUnstored(ctx context.Context) error {
	w.SnapshotsChanged(ctx)
	return nil
}

// storeSnapshots stores this worker's snapshots, one at a time, until it stops.
func (w *Worker) storeSnapshots() {
	if w.Depot == nil {
		return
	}
	for {
		select {
		case <-w.unstored.look:
		case <-w.ctx.Done():
			return
		}
		if err := w.storeDue(w.ctx); err != nil && w.ctx.Err() == nil {
			w.Log.Warn("it is not known which snapshots are to be stored", "error", err)
		}
	}
}

// storeDue stores what is not in the storage, but for what failed lately.
func (w *Worker) storeDue(ctx context.Context) error {
	later := map[domain.ID]time.Time{}
	err := each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.Snapshot], error) {
		return tx.Snapshots().List(ctx, storage.SnapshotFilter{WorkerID: w.id, States: []domain.BuildState{domain.BuildReady}, Unpacked: true, Page: p})
	}, func(s *domain.Snapshot) {
		at, failed := w.unstored.later[s.ID]
		if !failed || !w.Now().Before(at) {
			err := w.storeSnapshot(ctx, s)
			failed, at = err != nil, w.Now().Add(storeAgain)
			if errors.HasCode(err, errors.TooLarge) || errors.HasCode(err, errors.Unsupported) {
				at = w.Now().Add(storeRefused)
			}
		}
		if failed {
			later[s.ID] = at
		}
	})
	if err == nil {
		w.unstored.later = later // without those that are gone
	}
	return err
}

// storeSnapshot has other workers get a snapshot's disk. Where that fails the
// snapshot stays as good as it is: on this worker.
func (w *Worker) storeSnapshot(ctx context.Context, s *domain.Snapshot) error {
	c, err := w.carrier(s.Driver)
	if errors.HasCode(err, errors.Unsupported) {
		return err // they are meant to
	}
	ctx, cancel := context.WithTimeout(ctx, maxStore)
	defer cancel()
	begun := w.Now()
	var p domain.Packed
	if err == nil {
		p, err = w.Depot.SendSnapshot(ctx, s, func(to io.Writer) error { return c.PackSnapshot(ctx, string(s.ID), to) })
	}
	if err == nil {
		err = w.Store.Update(ctx, func(tx storage.Tx) error {
			row, err := tx.Snapshots().Get(ctx, s.ProjectID, s.ID)
			if err != nil {
				return err
			}
			row.Packed = &p
			return tx.Snapshots().Update(ctx, row)
		})
	}
	if err != nil {
		if w.ctx.Err() != nil {
			return err
		}
		if gone, gerr := w.gone(w.ctx, []string{string(s.ID)}); gerr == nil && len(gone) > 0 {
			w.dropPacked(w.ctx, "snapshot", s.ID, &p)
			return nil // it was deleted meanwhile
		}
		w.Log.Warn("a snapshot is not in the storage; its VMs are made on this worker alone", "snapshot", s.ID, "error", err)
		return err
	}
	w.Log.Info("a snapshot was stored", "snapshot", s.ID, "bytes", p.Bytes, "took", w.Now().Sub(begun))
	w.Changes.Notify(s.ID)
	return nil
}

// diskOf is the snapshot that a VM's machine is made from; empty: from none.
func diskOf(vm *domain.VM) domain.ID {
	if vm.StoredID != "" {
		return vm.StoredID
	}
	return vm.Spec.SnapshotID
}

// fetchDisk has the snapshot that a VM is made from on this worker: it is fetched
// once where another has taken it. Returns what Depot.FetchSnapshot does.
func (w *Worker) fetchDisk(ctx context.Context, vm *domain.VM) error {
	id := diskOf(vm)
	if id == "" || w.Depot == nil {
		return nil
	}
	s, err := w.loadSnapshot(ctx, vm.ProjectID, id)
	if err != nil || s.Packed == nil {
		return err // it is here
	}
	c, err := w.carrier(s.Driver)
	if err != nil {
		return err
	}
	defer w.fetches.lock(s.ID)()
	held, err := c.ListSnapshots(ctx)
	if err != nil || slices.Contains(held, string(s.ID)) {
		return err
	}
	begun := w.Now()
	err = w.Depot.FetchSnapshot(ctx, s, func(from io.Reader) error {
		return c.UnpackSnapshot(ctx, string(s.ID), s.Spec.Resources.DiskBytes, from)
	})
	if err != nil {
		return err
	}
	w.Log.Info("a snapshot was fetched", "snapshot", s.ID, "bytes", s.Packed.Bytes, "took", w.Now().Sub(begun))
	if s.WorkerID == w.id {
		return nil
	}
	// Only what chooses workers goes by it.
	if err := w.Store.Update(ctx, func(tx storage.Tx) error { return tx.Snapshots().Copied(ctx, s, w.id) }); err != nil {
		w.Log.Warn("others do not know of a snapshot that was fetched", "snapshot", s.ID, "error", err)
	}
	return nil
}

// DeleteSnapshot implements service.Node.
func (w *Worker) DeleteSnapshot(ctx context.Context, s *domain.Snapshot) error {
	w.dropPacked(ctx, "snapshot", s.ID, s.Packed)
	d, err := w.driver(s.Driver)
	if err != nil {
		return err
	}
	sn, ok := d.(vmm.Snapshotter)
	if !ok {
		return nil
	}
	return sn.DeleteSnapshot(ctx, string(s.ID))
}

// sweepDisks removes the disks of snapshots that are gone by now.
func (w *Worker) sweepDisks(ctx context.Context) (err error) {
	for _, d := range w.Deps.Drivers {
		sn, ok := d.(vmm.Snapshotter)
		if !ok {
			continue
		}
		held, herr := sn.ListSnapshots(ctx)
		err = errors.Join(err, herr)
		gone, gerr := w.gone(ctx, held)
		err = errors.Join(err, gerr)
		for _, id := range gone {
			if w.making.has(domain.ID(id)) {
				continue // it goes when its driver has let go of it
			}
			w.Log.Info("removing the data of a snapshot that is gone", "snapshot", id)
			err = errors.Join(err, sn.DeleteSnapshot(ctx, id))
		}
	}
	return err
}

// gone picks those of a driver's snapshots that had a row, and have none.
func (w *Worker) gone(ctx context.Context, held []string) (gone []string, err error) {
	err = w.Store.View(ctx, func(tx storage.Tx) error {
		gone = nil
		for _, id := range held {
			if !domain.IsID(id) {
				continue // a build's, or a layer of one
			}
			_, err := tx.Snapshots().Get(ctx, storage.System, domain.ID(id))
			if errors.HasCode(err, errors.NotFound) {
				gone = append(gone, id)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return gone, err
}
