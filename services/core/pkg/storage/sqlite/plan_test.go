package sqlite

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/internal/sqlrepo"
)

// planner runs statements and remembers how SQLite would.
type planner struct {
	*session
	plans []string // "query => plan"
}

func (p *planner) explain(ctx context.Context, query string, args []any) error {
	plan := []string{}
	err := p.session.Query(ctx, func(r sqlrepo.Row) error {
		var id, parent, unused int
		var detail string
		err := r.Scan(&id, &parent, &unused, &detail)
		plan = append(plan, detail)
		return err
	}, "EXPLAIN QUERY PLAN "+query, args...)
	p.plans = append(p.plans, query+" => "+strings.Join(plan, "; "))
	return err
}

func (p *planner) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := p.explain(ctx, query, args); err != nil {
		return 0, err
	}
	return p.session.Exec(ctx, query, args...)
}

func (p *planner) Query(ctx context.Context, each func(sqlrepo.Row) error, query string, args ...any) error {
	if err := p.explain(ctx, query, args); err != nil {
		return err
	}
	return p.session.Query(ctx, each, query, args...)
}

// how gives the plan of a statement.
func (p *planner) how(i int) string {
	_, how, _ := strings.Cut(p.plans[i], " => ")
	return how
}

// A scan without an index reads a whole table, and a sort reads everything
// before the first row of a page. Scans of what a plan itself made (subqueries
// and row values) are no tables.
var (
	wholeTable = regexp.MustCompile(`SCAN (\w+)(?: USING INDEX|$|;| )`)
	sorts      = regexp.MustCompile(`USE TEMP B-TREE FOR`)
)

