package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Volumes keeps volumes' files. *volume.Store is one.
type Volumes interface {
	// Make makes the volume if it is not there, and returns the directory to mount.
	Make(ctx context.Context, id domain.ID, limit int64) (string, error)
	// Delete of an absent volume is success.
	Delete(ctx context.Context, id domain.ID) error
	List(ctx context.Context) ([]domain.ID, error)
	Open(id domain.ID) (vmm.VolumeFiles, error)
}

func (w *Worker) volumes() (Volumes, error) {
	if w.Deps.Volumes == nil {
		return nil, errors.New(errors.Unsupported, "this worker keeps no volumes")
	}
	return w.Deps.Volumes, nil
}

// MakeVolume implements service.Node.
func (w *Worker) MakeVolume(ctx context.Context, v *domain.Volume) error {
	kept, err := w.volumes()
	if err != nil {
		return err
	}
	_, err = kept.Make(ctx, v.ID, v.DiskBytes)
	return err
}

// DeleteVolume implements service.Node.
func (w *Worker) DeleteVolume(ctx context.Context, id domain.ID) error {
	kept, err := w.volumes()
	if err != nil {
		return err
	}
	return kept.Delete(ctx, id)
}

// OpenVolume implements service.Node. A volume that a crash kept from being
// made is made now.
func (w *Worker) OpenVolume(ctx context.Context, v *domain.Volume) (vmm.VolumeFiles, error) {
	kept, err := w.volumes()
	if err != nil {
		return nil, err
	}
	files, err := kept.Open(v.ID)
	if !errors.HasCode(err, errors.NotFound) {
		return files, err
	}
	if _, err := kept.Make(ctx, v.ID, v.DiskBytes); err != nil {
		return nil, err
	}
	return kept.Open(v.ID)
}

// volumeMounts are what shows a VM's machine its volumes.
func (w *Worker) volumeMounts(ctx context.Context, vm *domain.VM) ([]vmm.HostMount, error) {
	if len(vm.Spec.Mounts) == 0 {
		return nil, nil
	}
	kept, err := w.volumes()
	if err != nil {
		return nil, err
	}
	volumes := make([]*domain.Volume, len(vm.Spec.Mounts))
	err = w.Store.View(ctx, func(tx storage.Tx) (err error) {
		for i, m := range vm.Spec.Mounts {
			if volumes[i], err = tx.Volumes().Get(ctx, vm.ProjectID, m.VolumeID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	mounts := make([]vmm.HostMount, 0, len(volumes))
	for i, m := range vm.Spec.Mounts {
		dir, err := kept.Make(ctx, volumes[i].ID, volumes[i].DiskBytes)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, vmm.HostMount{Source: dir, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	return mounts, nil
}

// sweepVolumes removes data of volumes that have no row: a row comes before its
// data, and goes before it.
func (w *Worker) sweepVolumes(ctx context.Context) error {
	if w.Deps.Volumes == nil {
		return nil
	}
	there, err := w.Deps.Volumes.List(ctx)
	if err != nil || len(there) == 0 {
		return err
	}
	known := map[domain.ID]bool{}
	err = w.Store.View(ctx, func(tx storage.Tx) error {
		var after domain.ID
		for {
			page, err := tx.Volumes().OnWorker(ctx, w.id, after, storage.MaxPage)
			if err != nil || len(page) == 0 {
				return err
			}
			for _, v := range page {
				known[v.ID] = true
			}
			after = page[len(page)-1].ID
		}
	})
	if err != nil {
		return err
	}
	for _, id := range there {
		if known[id] {
			continue
		}
		w.Log.Info("removing the data of a volume that is deleted", "volume", id)
		if err := w.Deps.Volumes.Delete(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
