package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type volumes struct{ s Session }

const (
	volumeColumns = "id, project_id, name, worker_id, disk_bytes, token_sealed, created_at"
	volumeSelect  = "SELECT " + volumeColumns + " FROM volumes"
)

func scanVolume(r Row) (*domain.Volume, error) {
	v := new(domain.Volume)
	return v, r.Scan(&v.ID, &v.ProjectID, &v.Name, &v.WorkerID, &v.DiskBytes, &v.TokenSealed, scanTime{&v.CreatedAt})
}

func (r volumes) Get(ctx context.Context, project, id domain.ID) (*domain.Volume, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanVolume, notFound("volume", id), volumeSelect+w.String(), w.args...)
}

func (r volumes) ByName(ctx context.Context, project domain.ID, name string) (*domain.Volume, error) {
	return queryOne(ctx, r.s, scanVolume, errors.New(errors.NotFound, "no volume is named %q", name),
		volumeSelect+" WHERE project_id = ? AND name = ?", string(project), name)
}

func (r volumes) Insert(ctx context.Context, v *domain.Volume) error {
	_, err := r.s.Exec(ctx, "INSERT INTO volumes ("+volumeColumns+") VALUES ("+marks(volumeColumns)+")",
		string(v.ID), string(v.ProjectID), v.Name, string(v.WorkerID), v.DiskBytes, v.TokenSealed, micros(v.CreatedAt))
	switch {
	case violated(err, Unique, "name"):
		return errors.Wrap(err, errors.AlreadyExists, "a volume named %q exists already", v.Name).WithField("name")
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "volume %s exists already", v.ID)
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", v.ProjectID)
	}
	return err
}

func (r volumes) Delete(ctx context.Context, project, id domain.ID) error {
	if _, err := r.Get(ctx, project, id); err != nil {
		return err
	}
	n, err := queryInt(ctx, r.s, `SELECT COUNT(*) FROM volume_mounts m JOIN vms v ON v.id = m.vm_id AND v.project_id = m.project_id
		WHERE m.volume_id = ? AND v.observed <> 'deleted'`, string(id))
	if err != nil {
		return err
	}
	if n > 0 {
		return errors.New(errors.Conflict, "the volume is in use by %d VMs", n).WithHint("delete them first")
	}
	_, err = r.s.Exec(ctx, "DELETE FROM volumes WHERE id = ?", string(id))
	return err
}

func (r volumes) List(ctx context.Context, project domain.ID, p storage.Page) (storage.List[*domain.Volume], error) {
	w := &where{}
	w.eq("project_id", project)
	return page(ctx, r.s, volumeSelect, w, p, scanVolume, func(v *domain.Volume) (time.Time, domain.ID) { return v.CreatedAt, v.ID })
}

func (r volumes) Count(ctx context.Context, project domain.ID) (int, error) {
	n, err := queryInt(ctx, r.s, "SELECT COUNT(*) FROM volumes WHERE project_id = ?", string(project))
	return int(n), err
}

func (r volumes) OnWorker(ctx context.Context, worker, after domain.ID, limit int) ([]*domain.Volume, error) {
	return queryAll(ctx, r.s, scanVolume, volumeSelect+" WHERE worker_id = ? AND id > ? ORDER BY id LIMIT ?", string(worker), string(after), clampLimit(limit))
}

// mount notes which volumes a new VM has.
func (r vms) mount(ctx context.Context, vm *domain.VM) error {
	for _, m := range vm.Spec.Mounts {
		if m.VolumeID == "" {
			continue
		}
		err := r.s.ExecLater(ctx, Write{
			Query: "INSERT INTO volume_mounts (project_id, volume_id, vm_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
			Args:  []any{string(vm.ProjectID), string(m.VolumeID), string(vm.ID)},
			Fault: func(err error) error {
				if violated(err, Reference) {
					return errors.Wrap(err, errors.NotFound, "there is no volume %q", m.Source).WithField("volumes")
				}
				return err
			},
		})
		if err != nil {
			return err
		}
	}
	return nil
}
