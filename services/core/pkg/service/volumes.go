package service

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// CanVolumes is the capability of drivers whose machines can have volumes.
const CanVolumes = "volumes"

// CreateVolume implements vmm.Volumes.
func (s *Service) CreateVolume(ctx context.Context, by vmm.Caller, req vmm.CreateVolume) (*domain.Volume, error) {
	if err := domain.ValidateVolumeName("name", req.Name); err != nil {
		return nil, err
	}
	if req.DiskBytes == 0 {
		req.DiskBytes = s.config.Defaults.DiskBytes
	}
	if req.DiskBytes < domain.MinDiskBytes || req.DiskBytes > domain.MaxDiskBytes {
		return nil, errors.New(errors.InvalidArgument, "%d bytes are out of range", req.DiskBytes).WithField("disk_bytes").
			WithHint("%d to %d", domain.MinDiskBytes, domain.MaxDiskBytes)
	}
	v := &domain.Volume{ID: domain.NewID(), ProjectID: by.ProjectID, Name: req.Name, DiskBytes: req.DiskBytes, CreatedAt: s.time()}
	var err error
	if v.TokenSealed, err = s.sealer.Seal(ctx, storage.SealedVolumeToken(v.ID), newToken()); err != nil {
		return nil, err
	}
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		n, err := tx.Volumes().Count(ctx, by.ProjectID)
		if err != nil {
			return err
		}
		if n >= domain.MaxVolumes {
			return errors.New(errors.Conflict, "the project has %d volumes already", domain.MaxVolumes).WithHint("delete those that nothing uses")
		}
		if err := s.withinQuota(ctx, tx, by.ProjectID, domain.Quota{DiskBytes: v.DiskBytes}, ""); err != nil {
			return err
		}
		if err := s.placeVolume(ctx, tx, v); err != nil {
			return err
		}
		return tx.Volumes().Insert(ctx, v)
	})
	if err != nil {
		return nil, err
	}
	node, err := s.reach(ctx, v.WorkerID)
	if err == nil {
		err = node.MakeVolume(ctx, v)
	}
	if err != nil {
		ctx := context.WithoutCancel(ctx)
		return nil, errors.Join(err, s.store.Update(ctx, func(tx storage.Tx) error { return tx.Volumes().Delete(ctx, v.ProjectID, v.ID) }))
	}
	return v, nil
}

// placeVolume chooses the worker whose disk a volume is on. Returns what choose
// does, and Unsupported.
func (s *Service) placeVolume(ctx context.Context, tx storage.Tx, v *domain.Volume) error {
	shows := func(d domain.DriverInfo) bool { return d.Usable && can(d, CanVolumes) }
	w, err := s.choose(ctx, tx, need{
		what: "volume", field: "disk_bytes", hint: "too little %s is left: ask for less, delete volumes or VMs, or raise the overcommit in the configuration",
		resources: domain.Resources{DiskBytes: v.DiskBytes},
		unable: func(w *domain.Worker) error {
			if slices.ContainsFunc(w.Drivers, shows) {
				return nil
			}
			return errors.New(errors.Unsupported, "no driver here can show a volume to VMs").
				WithHint("the driver oci can, on a file system that maps owners; `aetherium doctor` shows what this host offers")
		},
		prefer: func(*domain.Worker) bool { return false },
		free:   func(w *domain.Worker) float64 { return float64(w.Capacity.DiskBytes - w.Reserved.DiskBytes) },
	})
	if err != nil {
		return err
	}
	v.WorkerID = w.ID
	return nil
}

// GetVolume implements vmm.Volumes.
func (s *Service) GetVolume(ctx context.Context, by vmm.Caller, idOrName string) (v *domain.Volume, err error) {
	err = s.store.View(ctx, func(tx storage.Tx) error {
		v, err = findVolume(ctx, tx, by.ProjectID, idOrName)
		return err
	})
	return v, err
}

func findVolume(ctx context.Context, tx storage.Tx, project domain.ID, idOrName string) (*domain.Volume, error) {
	if domain.IsID(idOrName) {
		return tx.Volumes().Get(ctx, project, domain.ID(idOrName))
	}
	if err := domain.ValidateVolumeName("volume", idOrName); err != nil {
		return nil, err
	}
	return tx.Volumes().ByName(ctx, project, idOrName)
}

