package runner_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/runner"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// images are directories: the machines of the fake driver run on the host's own.
type images struct{}

func (images) Get(_ context.Context, id string) (image.Result, error) {
	return image.Result{ID: id, RootFS: "/"}, nil
}

func (i images) Build(ctx context.Context, id string, _ domain.TemplateSource, _ image.Progress) (image.Result, error) {
	return i.Get(ctx, id)
}

func (i images) BuildBase(ctx context.Context, id string, _ image.Progress) (image.Result, error) {
	return i.Get(ctx, id)
}
func (images) Delete(context.Context, string) error { return nil }

// bed is an installation on the fake driver: all is real but the machines. Its
// gateway can be killed: service and runner work on a store that then fails.
type bed struct {
	t       *testing.T
	ctx     context.Context
	dir     string // commands write to it: they run on this host
	store   storage.Store
	sealer  seal.Sealer
	changes *watch.Hub[domain.ID]
	worker  *worker.Worker
	by      vmm.Caller
	config  runner.Config
	quota   domain.Quota

	*service.Service
	mortal *mortal
	runner *runner.Runner
}

func newBed(t *testing.T, options ...func(*bed, *worker.Config)) *bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	b := &bed{t: t, ctx: ctx, dir: t.TempDir(), changes: new(watch.Hub[domain.ID]), by: vmm.Caller{ProjectID: domain.NewID(), Name: "tester"}}
	config := worker.Config{
		Name: "node", Platform: "linux/amd64", DataDir: t.TempDir(), ReadyTimeout: 10 * time.Second, StopGrace: 2 * time.Second,
		Capacity: domain.Resources{MilliCPU: 64000, MemoryBytes: 64 << 30, DiskBytes: 64 << 30, PIDs: 1 << 20},
	}
	for _, o := range options {
		o(b, &config)
	}
	log := slog.New(slog.DiscardHandler)
	var err error
	b.store, err = sqlitetest.Open(ctx, filepath.Join(config.DataDir, "db"), sqlite.Options{Logger: log})
	must(t, err)
	t.Cleanup(func() { must(t, b.store.Close()) })
	keys, err := seal.LoadFile(filepath.Join(config.DataDir, "key"))
	must(t, err)
	b.sealer = seal.New(keys)
	node := fake.NewNode(t.TempDir())
	t.Cleanup(func() { must(t, node.Close()) })
	journals, err := journal.OpenStore(filepath.Join(config.DataDir, "journals"), journal.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, journals.Close()) })
	must(t, b.store.Update(ctx, func(tx storage.Tx) error {
		return tx.Projects().Insert(ctx, &domain.Project{ID: b.by.ProjectID, Name: "p", CreatedAt: time.Now().UTC()})
	}))
	b.worker = worker.New(config, worker.Deps{
		Store: b.store, Drivers: map[string]vmm.Driver{"fake": fake.New(node)}, Images: images{}, Journals: journals,
		Sealer: b.sealer, Queue: memory.New(16, nil, log), Changes: b.changes, Log: log,
	})
	must(t, b.worker.Start(ctx))
	t.Cleanup(func() { must(t, b.worker.Stop(context.WithoutCancel(ctx))) })
	b.up(0)
	t.Cleanup(func() { must(t, b.runner.Stop(ctx)) })
	task, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{Name: "base", Source: domain.TemplateSource{Dir: "/"}})
	must(t, err)
	b.ended(task.ID)
	return b
}

// up starts what a gateway has, as a fresh process does. It dies with its
// deaths-th write of the runner; 0: never.
func (b *bed) up(deaths int) {
	b.t.Helper()
	b.mortal = &mortal{Store: b.store, left: deaths, dead: make(chan struct{})}
	b.Service, b.runner, _ = b.gateway(b.mortal, b.worker)
	must(b.t, b.runner.Start(b.ctx))
}

// node is a worker as a gateway sees it.
type node interface {
	service.Node
	ID() domain.ID
}

// gateway is what carries runs out in a process.
func (b *bed) gateway(store storage.Store, only node) (*service.Service, *runner.Runner, queue.Queue) {
	log := slog.New(slog.DiscardHandler)
	q := memory.New(64, nil, log)
	s := b.service(store, only, runner.Waker{Queue: q, Log: log})
	return s, runner.New(b.config, runner.Deps{Store: store, Service: s, Sealer: b.sealer, Queue: q, Changes: b.changes, Log: log}), q
}

