package sqlrepo

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

type quotas struct{ s Session }

const (
	quotaColumns = "vms, milli_cpu, memory_bytes, disk_bytes, creates_per_minute, snapshots, templates"
	// What triggers keep of a project, less what they have taken one VM for.
	heldQuery = `SELECT s.vms - COALESCE(v.n, 0), s.milli_cpu - COALESCE(v.active * v.milli_cpu, 0),
		s.memory_bytes - COALESCE(v.active * v.memory_bytes, 0), s.disk_bytes - COALESCE(v.disk_bytes, 0)
		FROM project_sums s LEFT JOIN (
			SELECT project_id, 1 AS n, CASE WHEN ` + holdsMemory + ` THEN 1 ELSE 0 END AS active, milli_cpu, memory_bytes, disk_bytes
			FROM vms WHERE id = ? AND observed <> 'deleted') AS v ON v.project_id = s.project_id
		WHERE s.project_id = ?`
	// A VM holds CPU, memory and PIDs unless it has ended or rests without memory
	// and is not wanted otherwise; as the triggers have it. The common case comes first.
	holdsMemory = `(observed = 'running' OR (observed <> 'failed'
		AND NOT (observed = 'stopped' AND desired IN ('stopped', 'deleted'))
		AND NOT (observed = 'paused' AND pause_mode <> 'freeze' AND desired IN ('paused', 'deleted'))))`
)

func (r quotas) Override(ctx context.Context, project domain.ID) (domain.QuotaOverride, error) {
	var o domain.QuotaOverride
	err := r.s.Query(ctx, func(row Row) error {
		return row.Scan(&o.VMs, &o.MilliCPU, &o.MemoryBytes, &o.DiskBytes, &o.CreatesPerMinute, &o.Snapshots, &o.Templates)
	}, "SELECT "+quotaColumns+" FROM quotas WHERE project_id = ?", string(project))
	return o, err
}

func (r quotas) PutOverride(ctx context.Context, project domain.ID, o domain.QuotaOverride) error {
	if o == (domain.QuotaOverride{}) {
		if _, err := (projects{s: r.s}).Get(ctx, project); err != nil {
			return err
		}
		_, err := r.s.Exec(ctx, "DELETE FROM quotas WHERE project_id = ?", string(project))
		return err
	}
	_, err := r.s.Exec(ctx, "INSERT INTO quotas (project_id, "+quotaColumns+") VALUES (?, "+marks(quotaColumns)+") ON CONFLICT (project_id) DO UPDATE SET "+
		excluded(quotaColumns), string(project), optInt(o.VMs), optInt(o.MilliCPU), optInt(o.MemoryBytes), optInt(o.DiskBytes), optInt(o.CreatesPerMinute),
		optInt(o.Snapshots), optInt(o.Templates))
	if violated(err, Reference) {
		return errors.Wrap(err, errors.NotFound, "project %s does not exist", project)
	}
	return err
}

func (r quotas) Held(ctx context.Context, project, except domain.ID) (domain.Quota, error) {
	var q domain.Quota
	err := r.s.Query(ctx, func(row Row) error {
		return row.Scan(&q.VMs, &q.MilliCPU, &q.MemoryBytes, &q.DiskBytes)
	}, heldQuery, string(except), string(project))
	return q, err
}

func (r quotas) Created(ctx context.Context, project domain.ID, after time.Time) (int64, error) {
	return queryInt(ctx, r.s, "SELECT COUNT(*) FROM vms WHERE project_id = ? AND created_at > ?", string(project), micros(after))
}

func (r quotas) NthCreated(ctx context.Context, project domain.ID, n int64, after time.Time) (at time.Time, found bool, err error) {
	err = r.s.Query(ctx, func(row Row) error {
		found = true
		return row.Scan(scanTime{&at})
	}, "SELECT created_at FROM vms WHERE project_id = ? AND created_at > ? ORDER BY created_at DESC LIMIT 1 OFFSET ?",
		string(project), micros(after), max(n, 1)-1)
	return at, found, err
}

func (r quotas) Kept(ctx context.Context, project domain.ID) (snapshots, templates int64, err error) {
	err = r.s.Query(ctx, func(row Row) error { return row.Scan(&snapshots, &templates) },
		`SELECT (SELECT COUNT(*) FROM snapshots WHERE project_id = ? AND ephemeral = 0 AND disk_of_vm = 0),
			(SELECT COUNT(*) FROM templates WHERE project_id = ?)`, string(project), string(project))
	return snapshots, templates, err
}
