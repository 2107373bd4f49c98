package worker_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// images is a store of root filesystems that are directories and nothing more:
// the machines of the fake driver run on the host's own.
type images struct {
	mu    sync.Mutex
	built map[string]image.Result
	read  map[string]string        // of archives, by build
	held  map[string]chan struct{} // by directory: a build tells that it has begun, and ends when it is closed
}

func (i *images) Get(_ context.Context, id string) (image.Result, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	r, ok := i.built[id]
	if !ok {
		return r, errors.New(errors.NotFound, "there is no build %q", id)
	}
	return r, nil
}

// hold lets builds of a directory not end. The channel tells that one has begun.
func (i *images) hold(dir string) (begun chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	begun = make(chan struct{})
	i.held = map[string]chan struct{}{dir: begun}
	return begun
}

func (i *images) Build(ctx context.Context, id string, src domain.TemplateSource, progress image.Progress) (image.Result, error) {
	progress(image.Line{Step: "copy", Text: src.Dir})
	i.mu.Lock()
	held := i.held[src.Dir]
	i.mu.Unlock()
	if held != nil {
		held <- struct{}{}
		select {
		case <-held:
		case <-ctx.Done():
			return image.Result{}, ctx.Err()
		}
	}
	if strings.HasPrefix(src.Dir, "/missing") {
		return image.Result{}, errors.New(errors.NotFound, "there is no such directory")
	}
	archive := ""
	if src.Tar != "" {
		content, err := os.ReadFile(src.Tar)
		if err != nil {
			return image.Result{}, errors.Wrap(err, errors.NotFound, "there is no such archive")
		}
		archive = string(content)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if archive != "" {
		i.read = map[string]string{id: archive}
	}
	i.built[id] = image.Result{ID: id, RootFS: src.Dir, Digest: "sha256:0", Env: map[string]string{"FROM_IMAGE": "yes", "BOTH": "image"}}
	return i.built[id], nil
}

func (i *images) BuildBase(ctx context.Context, id string, progress image.Progress) (image.Result, error) {
	return i.Build(ctx, id, domain.TemplateSource{Dir: "/base"}, progress)
}

func (i *images) Delete(_ context.Context, id string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.built, id)
	return nil
}

// bed is an installation on the fake driver: real store, journals, queue,
// service and worker.
type bed struct {
	*service.Service
	t        *testing.T
	ctx      context.Context
	node     *fake.Node
	images   *images
	store    storage.Store
	journals *journal.Store
	sealer   seal.Sealer
	changes  *watch.Hub[domain.ID]
	worker   *worker.Worker
	by       vmm.Caller
	config   worker.Config
	ahead    atomic.Int64       // nanoseconds that the worker's clock is ahead
	late     *atomic.Int64      // nanoseconds that the database's clock is ahead
	deps     func(*worker.Deps) // changes what the worker works with; nil: nothing
	link     *link              // between service and worker; nil: a call in one process
}

