package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type snapshots struct{ s Session }

const (
	snapshotColumns = "id, project_id, vm_id, name, build_id, driver, driver_version, kind, spec, env_sealed, worker_id, bytes, state, ephemeral, disk_of_vm, packed, created_at, revision"
	snapshotSelect  = "SELECT " + snapshotColumns + " FROM snapshots"
)

func scanSnapshot(r Row) (*domain.Snapshot, error) {
	s := new(domain.Snapshot)
	return s, r.Scan(&s.ID, &s.ProjectID, &s.VMID, &s.Name, &s.BuildID, &s.Driver, &s.DriverVersion, &s.Kind, jsonText{&s.Spec}, &s.EnvSealed,
		&s.WorkerID, &s.Bytes, &s.State, scanFlag{&s.Ephemeral}, scanFlag{&s.DiskOfVM}, scanOptJSON[domain.Packed]{&s.Packed}, scanTime{&s.CreatedAt}, &s.Revision)
}

func (r snapshots) Get(ctx context.Context, project, id domain.ID) (*domain.Snapshot, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanSnapshot, notFound("snapshot", id), snapshotSelect+w.String(), w.args...)
}

func (r snapshots) ByName(ctx context.Context, project domain.ID, name string) (*domain.Snapshot, error) {
	return queryOne(ctx, r.s, scanSnapshot, errors.New(errors.NotFound, "no snapshot is named %q", name), snapshotSelect+
		" WHERE project_id = ? AND id = (SELECT subject_id FROM names WHERE project_id = ? AND name = ? AND kind = 'snapshot')",
		string(project), string(project), name)
}

func (r snapshots) Insert(ctx context.Context, s *domain.Snapshot) error {
	if err := names(r).take(ctx, s.ProjectID, s.Name, storage.KindSnapshot, s.ID); err != nil {
		return err
	}
	_, err := r.s.Exec(ctx, "INSERT INTO snapshots ("+snapshotColumns+") VALUES ("+marks(snapshotColumns)+")",
		string(s.ID), string(s.ProjectID), string(s.VMID), s.Name, string(s.BuildID), s.Driver, s.DriverVersion, string(s.Kind), jsonText{s.Spec},
		blob(s.EnvSealed), string(s.WorkerID), s.Bytes, string(s.State), flag(s.Ephemeral), flag(s.DiskOfVM), optJSON(s.Packed), micros(s.CreatedAt), 1)
	switch {
	case violated(err, Unique):
		return errors.Wrap(err, errors.AlreadyExists, "snapshot %s exists already", s.ID)
	case violated(err, Reference):
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", s.ProjectID)
	case err != nil:
		return err
	}
	s.Revision = 1
	return nil
}

func (r snapshots) Update(ctx context.Context, s *domain.Snapshot) error {
	n, err := r.s.Exec(ctx, "UPDATE snapshots SET name = ?, driver_version = ?, kind = ?, worker_id = ?, bytes = ?, state = ?, packed = ?, revision = ? WHERE id = ? AND project_id = ? AND revision = ?",
		s.Name, s.DriverVersion, string(s.Kind), string(s.WorkerID), s.Bytes, string(s.State), optJSON(s.Packed), s.Revision+1, string(s.ID), string(s.ProjectID), s.Revision)
	if err != nil {
		return fault(err, "updating a snapshot")
	}
	if n == 0 {
		if _, err := r.Get(ctx, s.ProjectID, s.ID); err != nil {
			return err
		}
		return changedMeanwhile("snapshot")
	}
	ns := names(r)
	if err := ns.release(ctx, s.ProjectID, s.ID); err != nil {
		return err
	}
	if err := ns.take(ctx, s.ProjectID, s.Name, storage.KindSnapshot, s.ID); err != nil {
		return err
	}
	s.Revision++
	return nil
}

func (r snapshots) Delete(ctx context.Context, project, id domain.ID) error {
	s, err := r.Get(ctx, project, id)
	if err != nil {
		return err
	}
	n, err := r.s.Exec(ctx, `DELETE FROM snapshots WHERE id = ? AND project_id = ? AND NOT EXISTS (
		SELECT 1 FROM vms WHERE vms.snapshot_id = snapshots.id AND vms.snapshot_id <> '' AND vms.observed <> 'deleted'
		AND vms.observed IN ('pending', 'creating', 'starting'))
		AND NOT (disk_of_vm = 1 AND EXISTS (SELECT 1 FROM vms WHERE vms.id = snapshots.vm_id AND vms.project_id = snapshots.project_id AND vms.stored_id = snapshots.id))`,
		string(id), string(s.ProjectID))
	if err != nil {
		return fault(err, "deleting a snapshot")
	}
	if n == 0 {
		if s.DiskOfVM {
			return errors.New(errors.Conflict, "snapshot %s is the disk of the VM %s", id, s.VMID).WithHint("start the VM, or delete it")
		}
		return errors.New(errors.Conflict, "snapshot %s is in use: a VM is being made from it", id).WithHint("retry when the VM runs")
	}
	return names(r).release(ctx, s.ProjectID, id)
}

func (r snapshots) Copied(ctx context.Context, s *domain.Snapshot, worker domain.ID) error {
	_, err := r.s.Exec(ctx, "INSERT INTO snapshot_copies (snapshot_id, project_id, worker_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
		string(s.ID), string(s.ProjectID), string(worker))
	if violated(err, Reference) {
		return notFound("snapshot", s.ID)
	}
	return err
}

func (r snapshots) Copies(ctx context.Context, s *domain.Snapshot) ([]domain.ID, error) {
	return workersWith(ctx, r.s, "SELECT worker_id FROM snapshot_copies WHERE snapshot_id = ? AND project_id = ? ORDER BY worker_id", s.ID, s.ProjectID)
}

func (r snapshots) List(ctx context.Context, f storage.SnapshotFilter) (storage.List[*domain.Snapshot], error) {
	w := &where{}
	w.eq("vm_id", f.VMID)
	w.eq("worker_id", f.WorkerID)
	w.eq("project_id", f.ProjectID)
	if !f.IncludeEphemeral {
		w.add("ephemeral = 0 AND disk_of_vm = 0")
	}
	if f.Abandoned {
		w.add("disk_of_vm = 1 AND NOT EXISTS (SELECT 1 FROM vms v WHERE v.id = snapshots.vm_id AND v.project_id = snapshots.project_id AND v.stored_id = snapshots.id)")
	}
	if f.Unpacked {
		w.add("packed IS NULL")
	}
	anyOf(w, "state", f.States)
	return page(ctx, r.s, snapshotSelect, w, f.Page, scanSnapshot, func(s *domain.Snapshot) (time.Time, domain.ID) { return s.CreatedAt, s.ID })
}
