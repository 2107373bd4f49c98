package service_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// node is a worker that does nothing: what is tested here happens before one
// is asked. What it is not meant to be asked makes the test panic.
type node struct{ service.Node }

func (node) Wake(_ context.Context, _, _ domain.ID) {}
func (node) SnapshotsChanged(context.Context)       {}
func (node) Live(domain.ID) (*domain.VM, bool)      { return nil, false }

// Snapshot says that there was nothing to copy.
func (node) Snapshot(context.Context, *domain.VM, domain.ID, domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	return vmm.SnapshotInfo{}, nil
}

// nodes is a fleet of one.
type nodes struct{}

func (nodes) Node(domain.ID) (service.Node, error) { return node{}, nil }
func (nodes) Here() service.Node                   { return node{} }

// bench is a service over a real store with one worker's row and one template.
type bench struct {
	*service.Service
	ctx    context.Context
	store  storage.Store
	sealer seal.Sealer
	config service.Config
	by     vmm.Caller
}

// now is the present as the store keeps it.
func (b *bench) now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func newBench(t testing.TB, options ...func(*service.Config)) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{ctx: t.Context(), by: vmm.Caller{ProjectID: domain.NewID(), Name: "tester"}}
	var err error
	b.store, err = sqlitetest.Open(b.ctx, filepath.Join(dir, "db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { must(t, b.store.Close()) })
	keys, err := seal.LoadFile(filepath.Join(dir, "key"))
	must(t, err)
	b.sealer = seal.New(keys)
	config := service.Config{
		DefaultTemplate: "base", DefaultDriver: "fake", DefaultNetwork: domain.NetworkNone, Platform: "linux/amd64",
		Defaults:   domain.Resources{MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 1 << 30, PIDs: 256},
		Overcommit: service.Overcommit{CPU: 2, Memory: 1, Disk: 1},
	}
	for _, o := range options {
		o(&config)
	}
	b.config = config
	b.Service = service.New(config, service.Deps{Store: b.store, Nodes: nodes{}, Sealer: b.sealer, Changes: new(watch.Hub[domain.ID]), Log: slog.New(slog.DiscardHandler)})
	must(t, b.store.Update(b.ctx, b.furnish))
	return b
}

// furnish puts in what a VM needs to be placed.
func (b *bench) furnish(tx storage.Tx) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	tmpl := &domain.Template{ID: domain.NewID(), ProjectID: b.by.ProjectID, Name: "base", CreatedAt: now, UpdatedAt: now}
	build := &domain.Build{
		ID: domain.NewID(), ProjectID: b.by.ProjectID, TemplateID: tmpl.ID, State: domain.BuildReady, Platform: "linux/amd64",
		Source: domain.TemplateSource{Dir: "/"}, CreatedAt: now, ReadyAt: &now,
	}
	worker := &domain.Worker{
		ID: domain.NewID(), Name: "node", State: domain.WorkerReady, Platform: "linux/amd64", SeenAt: now, JoinedAt: now,
		Drivers:  []domain.DriverInfo{{Name: "fake", Isolation: domain.IsolationContainer, Usable: true}},
		Capacity: domain.Resources{MilliCPU: 4000, MemoryBytes: 4 << 30, DiskBytes: 16 << 30, PIDs: 1 << 20},
	}
	err := errors.Join(
		tx.Projects().Insert(b.ctx, &domain.Project{ID: b.by.ProjectID, Name: "p", CreatedAt: now}),
		tx.Workers().Insert(b.ctx, worker),
		tx.Templates().Insert(b.ctx, tmpl),
		tx.Builds().Insert(b.ctx, build),
	)
	tmpl.Tags = map[string]domain.ID{domain.DefaultTag: build.ID} // only to a build that is there
	return errors.Join(err, tx.Templates().Update(b.ctx, tmpl))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A VM that no worker could ever hold is a mistake in the request; one for
// which there is no room now is a matter of time.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for hint, r := range map[string]domain.Resources{
		"4.001 cores are asked for, the largest worker has 4":            {MilliCPU: 4001},
		"4.5 GiB of memory are asked for, the largest worker has 4 GiB":  {MemoryBytes: 9 << 29},
		"16.25 GiB of disk are asked for, the largest worker has 16 GiB": {DiskBytes: 65 << 28},
	} {
		_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Resources: r})
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != "resources" || e.Hint != hint {
			t.Errorf("%+v: %v %q", r, err, errors.Public(err).Hint)
		}
	}
	for range 2 {
		_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 2 << 30}})
		must(t, err)
	}
	_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	var e *errors.Error
	if !errors.As(err, &e) || e.Code != errors.CapacityExhausted || e.RetryAfter == 0 || !strings.Contains(e.Hint, "memory_bytes") {
		t.Errorf("a full worker: %+v", err)
	}
}

// A deleted VM's token is gone with it, and asking for it says so.
func TestTokenOfADeletedVM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	token, err := b.VMPreviewToken(b.ctx, b.by, vm.ID)
	must(t, err)
	if again, err := b.Preview(b.ctx, vm.ID); err != nil || again.Token != token || len(token) != 40 {
		t.Errorf("token %q and %q, %v", token, again.Token, err)
	}
	if agent, err := b.AgentAccess(b.ctx, vm.ID); err != nil || len(agent.Token) != 40 || agent.Token == token || agent.ProjectID != vm.ProjectID {
		t.Errorf("the agent's token is %q, and that of previews %q, %v", agent, token, err)
	}
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if _, err := b.VMPreviewToken(b.ctx, b.by, vm.ID); !errors.HasCode(err, errors.Gone) {
		t.Errorf("for its owner: %v", err)
	}
	if _, err := b.Preview(b.ctx, vm.ID); !errors.HasCode(err, errors.Gone) {
		t.Errorf("for a visitor: %v", err)
	}
	if _, err := b.AgentAccess(b.ctx, vm.ID); !errors.HasCode(err, errors.Gone) {
		t.Errorf("for a client of its agent: %v", err)
	}
}

// Where the longest time is set, none at all is longer.
func TestMaxTimeoutHoldsForNone(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *service.Config) { c.MaxTimeout = time.Hour })
	none, more, less := time.Duration(0), 2*time.Hour, time.Minute
	for _, d := range []*time.Duration{&none, &more} {
		var e *errors.Error
		if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Timeout: d}); !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != "timeout_ms" {
			t.Errorf("%s: %v", *d, err)
		}
	}
	for _, tc := range []struct {
		given *time.Duration
		want  time.Duration
	}{{nil, time.Hour}, {&less, time.Minute}} {
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Timeout: tc.given})
		must(t, err)
		if vm.Deadline == nil || vm.Deadline.Sub(vm.CreatedAt).Round(time.Second) != tc.want {
			t.Errorf("given %v: deadline %v, created %v", tc.given, vm.Deadline, vm.CreatedAt)
		}
		if _, err := b.PatchVM(b.ctx, b.by, vm.ID, vmm.PatchVM{Timeout: &none}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("taking the deadline away: %v", err)
		}
	}
}