func (b *bed) service(store storage.Store, only node, runs service.RunQueue) *service.Service {
	return service.New(service.Config{
		DefaultTemplate: "base", DefaultDriver: "fake", DefaultNetwork: domain.NetworkNone, Platform: "linux/amd64",
		Defaults:   domain.Resources{MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 1 << 30, PIDs: 256},
		Overcommit: service.Overcommit{CPU: 1, Memory: 1, Disk: 1}, Quota: b.quota,
	}, service.Deps{
		Store: store, Nodes: service.OneNode{Only: only}, Sealer: b.sealer, Changes: b.changes, Runs: runs, Log: slog.New(slog.DiscardHandler),
	})
}

// mortal is a store that takes so many writes and then nothing any more.
type mortal struct {
	storage.Store
	mu   sync.Mutex
	left int
	done int // writes
	dead chan struct{}
	gone bool
}

var errDead = errors.New(errors.Unavailable, "the process was killed")

func (m *mortal) View(ctx context.Context, f func(storage.Tx) error) error {
	if m.isGone() {
		return errDead
	}
	return m.Store.View(ctx, f)
}

func (m *mortal) Read(ctx context.Context, f func(storage.Tx) error) error {
	if m.isGone() {
		return errDead
	}
	return m.Store.Read(ctx, f)
}

func (m *mortal) isGone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}

func (m *mortal) Update(ctx context.Context, f func(storage.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return errDead
	}
	err := m.Store.Update(ctx, f)
	m.done++
	if m.left > 0 {
		if m.left--; m.left == 0 {
			m.gone = true
			close(m.dead)
		}
	}
	return err
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
}

func (m *mortal) writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.done
}

// ended waits for a task's end, by the store that lives on.
func (b *bed) ended(id domain.ID) *domain.Task {
	b.t.Helper()
	return b.until(id, func(t *domain.Task) bool { return t.State.Ended() })
}

func (b *bed) until(id domain.ID, is func(*domain.Task) bool) *domain.Task {
	b.t.Helper()
	sub := b.changes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		t := b.task(id)
		if is(t) {
			return t
		}
		select {
		case <-changed:
		case <-b.ctx.Done():
			b.t.Fatalf("the task is still %+v", t)
		}
	}
}

func (b *bed) task(id domain.ID) *domain.Task {
	b.t.Helper()
	var t *domain.Task
	must(b.t, b.store.View(b.ctx, func(tx storage.Tx) (err error) {
		t, err = tx.Tasks().Get(b.ctx, b.by.ProjectID, id)
		return err
	}))
	return t
}

func (b *bed) create(runs ...vmm.Run) []*domain.Task {
	b.t.Helper()
	tasks, err := b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: runs})
	must(b.t, err)
	return tasks
}

// project makes another project.
func (b *bed) project(name string) vmm.Caller {
	b.t.Helper()
	by := vmm.Caller{ProjectID: domain.NewID(), Name: name}
	must(b.t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		if err := tx.Projects().Insert(b.ctx, &domain.Project{ID: by.ProjectID, Name: name, CreatedAt: time.Now().UTC()}); err != nil {
			return err
		}
		base, err := tx.Templates().ByName(b.ctx, b.by.ProjectID, "base")
		if err != nil {
			return err
		}
		base.Public = true
		return tx.Templates().Update(b.ctx, base)
	}))
	return by
}

// run is a shell's line.
func run(line string, args ...any) vmm.Run {
	return vmm.Run{Command: domain.Command{Args: []string{"sh", "-c", fmt.Sprintf(line, args...)}, Timeout: time.Minute}, Backoff: time.Millisecond}
}

// lines are those that commands wrote into a file.
func (b *bed) lines(name string) []string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if os.IsNotExist(err) {
		return nil
	}
	must(b.t, err)
	return strings.Fields(string(text))
}

// eventually waits until something is so.
func (b *bed) eventually(is func() bool) {
	b.t.Helper()
	for !is() {
		if b.ctx.Err() != nil {
			b.t.Fatal("it never came to that")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// gone checks that a task's VM is not there any more.
func (b *bed) gone(t *domain.Task) {
	b.t.Helper()
	vm, err := b.WaitVM(b.ctx, b.by, t.VMID)
	if err != nil || vm.Observed != domain.Deleted {
		b.t.Errorf("the VM of the task: %+v, %v", vm, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