func TestPlansUseIndexes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := Open(ctx, filepath.Join(t.TempDir(), "a.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })

	p, id, now := domain.NewID(), domain.NewID(), time.Now()
	page := func(order storage.Page) storage.Page {
		order.Limit = 10
		return order
	}
	asc, desc := page(storage.Page{Order: "asc"}), page(storage.Page{})
	pool := storage.PoolKey{WorkerID: id, Driver: "oci", BuildID: id}
	type call struct {
		name  string
		f     func(tx storage.Tx) error
		sorts bool   // it may sort: what it sorts is small or one tenant's
		index string // it must use this one, where several could serve
	}
	do := func(_ any, err error) error { return err }
	var calls []call
	for name, pg := range map[string]storage.Page{"asc": asc, "desc": desc} {
		calls = append(
			calls,
			call{name: "VMs " + name, index: "vms_live", f: func(tx storage.Tx) error { return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, Page: pg})) }},
			call{name: "VMs with tombstones " + name, index: "vms_created", f: func(tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, IncludeDeleted: true, Page: pg}))
			}},
			call{name: "VMs by state " + name, index: "vms_live", f: func(tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, States: []domain.ObservedState{domain.Running, domain.Paused}, Page: pg}))
			}},
			call{name: "VMs by metadata " + name, sorts: true, f: func(tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, Metadata: map[string]string{"a": "b", "c": "d"}, Page: pg}))
			}},
			call{name: "executions of a VM " + name, f: func(tx storage.Tx) error {
				return do(tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: p, VMID: id, Page: pg}))
			}},
			call{name: "executions " + name, f: func(tx storage.Tx) error {
				return do(tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: p, Page: pg}))
			}},
			call{name: "templates " + name, f: func(tx storage.Tx) error {
				return do(tx.Templates().List(ctx, storage.TemplateFilter{ProjectID: p, Page: pg}))
			}},
			call{name: "builds of a template " + name, f: func(tx storage.Tx) error {
				return do(tx.Builds().List(ctx, storage.BuildFilter{ProjectID: p, TemplateID: id, Page: pg}))
			}},
			call{name: "snapshots " + name, f: func(tx storage.Tx) error {
				return do(tx.Snapshots().List(ctx, storage.SnapshotFilter{ProjectID: p, Page: pg}))
			}},
			call{name: "snapshots of a VM " + name, f: func(tx storage.Tx) error {
				return do(tx.Snapshots().List(ctx, storage.SnapshotFilter{ProjectID: p, VMID: id, Page: pg}))
			}},
			call{name: "snapshots on a worker " + name, f: func(tx storage.Tx) error {
				return do(tx.Snapshots().List(ctx, storage.SnapshotFilter{WorkerID: id, Page: pg}))
			}},
			call{name: "tasks " + name, f: func(tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{ProjectID: p, Kind: "k", Page: pg}))
			}},
			call{name: "tasks of a subject " + name, f: func(tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{ProjectID: p, Subject: id, Page: pg}))
			}},
			call{name: "tasks of a subject, for the system " + name, sorts: true, f: func(tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{Subject: id, Page: pg}))
			}},
			call{name: "keys " + name, f: func(tx storage.Tx) error { return do(tx.Keys().List(ctx, p, pg)) }},
			call{name: "volumes " + name, f: func(tx storage.Tx) error { return do(tx.Volumes().List(ctx, p, pg)) }},
			call{name: "projects " + name, f: func(tx storage.Tx) error { return do(tx.Projects().List(ctx, pg)) }},
		)
	}
	calls = append(
		calls,
		call{name: "unconverged", f: func(tx storage.Tx) error { return do(tx.VMs().Unconverged(ctx, id, 10)) }},
		call{name: "deadline due", f: func(tx storage.Tx) error { return do(tx.VMs().DeadlineDue(ctx, id, now, 10)) }},
		call{name: "unacked", f: func(tx storage.Tx) error { return do(tx.VMs().Unacked(ctx, id, 10)) }},
		call{name: "timed", f: func(tx storage.Tx) error { return do(tx.VMs().Timed(ctx, id, "", 10)) }},
		call{name: "on worker", f: func(tx storage.Tx) error { return do(tx.VMs().OnWorker(ctx, id, "", 10)) }},
		call{name: "tombstones", f: func(tx storage.Tx) error { return do(tx.VMs().Tombstones(ctx, now, 10)) }},
		call{name: "VM by name", f: func(tx storage.Tx) error { _, _ = tx.VMs().ByName(ctx, p, "n"); return nil }},
		call{name: "VM by ID", f: func(tx storage.Tx) error { _, _ = tx.VMs().Get(ctx, "", id); return nil }},
		call{name: "count of a project", sorts: true, index: "vms_quota", f: func(tx storage.Tx) error { return do(tx.VMs().Count(ctx, p)) }},
		call{name: "volume by name", f: func(tx storage.Tx) error { _, _ = tx.Volumes().ByName(ctx, p, "n"); return nil }},
		call{name: "volumes of a worker", f: func(tx storage.Tx) error { return do(tx.Volumes().OnWorker(ctx, id, "", 10)) }},
		call{name: "count of volumes", f: func(tx storage.Tx) error { return do(tx.Volumes().Count(ctx, p)) }},
		call{name: "reserved", f: func(tx storage.Tx) error { return do(tx.Workers().Reserved(ctx, id)) }},
		call{name: "held by a project", index: "vms_quota", f: func(tx storage.Tx) error { return do(tx.Quotas().Held(ctx, p, id)) }},
		call{name: "created by a project", f: func(tx storage.Tx) error { return do(tx.Quotas().Created(ctx, p, now)) }},
		call{name: "nth created by a project", f: func(tx storage.Tx) error { _, _, err := tx.Quotas().NthCreated(ctx, p, 5, now); return err }},
		call{name: "quota of a project", f: func(tx storage.Tx) error { return do(tx.Quotas().Override(ctx, p)) }},
		call{name: "kept by a project", f: func(tx storage.Tx) error { _, _, err := tx.Quotas().Kept(ctx, p); return err }},
		call{name: "records", index: "audit_created", f: func(tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{Since: now, Page: desc}))
		}},
		call{name: "records of a project", index: "audit_project", f: func(tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{ProjectID: p, Operation: "o", Actor: "a", Page: desc}))
		}},
		call{name: "records of a project, oldest first", index: "audit_project", f: func(tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{ProjectID: p, Since: now, Until: now, Page: asc}))
		}},
		call{name: "records of a subject", sorts: true, f: func(tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{ProjectID: p, Subject: string(id), Page: desc}))
		}},
		call{name: "delete records", f: func(tx storage.Tx) error { return do(tx.Audit().DeleteBefore(ctx, now, 10)) }},
		call{name: "machines on worker", f: func(tx storage.Tx) error { return do(tx.Machines().OnWorker(ctx, id)) }},
		call{name: "machine of VM", f: func(tx storage.Tx) error { _, _ = tx.Machines().ByVM(ctx, id); return nil }},
		call{name: "unclaimed", f: func(tx storage.Tx) error { return do(tx.Machines().Unclaimed(ctx, pool, 10)) }},
		call{name: "claim", f: func(tx storage.Tx) error { _, _ = tx.Machines().Claim(ctx, pool, id, 1); return nil }},
		call{name: "open executions", sorts: true, f: func(tx storage.Tx) error { return do(tx.Executions().Open(ctx, id)) }},
		call{name: "lose open", f: func(tx storage.Tx) error { return do(tx.Executions().LoseOpen(ctx, id, 1, "r", now)) }},
		call{name: "expired executions", f: func(tx storage.Tx) error { return do(tx.Executions().Expired(ctx, now, 10)) }},
		call{name: "execution for the system", f: func(tx storage.Tx) error { _, _ = tx.Executions().Get(ctx, "", id); return nil }},
		call{name: "resolve a name", f: func(tx storage.Tx) error { _, _ = tx.Names().Resolve(ctx, p, "n"); return nil }},
		call{name: "template by name", f: func(tx storage.Tx) error { _, _ = tx.Templates().ByName(ctx, p, "n"); return nil }},
		call{name: "build in use", f: func(tx storage.Tx) error { return do(tx.Builds().InUse(ctx, id)) }},
		call{name: "delete a build", f: func(tx storage.Tx) error { _ = tx.Builds().Delete(ctx, p, id); return nil }},
		call{name: "delete a snapshot", f: func(tx storage.Tx) error { _ = tx.Snapshots().Delete(ctx, p, id); return nil }},
		call{name: "runnable tasks", f: func(tx storage.Tx) error { return do(tx.Tasks().Runnable(ctx, now, 10)) }},
		call{name: "running tasks", f: func(tx storage.Tx) error { return do(tx.Tasks().Running(ctx, 10)) }},
		call{name: "delete tasks", f: func(tx storage.Tx) error { return do(tx.Tasks().DeleteEnded(ctx, now, 10)) }},
		call{name: "events", f: func(tx storage.Tx) error { return do(tx.Outbox().List(ctx, storage.EventFilter{After: 5})) }},
		call{name: "events of a project", f: func(tx storage.Tx) error {
			return do(tx.Outbox().List(ctx, storage.EventFilter{ProjectID: p, After: 5}))
		}},
		call{name: "events of a VM", f: func(tx storage.Tx) error {
			return do(tx.Outbox().List(ctx, storage.EventFilter{ProjectID: p, VMID: id, After: 5}))
		}},
		call{name: "bounds", f: func(tx storage.Tx) error { _, _, err := tx.Outbox().Bounds(ctx); return err }},
		call{name: "delete usage", f: func(tx storage.Tx) error { return do(tx.Usage().DeleteBefore(ctx, now, 10)) }},
		call{name: "usage of a VM", f: func(tx storage.Tx) error {
			return do(tx.Usage().List(ctx, storage.UsageFilter{ProjectID: p, VMID: id}, 10))
		}},
		call{name: "usage of a project", sorts: true, f: func(tx storage.Tx) error {
			return do(tx.Usage().List(ctx, storage.UsageFilter{ProjectID: p, From: now}, 10))
		}},
		call{name: "usage summed", sorts: true, f: func(tx storage.Tx) error {
			return do(tx.Usage().Sum(ctx, storage.UsageFilter{ProjectID: p, From: now}))
		}},
		call{name: "users", f: func(tx storage.Tx) error { return do(tx.Users().List(ctx, desc)) }},
		call{name: "user by name", f: func(tx storage.Tx) error { _, _ = tx.Users().ByName(ctx, "n"); return nil }},
		call{name: "user by subject", f: func(tx storage.Tx) error { _, _ = tx.Users().BySubject(ctx, "i", "s"); return nil }},
		call{name: "delete a user", f: func(tx storage.Tx) error { _ = tx.Users().Delete(ctx, id, now); return nil }},
		call{name: "member", f: func(tx storage.Tx) error { _, _ = tx.Members().Get(ctx, p, id); return nil }},
		call{name: "members of a project", f: func(tx storage.Tx) error { return do(tx.Members().OfProject(ctx, p)) }},
		call{name: "memberships of a user", f: func(tx storage.Tx) error { return do(tx.Members().OfUser(ctx, id)) }},
		call{name: "first project", f: func(tx storage.Tx) error { _, _ = tx.Projects().First(ctx); return nil }},
		call{name: "keys counted", f: func(tx storage.Tx) error { return do(tx.Keys().Count(ctx, p, now)) }},
		call{name: "key by hash", f: func(tx storage.Tx) error { _, _ = tx.Keys().ByHash(ctx, [32]byte{}); return nil }},
		call{name: "idempotency expiry", f: func(tx storage.Tx) error { return do(tx.Idempotency().DeleteExpired(ctx, now, 10)) }},
		call{name: "secrets", f: func(tx storage.Tx) error { return do(tx.Secrets().List(ctx, p)) }},
	)

	c := <-s.writer
	defer func() { s.writer <- c }()

	// The checks below see a scan and a sort.
	bad := &planner{session: &session{conn: c}}
	if err := bad.explain(ctx, "SELECT id FROM vms WHERE reason = 'x' ORDER BY reason, epoch", nil); err != nil {
		t.Fatal(err)
	}
	if scanned(bad.how(0)) != "vms" || !sorts.MatchString(bad.how(0)) {
		t.Fatalf("not seen in %q", bad.how(0))
	}
	for _, call := range calls {
		pl := &planner{session: &session{conn: c}}
		if err := call.f(sqlrepo.NewTx(pl)); err != nil {
			t.Errorf("%s: %v", call.name, err)
			continue
		}
		if len(pl.plans) == 0 {
			t.Errorf("%s: no statement ran", call.name)
		}
		for i, plan := range pl.plans {
			how := pl.how(i)
			if call.index != "" && !strings.Contains(how, "INDEX "+call.index) {
				t.Errorf("%s does not use %s:\n%s", call.name, call.index, plan)
			}
			if tables := scanned(how); tables != "" {
				t.Errorf("%s reads all of %s:\n%s", call.name, tables, plan)
			}
			if sorts.MatchString(how) && !call.sorts {
				t.Errorf("%s sorts:\n%s", call.name, plan)
			}
		}
	}
}

// scanned names a table that a plan reads from end to end; an index in the
// order that is asked for, read until the limit, is fine.
func scanned(plan string) string {
	for step := range strings.SplitSeq(plan, "; ") {
		if m := wholeTable.FindStringSubmatch(step); m != nil && !strings.Contains(step, "USING") &&
			m[1] != "CONSTANT" && m[1] != "last" && m[1] != "held" {
			return m[1]
		}
	}
	return ""
}