func newBed(t *testing.T, options ...func(*worker.Config)) *bed {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	late := new(atomic.Int64)
	store, err := sqlitetest.Open(ctx, filepath.Join(dir, "db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(time.Duration(late.Load())) }})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	keys, err := seal.LoadFile(filepath.Join(dir, "key"))
	must(t, err)
	node := fake.NewNode(t.TempDir())
	t.Cleanup(func() { must(t, node.Close()) })
	b := &bed{
		t: t, ctx: ctx, node: node, images: &images{built: map[string]image.Result{}}, store: store, late: late, sealer: seal.New(keys),
		by: vmm.Caller{ProjectID: domain.NewID(), Name: "tester"},
		config: worker.Config{
			Name: "node", Platform: "linux/amd64", DataDir: dir, ReadyTimeout: 10 * time.Second, StopGrace: 2 * time.Second,
			Capacity: domain.Resources{MilliCPU: 8000, MemoryBytes: 8 << 30, DiskBytes: 64 << 30, PIDs: 1 << 20},
		},
	}
	for _, o := range options {
		o(&b.config)
	}
	must(t, store.Update(ctx, func(tx storage.Tx) error {
		return tx.Projects().Insert(ctx, &domain.Project{ID: b.by.ProjectID, Name: "p", CreatedAt: time.Now().UTC()})
	}))
	b.up()
	t.Cleanup(b.down)
	b.template("base", "/")
	return b
}

// template builds a template of a directory.
func (b *bed) template(name, dir string) {
	b.t.Helper()
	b.built(vmm.BuildTemplate{Name: name, Source: domain.TemplateSource{Dir: dir}, Env: map[string]string{"BOTH": "template"}})
}

// built builds a template.
func (b *bed) built(req vmm.BuildTemplate) {
	b.t.Helper()
	task, err := b.BuildTemplate(b.ctx, b.by, req)
	must(b.t, err)
	if task, err = b.WaitTask(b.ctx, b.by, task.ID); err != nil || task.State != domain.TaskSucceeded {
		b.t.Fatalf("template: %+v, %v", task, err)
	}
}

// up starts worker and service, as a fresh process does.
func (b *bed) up() {
	b.t.Helper()
	must(b.t, b.begin())
}

// begin is up for a worker that may be refused.
func (b *bed) begin() error {
	b.t.Helper()
	var err error
	b.journals, err = journal.OpenStore(filepath.Join(b.config.DataDir, "journals"), journal.Options{})
	must(b.t, err)
	b.changes = new(watch.Hub[domain.ID])
	log := slog.New(slog.DiscardHandler)
	deps := worker.Deps{
		Store: b.store, Drivers: map[string]vmm.Driver{"fake": fake.New(b.node)}, Images: b.images, Journals: b.journals,
		Sealer: b.sealer, Queue: memory.New(16, nil, log), Changes: b.changes, Log: log, Now: b.now,
	}
	if b.deps != nil {
		b.deps(&deps)
	}
	b.worker = worker.New(b.config, deps)
	if os.Getenv("AETHERIUM_TEST_NODE") == "linked" {
		b.link = newLink(b.worker, log)
	}
	b.Service = b.serve(b, b.changes)
	return b.worker.Start(b.ctx)
}

// serve makes a service of the bed's store that reaches nodes.
func (b *bed) serve(nodes service.Nodes, changes *watch.Hub[domain.ID], options ...func(*service.Config)) *service.Service {
	config := service.Config{
		DefaultTemplate: "base", DefaultDriver: "fake", DefaultNetwork: domain.NetworkNone, Platform: "linux/amd64",
		Defaults:   domain.Resources{MilliCPU: 1000, MemoryBytes: 256 << 20, DiskBytes: 256 << 20, PIDs: 256},
		Overcommit: service.Overcommit{Memory: 1, Disk: 1},
		MaxUploads: 40 << 20,
	}
	for _, o := range options {
		o(&config)
	}
	return service.New(config, service.Deps{Store: b.store, Nodes: nodes, Sealer: b.sealer, Changes: changes, Log: slog.New(slog.DiscardHandler)})
}

// down lets go of everything as an orderly end does. VMs run on.
func (b *bed) down() {
	b.t.Helper()
	if b.worker == nil {
		return
	}
	b.link.cut()
	must(b.t, b.worker.Stop(context.WithoutCancel(b.ctx)))
	must(b.t, b.journals.Close())
	b.worker = nil
}

// crash lets go of everything as the death of the process does.
func (b *bed) crash() {
	b.t.Helper()
	b.link.cut()
	b.worker.Crash(b.ctx)
	must(b.t, b.journals.Close())
	b.worker = nil
}

// now is the worker's time, skip moves it on.
func (b *bed) now() time.Time       { return time.Now().Add(time.Duration(b.ahead.Load())) }
func (b *bed) skip(d time.Duration) { b.ahead.Add(int64(d)) }

func (b *bed) Node(id domain.ID) (service.Node, error) {
	if id != b.worker.ID() {
		return nil, errors.New(errors.Unavailable, "there is no worker %q", id)
	}
	if b.link != nil {
		return b.link.node, nil
	}
	return b.worker, nil
}

func (b *bed) Here() service.Node {
	if b.link != nil {
		return nil
	}
	return b.worker
}

// link is what lies between a gateway and a worker that are processes of their own.
type link struct {
	node   *nodelink.Client
	server *httptest.Server
}

func newLink(node service.Node, log *slog.Logger) *link {
	server := httptest.NewUnstartedServer(nil)
	server.Config = nodelink.NewServer(nodelink.Handler(node, nil, log), &tls.Config{MinVersion: tls.VersionTLS13}, log)
	server.EnableHTTP2 = true
	server.StartTLS()
	trust := x509.NewCertPool()
	trust.AddCert(server.Certificate())
	return &link{nodelink.NewClient(server.Listener.Addr().String(), &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13}, log), server}
}

// cut ends the link, with the calls that are under way.
func (l *link) cut() {
	if l == nil {
		return
	}
	l.node.Close()
	l.server.CloseClientConnections()
	l.server.Close()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// running creates a VM and waits until it runs.
func (b *bed) running(req vmm.CreateVM) *domain.VM {
	b.t.Helper()
	vm, err := b.CreateVM(b.ctx, b.by, req)
	must(b.t, err)
	vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(b.t, err)
	if vm.Observed != domain.Running {
		b.t.Fatalf("the VM is %s", vm.Observed)
	}
	return vm
}

// sh runs a shell line and returns its output and how it ended.
func (b *bed) sh(vm domain.ID, line string) (string, *domain.Execution) {
	b.t.Helper()
	x, err := b.StartExecution(b.ctx, b.by, vm, vmm.StartExecution{Command: domain.Command{Args: []string{"sh", "-c", line}}})
	must(b.t, err)
	return b.output(x.ID), b.ended(x.ID)
}

func (b *bed) output(x domain.ID) string {
	b.t.Helper()
	r, err := b.Output(b.ctx, b.by, x, 0, true)
	must(b.t, err)
	defer func() { _ = r.Close() }()
	var out strings.Builder
	for {
		ev, err := r.Next(b.ctx)
		must(b.t, err)
		if ev.End != nil {
			return out.String()
		}
		if ev.Offset != int64(out.Len()) {
			b.t.Fatalf("offset %d after %d bytes", ev.Offset, out.Len())
		}
		out.Write(ev.Data)
	}
}

func (b *bed) ended(x domain.ID) *domain.Execution {
	b.t.Helper()
	row, err := b.WaitExecution(b.ctx, b.by, x)
	must(b.t, err)
	return row
}
