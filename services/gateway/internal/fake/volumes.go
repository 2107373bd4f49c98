package fake

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/volume"
)

// volumes are real ones, in plain directories.
type volumes struct {
	all    []*domain.Volume
	tokens map[domain.ID]string
	store  *volume.Store
}

// plainDisk is a directory for each volume, without limits.
type plainDisk string

func (d plainDisk) Create(_ context.Context, id string, _ int64) error {
	return os.MkdirAll(d.Path(id), 0o700)
}
func (d plainDisk) Delete(_ context.Context, id string) error      { return os.RemoveAll(d.Path(id)) }
func (d plainDisk) Path(id string) string                          { return filepath.Join(string(d), id) }
func (d plainDisk) List(context.Context) (ids []string, err error) { return nil, nil }

// KeepVolumes says where volumes are; without it there can be none.
func (o *Orchestrator) KeepVolumes(dir string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.volumes = volumes{tokens: map[domain.ID]string{}, store: volume.New(plainDisk(dir))}
}

// CreateVolume implements vmm.Volumes.
func (o *Orchestrator) CreateVolume(ctx context.Context, by vmm.Caller, req vmm.CreateVolume) (*domain.Volume, error) {
	if err := domain.ValidateVolumeName("name", req.Name); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.volumes.store == nil {
		return nil, errors.New(errors.Unsupported, "no driver here can show a volume to VMs")
	}
	if o.volume(by.ProjectID, req.Name) != nil {
		return nil, errors.New(errors.AlreadyExists, "a volume named %q exists already", req.Name).WithField("name")
	}
	if req.DiskBytes == 0 {
		req.DiskBytes = 1 << 20
	}
	v := &domain.Volume{ID: domain.NewID(), ProjectID: by.ProjectID, Name: req.Name, DiskBytes: req.DiskBytes, CreatedAt: time.Now().UTC()}
	if _, err := o.volumes.store.Make(ctx, v.ID, v.DiskBytes); err != nil {
		return nil, err
	}
	o.volumes.all = append(o.volumes.all, v)
	o.volumes.tokens[v.ID] = domain.NewID().String() + domain.NewID().String()
	return v, nil
}

func (o *Orchestrator) volume(project domain.ID, ref string) *domain.Volume {
	for _, v := range o.volumes.all {
		if v.ProjectID == project && (v.Name == ref || string(v.ID) == ref) {
			return v
		}
	}
	return nil
}

// mounts finds the volumes that a VM shall have, under the lock.
func (o *Orchestrator) mounts(project domain.ID, asked []domain.Mount) ([]domain.Mount, error) {
	if err := domain.ValidateMounts("volumes", asked); err != nil {
		return nil, err
	}
	out := make([]domain.Mount, 0, len(asked))
	for _, m := range asked {
		v := o.volume(project, m.Source)
		if v == nil {
			return nil, errors.New(errors.NotFound, "there is no volume %q", m.Source).WithField("volumes")
		}
		m.Source, m.VolumeID = v.Name, v.ID
		out = append(out, m)
	}
	return out, nil
}

// GetVolume implements vmm.Volumes.
func (o *Orchestrator) GetVolume(_ context.Context, by vmm.Caller, idOrName string) (*domain.Volume, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if v := o.volume(by.ProjectID, idOrName); v != nil {
		return v, nil
	}
	return nil, errors.New(errors.NotFound, "there is no volume %q", idOrName)
}

// ListVolumes implements vmm.Volumes, oldest first.
func (o *Orchestrator) ListVolumes(_ context.Context, by vmm.Caller, p vmm.Page) (vmm.List[*domain.Volume], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var own []*domain.Volume
	for _, v := range o.volumes.all {
		if v.ProjectID == by.ProjectID {
			own = append(own, v)
		}
	}
	return page(own, p)
}

// DeleteVolume implements vmm.Volumes.
func (o *Orchestrator) DeleteVolume(ctx context.Context, by vmm.Caller, idOrName string) error {
	v, err := o.GetVolume(ctx, by, idOrName)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, vm := range o.vms {
		uses := func(m domain.Mount) bool { return m.VolumeID == v.ID }
		if vm.Observed != domain.Deleted && slices.ContainsFunc(vm.Spec.Mounts, uses) {
			return errors.New(errors.Conflict, "the volume is in use by 1 VMs")
		}
	}
	o.volumes.all = slices.DeleteFunc(o.volumes.all, func(other *domain.Volume) bool { return other == v })
	return o.volumes.store.Delete(ctx, v.ID)
}

// VolumeToken implements vmm.Volumes.
func (o *Orchestrator) VolumeToken(ctx context.Context, by vmm.Caller, id domain.ID) (string, error) {
	if _, err := o.GetVolume(ctx, by, string(id)); err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.volumes.tokens[id], nil
}

// OpenOwnVolume implements vmm.Volumes.
func (o *Orchestrator) OpenOwnVolume(ctx context.Context, by vmm.Caller, idOrName string) (vmm.VolumeFiles, *domain.Volume, error) {
	v, err := o.GetVolume(ctx, by, idOrName)
	if err != nil {
		return nil, nil, err
	}
	files, err := o.volumes.store.Open(v.ID)
	return files, v, err
}

// OpenVolume implements vmm.Volumes.
func (o *Orchestrator) OpenVolume(_ context.Context, id domain.ID, token string) (vmm.VolumeFiles, int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range o.volumes.all {
		if v.ID == id && o.volumes.tokens[id] == token {
			files, err := o.volumes.store.Open(id)
			return files, v.DiskBytes, err
		}
	}
	return nil, 0, errors.New(errors.Unauthenticated, "this is not the token of the volume")
}
