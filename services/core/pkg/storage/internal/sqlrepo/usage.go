package sqlrepo

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type usage struct{ s Session }

func usageWhere(f storage.UsageFilter) where {
	w := where{}
	w.eq("vm_id", f.VMID)
	w.eq("project_id", f.ProjectID)
	if !f.From.IsZero() {
		w.add("from_at >= ?", micros(f.From))
	}
	if !f.To.IsZero() {
		w.add("from_at < ?", micros(f.To))
	}
	return w
}

const usageCols = "vm_id, project_id, from_at, to_at, cpu_seconds, memory_byte_sec, disk_bytes, egress_bytes"

// usageRows bounds the spans of one statement: databases bound its values.
const usageRows = 500

func (r usage) Record(ctx context.Context, us ...domain.Usage) error {
	for _, u := range us {
		if u.To.Before(u.From) {
			return errors.New(errors.InvalidArgument, "a span of usage ends before it begins")
		}
	}
	for some := range slices.Chunk(us, usageRows) {
		if err := r.record(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// record writes spans in one round trip: other writers wait meanwhile.
func (r usage) record(ctx context.Context, us []domain.Usage) error {
	args := make([]any, 0, len(us)*8)
	for _, u := range us {
		args = append(args, string(u.VMID), string(u.ProjectID), micros(u.From), micros(u.To), u.CPUSeconds, u.MemoryByteSec, u.DiskBytes, u.EgressBytes)
	}
	_, err := r.s.Exec(ctx, "INSERT INTO usage ("+usageCols+") VALUES "+times("("+marks(usageCols)+")", len(us))+
		" ON CONFLICT (vm_id, project_id, from_at) DO UPDATE SET "+excluded("to_at, cpu_seconds, memory_byte_sec, disk_bytes, egress_bytes"), args...)
	if violated(err, Reference) {
		return errors.Wrap(err, errors.NotFound, "a project of these VMs does not exist")
	}
	return err
}

func (r usage) List(ctx context.Context, f storage.UsageFilter, limit int) ([]domain.Usage, error) {
	w := usageWhere(f)
	var out []domain.Usage
	err := r.s.Query(ctx, func(row Row) error {
		var u domain.Usage
		err := row.Scan(&u.VMID, &u.ProjectID, scanTime{&u.From}, scanTime{&u.To}, &u.CPUSeconds, &u.MemoryByteSec, &u.DiskBytes, &u.EgressBytes)
		out = append(out, u)
		return err
	}, "SELECT "+usageCols+" FROM usage"+w.String()+
		" ORDER BY from_at, vm_id LIMIT ?", append(w.args, clampLimit(limit))...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (r usage) Sum(ctx context.Context, f storage.UsageFilter) (domain.Usage, error) {
	out := domain.Usage{ProjectID: f.ProjectID, VMID: f.VMID}
	w := usageWhere(f)
	err := r.s.Query(ctx, func(row Row) error {
		var from, to *int64
		if err := row.Scan(&from, &to, &out.CPUSeconds, &out.MemoryByteSec, &out.EgressBytes); err != nil {
			return err
		}
		if from != nil && to != nil {
			out.From, out.To = time.UnixMicro(*from).UTC(), time.UnixMicro(*to).UTC()
		}
		return nil
	}, "SELECT MIN(from_at), MAX(to_at), COALESCE(SUM(cpu_seconds), 0.0), COALESCE(SUM(memory_byte_sec), 0.0), "+
		"COALESCE(SUM(egress_bytes), 0) FROM usage"+w.String(), w.args...)
	if err != nil {
		return out, err
	}
	// The newest span of each VM tells its disk.
	out.DiskBytes, err = queryInt(ctx, r.s, "SELECT COALESCE(SUM(disk_bytes), 0) FROM ("+
		"SELECT disk_bytes, ROW_NUMBER() OVER (PARTITION BY vm_id, project_id ORDER BY from_at DESC) AS nth FROM usage"+w.String()+
		") AS last WHERE nth = 1", w.args...)
	return out, err
}

func (r usage) DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := r.s.Exec(ctx, `DELETE FROM usage WHERE (vm_id, project_id, from_at) IN (
		SELECT vm_id, project_id, from_at FROM usage WHERE to_at < ? ORDER BY to_at LIMIT ?)`, micros(before), clampLimit(limit))
	return int(n), err
}
