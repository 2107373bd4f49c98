package sqlrepo

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type machines struct{ s Session }

const (
	machineColumns = "id, worker_id, driver, handle, build_id, milli_cpu, memory_bytes, disk_bytes, pids, network, memory, vm_id, epoch, created_at"
	machineSelect  = "SELECT " + machineColumns + " FROM machines"
	machineClaim   = "UPDATE machines SET vm_id = ?, epoch = ? WHERE id = ? AND vm_id IS NULL"
	ofKind         = "worker_id = ? AND driver = ? AND build_id = ? AND milli_cpu = ? AND memory_bytes = ? AND disk_bytes = ? AND pids = ? AND network = ? AND vm_id IS NULL"
	inPool         = ofKind + " AND memory = ?"
)

func poolArgs(k storage.PoolKey) []any {
	r := k.Shape.Resources
	return []any{string(k.WorkerID), k.Driver, string(k.BuildID), r.MilliCPU, r.MemoryBytes, r.DiskBytes, r.PIDs, string(k.Shape.Network), flag(k.Memory)}
}

func optID(id domain.ID) any {
	if id == "" {
		return nil
	}
	return string(id)
}

func scanMachine(r Row) (*domain.Machine, error) {
	m := new(domain.Machine)
	res := &m.Shape.Resources
	var vm *domain.ID
	err := r.Scan(&m.ID, &m.WorkerID, &m.Driver, &m.Handle, &m.BuildID, &res.MilliCPU, &res.MemoryBytes, &res.DiskBytes, &res.PIDs,
		&m.Shape.Network, scanFlag{&m.Memory}, &vm, &m.Epoch, scanTime{&m.CreatedAt})
	if vm != nil {
		m.VMID = *vm
	}
	return m, err
}

func (r machines) Get(ctx context.Context, id domain.ID) (*domain.Machine, error) {
	return queryOne(ctx, r.s, scanMachine, notFound("machine", id), machineSelect+" WHERE id = ?", string(id))
}

func (r machines) ByVM(ctx context.Context, vm domain.ID) (*domain.Machine, error) {
	return queryOne(ctx, r.s, scanMachine, errors.New(errors.NotFound, "VM %s has no machine", vm),
		machineSelect+" WHERE vm_id = ? AND vm_id IS NOT NULL", string(vm))
}

func (r machines) Insert(ctx context.Context, m *domain.Machine) error {
	res := m.Shape.Resources
	return r.s.ExecLater(ctx, Write{
		Query: "INSERT INTO machines (" + machineColumns + ") VALUES (" + marks(machineColumns) + ")",
		Args: []any{
			string(m.ID), string(m.WorkerID), m.Driver, blob(m.Handle), string(m.BuildID), res.MilliCPU, res.MemoryBytes, res.DiskBytes, res.PIDs,
			string(m.Shape.Network), flag(m.Memory), optID(m.VMID), m.Epoch, micros(m.CreatedAt),
		},
		Fault: machineFault(m.ID, m.VMID),
	})
}

func (r machines) Update(ctx context.Context, m *domain.Machine) error {
	n, err := r.s.Exec(ctx, "UPDATE machines SET handle = ?, vm_id = ?, epoch = ? WHERE id = ?", blob(m.Handle), optID(m.VMID), m.Epoch, string(m.ID))
	if err != nil {
		return machineFault(m.ID, m.VMID)(err)
	}
	if n == 0 {
		return notFound("machine", m.ID)
	}
	return nil
}

func (r machines) Began(ctx context.Context, id domain.ID, handle []byte, epoch int64) error {
	return r.s.ExecLater(ctx, Write{
		Query: "UPDATE machines SET handle = COALESCE(?, handle), epoch = ? WHERE id = ?", Args: []any{blob(handle), epoch, string(id)},
		Absent: notFound("machine", id),
	})
}

func machineFault(id, vm domain.ID) func(error) error {
	return func(err error) error {
		switch {
		case violated(err, Unique, "vm"):
			return errors.Wrap(err, errors.AlreadyExists, "VM %s has a machine already", vm)
		case violated(err, Unique):
			return errors.Wrap(err, errors.AlreadyExists, "machine %s exists already", id)
		}
		return err
	}
}

func (r machines) Delete(ctx context.Context, id domain.ID) error {
	return r.s.ExecLater(ctx, Write{Query: "DELETE FROM machines WHERE id = ?", Args: []any{string(id)}})
}

func (r machines) OnWorker(ctx context.Context, worker domain.ID) ([]*domain.Machine, error) {
	return queryAll(ctx, r.s, scanMachine, machineSelect+" WHERE worker_id = ? ORDER BY created_at, id", string(worker))
}

func (r machines) Unclaimed(ctx context.Context, key storage.PoolKey, limit int) ([]*domain.Machine, error) {
	return queryAll(ctx, r.s, scanMachine, machineSelect+" WHERE "+inPool+" ORDER BY created_at, id LIMIT ?",
		append(poolArgs(key), clampLimit(limit))...)
}

func (r machines) Pooled(ctx context.Context, keys ...storage.PoolKey) ([]domain.ID, error) {
	if len(keys) > storage.MaxPools {
		return nil, errors.New(errors.InvalidArgument, "%d pools are asked for at once", len(keys))
	}
	if len(keys) == 0 {
		return nil, nil
	}
	var each []string
	var args []any
	for _, k := range keys {
		of := poolArgs(k)
		each = append(each, "SELECT CAST(? AS TEXT) WHERE EXISTS (SELECT 1 FROM machines WHERE "+ofKind+")")
		args = append(append(args, of[0]), of[:len(of)-1]...)
	}
	var workers []domain.ID
	err := r.s.Query(ctx, func(row Row) error {
		var id domain.ID
		err := row.Scan(&id)
		workers = append(workers, id)
		return err
	}, strings.Join(each, " UNION ALL "), args...)
	return workers, err
}

func (r machines) Claim(ctx context.Context, id, vm domain.ID, epoch int64) (*domain.Machine, error) {
	m, err := queryOne(ctx, r.s, scanMachine, notPooled(id), machineClaim+" RETURNING "+machineColumns, string(vm), epoch, string(id))
	if err != nil {
		return nil, machineFault(id, vm)(err)
	}
	return m, nil
}

func (r machines) Take(ctx context.Context, id, vm domain.ID, epoch int64) error {
	return r.s.ExecLater(ctx, Write{
		Query: machineClaim, Args: []any{string(vm), epoch, string(id)}, Absent: notPooled(id),
		Fault: machineFault(id, vm),
	})
}

func notPooled(id domain.ID) *errors.Error {
	return errors.New(errors.NotFound, "the machine %s is in no pool", id)
}
