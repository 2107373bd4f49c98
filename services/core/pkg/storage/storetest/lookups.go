package storetest

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Lookup is a query that must not read all of a large table.
type Lookup struct {
	Name  string
	Run   func(ctx context.Context, tx storage.Tx) error
	Sorts bool   // it may sort: what it sorts is small or one tenant's
	Index string // it must use this one, where several could serve
}

// Lookups gives the queries of lists and sweeps, of a project and for the ID of
// a worker or whatever else they are of.
func Lookups(p, id domain.ID, now time.Time) []Lookup {
	page := func(order storage.Page) storage.Page {
		order.Limit = 10
		return order
	}
	asc, desc := page(storage.Page{Order: "asc"}), page(storage.Page{})
	pool := storage.PoolKey{WorkerID: id, Driver: "oci", BuildID: id}
	do := func(_ any, err error) error { return err }
	var calls []Lookup
	for name, pg := range map[string]storage.Page{"asc": asc, "desc": desc} {
		calls = append(
			calls,
			Lookup{Name: "VMs " + name, Index: "vms_live", Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, Page: pg}))
			}},
			Lookup{Name: "VMs with tombstones " + name, Index: "vms_created", Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, IncludeDeleted: true, Page: pg}))
			}},
			Lookup{Name: "VMs by state " + name, Index: "vms_live", Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, States: []domain.ObservedState{domain.Running, domain.Paused}, Page: pg}))
			}},
			Lookup{Name: "unreachable VMs " + name, Index: "vms_live", Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, States: []domain.ObservedState{domain.Unreachable, domain.Pending}, Page: pg}))
			}},
			Lookup{Name: "VMs by metadata " + name, Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.VMs().List(ctx, storage.VMFilter{ProjectID: p, Metadata: map[string]string{"a": "b", "c": "d"}, Page: pg}))
			}},
			Lookup{Name: "executions of a VM " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: p, VMID: id, Page: pg}))
			}},
			Lookup{Name: "executions " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: p, Page: pg}))
			}},
			Lookup{Name: "templates " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Templates().List(ctx, storage.TemplateFilter{ProjectID: p, Page: pg}))
			}},
			Lookup{Name: "builds of a template " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Builds().List(ctx, storage.BuildFilter{ProjectID: p, TemplateID: id, Page: pg}))
			}},
			Lookup{Name: "snapshots " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Snapshots().List(ctx, storage.SnapshotFilter{ProjectID: p, Page: pg}))
			}},
			Lookup{Name: "snapshots of a VM " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Snapshots().List(ctx, storage.SnapshotFilter{ProjectID: p, VMID: id, Page: pg}))
			}},
			Lookup{Name: "snapshots on a worker " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Snapshots().List(ctx, storage.SnapshotFilter{WorkerID: id, Page: pg}))
			}},
			Lookup{Name: "tasks " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{ProjectID: p, Kind: "k", Page: pg}))
			}},
			Lookup{Name: "tasks of a subject " + name, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{ProjectID: p, Subject: id, Page: pg}))
			}},
			Lookup{Name: "tasks of a group " + name, Index: "tasks_group", Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{ProjectID: p, GroupID: id, Page: pg}))
			}},
			Lookup{Name: "tasks of a subject, for the system " + name, Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Tasks().List(ctx, storage.TaskFilter{Subject: id, Page: pg}))
			}},
			Lookup{Name: "keys " + name, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Keys().List(ctx, p, pg)) }},
			Lookup{Name: "volumes " + name, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Volumes().List(ctx, p, pg)) }},
			Lookup{Name: "webhooks " + name, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Webhooks().List(ctx, p, pg)) }},
			Lookup{Name: "deliveries " + name, Index: "webhook_deliveries_created", Run: func(ctx context.Context, tx storage.Tx) error {
				return do(tx.Webhooks().Deliveries(ctx, p, id, pg))
			}},
			Lookup{Name: "projects " + name, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Projects().List(ctx, pg)) }},
		)
	}
	calls = append(
		calls,
		Lookup{Name: "execution of a VM", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Executions().InVM(ctx, id, id)
			return nil
		}},
		Lookup{Name: "where output is", Run: func(ctx context.Context, tx storage.Tx) error {
			p := &domain.OutputPack{ID: domain.NewID(), ProjectID: p, CreatedAt: now}
			_, err := tx.OutputPacks().Insert(ctx, p, &domain.Execution{ID: domain.NewID(), VMID: id}, &domain.Execution{ID: domain.NewID(), VMID: id})
			return err
		}},
		Lookup{Name: "output in the storage", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.OutputPacks().List(ctx, asc)) }},
		Lookup{Name: "unused output", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.OutputPacks().Unused(ctx, id, p))
		}},
		Lookup{Name: "unused output goes", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.OutputPacks().DeleteUnused(ctx, id, p))
		}},
		Lookup{Name: "a project's past goes", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Projects().DeletePast(ctx, domain.NewID(), 1000)) // of nothing, so that each table is looked at
		}},
		Lookup{Name: "executions go", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Executions().Delete(ctx, p, id, domain.NewID()))
		}},
		Lookup{Name: "the last archive", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Archives().Last(ctx, p, id)
			return nil
		}},
		Lookup{Name: "an archive", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Archives().Get(ctx, p, id)
			return nil
		}},
		Lookup{Name: "archives", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Archives().List(ctx, p, desc)) }},
		Lookup{Name: "an upload", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Uploads().Get(ctx, p, id, now)
			return nil
		}},
		Lookup{Name: "an upload by its name", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Uploads().Named(ctx, p, "n", now)
			return nil
		}},
		Lookup{Name: "a project's uploads", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Uploads().Held(ctx, p, now)) }},
		Lookup{Name: "an upload goes", Run: func(ctx context.Context, tx storage.Tx) error { return tx.Uploads().Delete(ctx, p, id) }},
		Lookup{Name: "expired uploads", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Uploads().DeleteExpired(ctx, now, 10)) }},
		Lookup{Name: "archives go", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Archives().DeleteBefore(ctx, now, 10)) }},
		Lookup{Name: "unconverged", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().Unconverged(ctx, id, 10)) }},
		Lookup{Name: "deadline due", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().DeadlineDue(ctx, id, now, 10)) }},
		Lookup{Name: "unacked", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().Unacked(ctx, id, 10)) }},
		Lookup{Name: "timed", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().Timed(ctx, id, "", 10)) }},
		Lookup{Name: "on worker", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().OnWorker(ctx, id, "", 10)) }},
		Lookup{Name: "tombstones", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().Tombstones(ctx, id, now, 10)) }},
		Lookup{Name: "VM by name", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.VMs().ByName(ctx, p, "n")
			return nil
		}},
		Lookup{Name: "build by name", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Builds().Named(ctx, p, "n", "latest")
			return nil
		}},
		Lookup{Name: "VM by ID", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.VMs().Get(ctx, "", id)
			return nil
		}},
		Lookup{Name: "VM with an execution's ID", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _, _ = tx.VMs().ForExecution(ctx, p, id, id)
			return nil
		}},
		Lookup{Name: "key with a VM", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _, _, _ = tx.Keys().HeldWithVM(ctx, [32]byte{}, id, id)
			return nil
		}},
		Lookup{Name: "VM with its tasks", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _, _ = tx.VMs().Serving(ctx, id)
			return nil
		}},
		Lookup{Name: "count of a project", Sorts: true, Index: "vms_quota", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.VMs().Count(ctx, p)) }},
		Lookup{Name: "volume by name", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Volumes().ByName(ctx, p, "n")
			return nil
		}},
		Lookup{Name: "volumes of a worker", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Volumes().OnWorker(ctx, id, "", 10)) }},
		Lookup{Name: "count of volumes", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Volumes().Count(ctx, p)) }},
		Lookup{Name: "reserved", Run: func(ctx context.Context, tx storage.Tx) error {
			_, err := tx.Workers().Count(ctx, &domain.Worker{ID: id}, &domain.Worker{ID: domain.NewID()})
			return err
		}},
		Lookup{Name: "held by a project", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Quotas().Held(ctx, p, id)) }},
		Lookup{Name: "created by a project", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Quotas().Created(ctx, p, now)) }},
		Lookup{Name: "nth created by a project", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _, err := tx.Quotas().NthCreated(ctx, p, 5, now)
			return err
		}},
		Lookup{Name: "quota of a project", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Quotas().Override(ctx, p)) }},
		Lookup{Name: "kept by a project", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _, err := tx.Quotas().Kept(ctx, p)
			return err
		}},
		Lookup{Name: "records", Index: "audit_created", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{Since: now, Page: desc}))
		}},
		Lookup{Name: "records of a project", Index: "audit_project", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{ProjectID: p, Operation: "o", Actor: "a", Page: desc}))
		}},
		Lookup{Name: "records of a project, oldest first", Index: "audit_project", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{ProjectID: p, Since: now, Until: now, Page: asc}))
		}},
		Lookup{Name: "records of a subject", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Audit().List(ctx, storage.AuditFilter{ProjectID: p, Subject: string(id), Page: desc}))
		}},
		Lookup{Name: "delete records", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Audit().DeleteBefore(ctx, now, 10)) }},
		Lookup{Name: "machines on worker", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Machines().OnWorker(ctx, id)) }},
		Lookup{Name: "machine of VM", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Machines().ByVM(ctx, id)
			return nil
		}},
		Lookup{Name: "unclaimed", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Machines().Unclaimed(ctx, pool, 10)) }},
		Lookup{Name: "pools with a machine", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Machines().Pooled(ctx, pool, pool)) }},
		Lookup{Name: "claim", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Machines().Claim(ctx, id, id, 1)
			return nil
		}},
		Lookup{Name: "open executions", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Executions().Open(ctx, id)) }},
		Lookup{Name: "lose open", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Executions().LoseOpen(ctx, id, 1, "r", now))
		}},
		Lookup{Name: "expired executions", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Executions().Expired(ctx, id, now, 10)) }},
		Lookup{Name: "execution for the system", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Executions().Get(ctx, "", id)
			return nil
		}},
		Lookup{Name: "resolve a name", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Names().Resolve(ctx, p, "n")
			return nil
		}},
		Lookup{Name: "template by name", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Templates().ByName(ctx, p, "n")
			return nil
		}},
		Lookup{Name: "build in use", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Builds().InUse(ctx, id)) }},
		Lookup{Name: "delete a build", Run: func(ctx context.Context, tx storage.Tx) error { _ = tx.Builds().Delete(ctx, p, id); return nil }},
		Lookup{Name: "delete a snapshot", Run: func(ctx context.Context, tx storage.Tx) error { _ = tx.Snapshots().Delete(ctx, p, id); return nil }},
		Lookup{Name: "runnable tasks", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().Runnable(ctx, now, 10)) }},
		Lookup{Name: "running tasks", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().Running(ctx, 10)) }},
		Lookup{Name: "ready tasks", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().Ready(ctx, "run", "", now, 10)) }},
		Lookup{Name: "ready tasks of a project", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().Ready(ctx, "run", p, now, 10)) }},
		Lookup{Name: "projects with ready tasks", Index: "tasks_ready_project", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Tasks().ReadyProjects(ctx, "run", now))
		}},
		Lookup{Name: "running tasks of a kind", Index: "tasks_running", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().RunningOf(ctx, "run")) }},
		Lookup{Name: "running tasks of a project", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().CountRunning(ctx, "run", p)) }},
		Lookup{Name: "a group's states", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().CountGroup(ctx, p, id)) }},
		Lookup{Name: "tasks after one", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().Waiting(ctx, p, id, 10)) }},
		Lookup{Name: "tasks before one", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().After(ctx, p, id)) }},
		Lookup{Name: "ended tasks", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Tasks().Ended(ctx, now, 10)) }},
		Lookup{Name: "tasks go", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Tasks().Delete(ctx, &domain.Task{ID: id, ProjectID: p}, &domain.Task{ID: p, ProjectID: p}))
		}},
		Lookup{Name: "work of webhooks", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Webhooks().Work(ctx)) }},
		Lookup{Name: "work of some webhooks", Run: func(ctx context.Context, tx storage.Tx) error {
			_, newest, err := tx.Outbox().Bounds(ctx)
			if err != nil {
				return err
			}
			return do(tx.Webhooks().WorkOf(ctx, newest-10, id, p))
		}},
		Lookup{Name: "count of webhooks", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Webhooks().Count(ctx, p)) }},
		Lookup{Name: "claim of deliveries", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Webhooks().Claim(ctx, id, time.Minute, 10))
		}},
		Lookup{Name: "pending deliveries", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Webhooks().Pending(ctx, id, 10)) }},
		Lookup{Name: "delete deliveries", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Webhooks().DeleteEnded(ctx, time.Hour, 10))
		}},
		Lookup{Name: "events", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Outbox().List(ctx, storage.EventFilter{After: 5}))
		}},
		Lookup{Name: "events of a project", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Outbox().List(ctx, storage.EventFilter{ProjectID: p, After: 5}))
		}},
		Lookup{Name: "events of a VM", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Outbox().List(ctx, storage.EventFilter{ProjectID: p, VMID: id, After: 5}))
		}},
		Lookup{Name: "bounds", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _, err := tx.Outbox().Bounds(ctx)
			return err
		}},
		Lookup{Name: "delete usage", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Usage().DeleteBefore(ctx, now, 10)) }},
		Lookup{Name: "usage of a VM", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Usage().List(ctx, storage.UsageFilter{ProjectID: p, VMID: id}, 10))
		}},
		Lookup{Name: "usage of a project", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Usage().List(ctx, storage.UsageFilter{ProjectID: p, From: now}, 10))
		}},
		Lookup{Name: "usage summed", Sorts: true, Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Usage().Sum(ctx, storage.UsageFilter{ProjectID: p, From: now}))
		}},
		Lookup{Name: "users", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Users().List(ctx, desc)) }},
		Lookup{Name: "user by name", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Users().ByName(ctx, "n")
			return nil
		}},
		Lookup{Name: "user by subject", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Users().BySubject(ctx, "i", "s")
			return nil
		}},
		Lookup{Name: "delete a user", Run: func(ctx context.Context, tx storage.Tx) error { _ = tx.Users().Delete(ctx, id, now); return nil }},
		Lookup{Name: "member", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Members().Get(ctx, p, id)
			return nil
		}},
		Lookup{Name: "members of a project", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Members().OfProject(ctx, p)) }},
		Lookup{Name: "memberships of a user", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Members().OfUser(ctx, id)) }},
		Lookup{Name: "first project", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Projects().First(ctx)
			return nil
		}},
		Lookup{Name: "keys counted", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Keys().Count(ctx, p, now)) }},
		Lookup{Name: "key by hash", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Keys().ByHash(ctx, [32]byte{})
			return nil
		}},
		Lookup{Name: "held key by hash", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Keys().HeldByHash(ctx, [32]byte{})
			return nil
		}},
		Lookup{Name: "held key by ID", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.Keys().Held(ctx, id)
			return nil
		}},
		Lookup{Name: "idempotency expiry", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Idempotency().DeleteExpired(ctx, now, 10))
		}},
		Lookup{Name: "answers expiry", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.Answers().DeleteExpired(ctx, now, 10))
		}},
		Lookup{Name: "join tokens", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.JoinTokens().List(ctx, desc)) }},
		Lookup{Name: "join token by hash", Run: func(ctx context.Context, tx storage.Tx) error {
			_, _ = tx.JoinTokens().ByHash(ctx, [32]byte{})
			return nil
		}},
		Lookup{Name: "delete join tokens", Run: func(ctx context.Context, tx storage.Tx) error {
			return do(tx.JoinTokens().DeleteExpired(ctx, now, 10))
		}},
		Lookup{Name: "secrets", Run: func(ctx context.Context, tx storage.Tx) error { return do(tx.Secrets().List(ctx, p)) }},
	)
	return calls
}