// ListVolumes implements vmm.Volumes.
func (s *Service) ListVolumes(ctx context.Context, by vmm.Caller, p vmm.Page) (list vmm.List[*domain.Volume], err error) {
	err = s.store.View(ctx, func(tx storage.Tx) error {
		list, err = tx.Volumes().List(ctx, by.ProjectID, p)
		return err
	})
	return list, err
}

// DeleteVolume implements vmm.Volumes. The row goes first: from then on no VM
// gets the volume, and data without a row is removed by the worker's sweep.
func (s *Service) DeleteVolume(ctx context.Context, by vmm.Caller, idOrName string) error {
	var v *domain.Volume
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if v, err = findVolume(ctx, tx, by.ProjectID, idOrName); err != nil {
			return err
		}
		return tx.Volumes().Delete(ctx, by.ProjectID, v.ID)
	})
	if err != nil {
		return err
	}
	node, err := s.reach(ctx, v.WorkerID)
	if err == nil {
		err = node.DeleteVolume(context.WithoutCancel(ctx), v.ID)
	}
	if err != nil {
		s.log.WarnContext(ctx, "a volume's data is left to the sweep", "volume", v.ID, "error", err)
	}
	return nil
}

// VolumeToken implements vmm.Volumes.
func (s *Service) VolumeToken(ctx context.Context, by vmm.Caller, id domain.ID) (string, error) {
	v, err := s.GetVolume(ctx, by, string(id))
	if err != nil {
		return "", err
	}
	token, err := s.sealer.Open(ctx, storage.SealedVolumeToken(v.ID), v.TokenSealed)
	return string(token), err
}

// OpenVolume implements vmm.Volumes. Who shows no token does not learn which
// volumes there are.
func (s *Service) OpenVolume(ctx context.Context, id domain.ID, token string) (vmm.VolumeFiles, int64, error) {
	refused := errors.New(errors.Unauthenticated, "this is not the token of the volume")
	if !domain.IsID(string(id)) || len(token) != hex.EncodedLen(tokenBytes) {
		return nil, 0, refused
	}
	v, err := s.GetVolume(ctx, vmm.Caller{ProjectID: storage.System}, string(id))
	if errors.HasCode(err, errors.NotFound) {
		return nil, 0, refused
	}
	if err != nil {
		return nil, 0, err
	}
	own, err := s.sealer.Open(ctx, storage.SealedVolumeToken(v.ID), v.TokenSealed)
	if err != nil {
		return nil, 0, err
	}
	if subtle.ConstantTimeCompare(own, []byte(token)) != 1 {
		return nil, 0, refused
	}
	files, err := s.openVolume(ctx, v)
	return files, v.DiskBytes, err
}

// OpenOwnVolume implements vmm.Volumes.
func (s *Service) OpenOwnVolume(ctx context.Context, by vmm.Caller, idOrName string) (vmm.VolumeFiles, *domain.Volume, error) {
	v, err := s.GetVolume(ctx, by, idOrName)
	if err != nil {
		return nil, nil, err
	}
	files, err := s.openVolume(ctx, v)
	return files, v, err
}

func (s *Service) openVolume(ctx context.Context, v *domain.Volume) (vmm.VolumeFiles, error) {
	node, err := s.reach(ctx, v.WorkerID)
	if err != nil {
		return nil, err
	}
	return node.OpenVolume(ctx, v)
}

// giveMounts finds the volumes that a VM shall have, in the transaction that
// inserts it, so that none of them is deleted meanwhile. It binds the VM to the
// worker that they are on.
func (s *Service) giveMounts(ctx context.Context, tx storage.Tx, asked, inherited []domain.Mount, vm *domain.VM) error {
	wanted := asked
	if wanted == nil {
		wanted = inherited
	}
	for _, m := range wanted {
		ref := m.Source
		if asked == nil {
			ref = string(m.VolumeID) // another one may have its name by now
		}
		v, err := findVolume(ctx, tx, vm.ProjectID, ref)
		if errors.HasCode(err, errors.NotFound) {
			return errors.New(errors.NotFound, "there is no volume %q", m.Source).WithField("volumes")
		}
		if err != nil {
			return err
		}
		if vm.WorkerID != "" && vm.WorkerID != v.WorkerID {
			return errors.New(errors.Unsupported, "the volume %q is on another worker than what else the VM needs", v.Name).WithField("volumes")
		}
		vm.WorkerID = v.WorkerID
		m.Source, m.VolumeID = v.Name, v.ID
		vm.Spec.Mounts = append(vm.Spec.Mounts, m)
	}
	return nil
}
