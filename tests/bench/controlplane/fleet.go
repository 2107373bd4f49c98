package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

const (
	// hosts is how many of the workers share connections to the database: each
	// of them having its own would be more than one PostgreSQL wants.
	hosts = 4
	// projects share the VMs.
	projects = 50
)

// fleet is a service, its workers, and what they work with.
type fleet struct {
	*service.Service
	log     *slog.Logger
	dir     string
	pg      *pgtest.Server
	stores  []storage.Store
	changes *watch.Hub[domain.ID]
	sealer  seal.Sealer
	callers []vmm.Caller
	nodes   map[domain.ID]*nodelink.Client
	closers []func() error

	mu  sync.Mutex
	vms []made // in the order in which they were made
}

type made struct {
	by vmm.Caller
	id domain.ID
}

func newFleet(ctx context.Context, dir string, workers int) (_ *fleet, err error) {
	f := &fleet{log: slog.New(slog.DiscardHandler), dir: dir, changes: new(watch.Hub[domain.ID]), nodes: map[domain.ID]*nodelink.Client{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.pg, err = pgtest.Start(ctx, "fsync=on", "full_page_writes=on", "autovacuum=on", "shared_buffers=512MB"); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, f.pg.Stop)
	keys, err := seal.Parse(seal.NewKey())
	if err != nil {
		return nil, err
	}
	f.sealer = seal.New(keys)
	for range hosts + 1 {
		st, err := postgres.Open(ctx, f.pg.URL("postgres"), postgres.Options{Among: true, Readers: 16, Logger: f.log})
		if err != nil {
			return nil, err
		}
		f.stores = append(f.stores, st)
		f.closers = append(f.closers, st.Close)
	}
	gateway := f.stores[0]
	if err := gateway.Update(ctx, f.fund); err != nil {
		return nil, err
	}
	f.Service = service.New(service.Config{
		DefaultTemplate: "base", DefaultDriver: fake.Name, DefaultNetwork: domain.NetworkNone, Platform: "linux/amd64",
		Defaults:   domain.Resources{MilliCPU: 1000, MemoryBytes: 128 << 20, DiskBytes: 128 << 20, PIDs: 256},
		Overcommit: service.Overcommit{Memory: 1, Disk: 1},
	}, service.Deps{Store: gateway, Nodes: f, Sealer: f.sealer, Changes: f.changes, Log: f.log})
	for i := range workers {
		if err := f.hire(ctx, i); err != nil {
			return nil, err
		}
	}
	return f, f.templates(ctx)
}

// fund makes the projects.
func (f *fleet) fund(tx storage.Tx) error {
	for i := range projects {
		by := vmm.Caller{ProjectID: domain.NewID(), Name: fmt.Sprintf("tenant %d", i), Admin: true}
		f.callers = append(f.callers, by)
		p := &domain.Project{ID: by.ProjectID, Name: fmt.Sprintf("p%d", i), CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
		if err := tx.Projects().Insert(context.Background(), p); err != nil {
			return err
		}
	}
	return nil
}

// hire starts a worker and the link to it.
func (f *fleet) hire(ctx context.Context, i int) error {
	dir := filepath.Join(f.dir, fmt.Sprintf("worker-%d", i))
	journals, err := journal.OpenStore(filepath.Join(dir, "journals"), journal.Options{})
	if err != nil {
		return err
	}
	f.closers = append(f.closers, journals.Close)
	node := fake.NewNode("")
	f.closers = append(f.closers, node.Close)
	w := worker.New(worker.Config{
		Name: fmt.Sprintf("worker-%d", i), Platform: "linux/amd64", DataDir: dir,
		Capacity: domain.Resources{MilliCPU: 1 << 30, MemoryBytes: 1 << 40, DiskBytes: 1 << 45, PIDs: 1 << 30},
	}, worker.Deps{
		Store: f.stores[1+i%hosts], Drivers: map[string]vmm.Driver{fake.Name: fake.New(node)}, Images: images{}, Depot: depot{}, Journals: journals,
		Sealer: f.sealer, Queue: memory.New(16, nil, f.log), Changes: f.changes, Log: f.log,
	})
	if err := w.Start(ctx); err != nil {
		return err
	}
	f.closers = append(f.closers, func() error { return w.Stop(context.Background()) })
	server := httptest.NewUnstartedServer(nil)
	server.Config = nodelink.NewServer(nodelink.Handler(w, nil, f.log), &tls.Config{MinVersion: tls.VersionTLS13}, f.log)
	server.EnableHTTP2 = true
	server.StartTLS()
	trust := x509.NewCertPool()
	trust.AddCert(server.Certificate())
	f.nodes[w.ID()] = nodelink.NewClient(server.Listener.Addr().String(), &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13}, f.log)
	f.closers = append(f.closers, func() error {
		f.nodes[w.ID()].Close()
		server.CloseClientConnections()
		server.Close()
		return nil
	})
	return nil
}

// templates builds one, of everybody's, on a worker, and says of all others that
// they have it as well: what fetching costs is measured elsewhere.
func (f *fleet) templates(ctx context.Context) error {
	for _, by := range f.callers {
		task, err := f.BuildTemplate(ctx, by, vmm.BuildTemplate{Name: "base", Source: domain.TemplateSource{Dir: "/"}})
		if err == nil {
			task, err = f.WaitTask(ctx, by, task.ID)
		}
		if err != nil {
			return err
		}
		if task.State != domain.TaskSucceeded {
			return fmt.Errorf("the template is %s: %v", task.State, task.Error)
		}
		info, err := f.GetTemplate(ctx, by, "base")
		if err != nil {
			return err
		}
		if err := f.stores[0].Update(ctx, func(tx storage.Tx) error {
			b := info.Builds[0]
			for id := range f.nodes {
				if id == b.WorkerID {
					continue
				}
				if err := tx.Builds().Copied(ctx, b, id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Node implements service.Nodes.
func (f *fleet) Node(id domain.ID) (service.Node, error) {
	if n := f.nodes[id]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("there is no worker %s", id)
}

// Here implements service.Nodes: every worker is elsewhere.
func (f *fleet) Here() service.Node { return nil }

func (f *fleet) close() error {
	var errs []error
	for i := len(f.closers) - 1; i >= 0; i-- {
		errs = append(errs, f.closers[i]())
	}
	return errors.Join(errs...)
}

// depot is storage that all workers share, and that nobody has to fetch from.
type depot struct{}

func (depot) Name() string { return "memory" }

func (depot) Send(context.Context, domain.ID) (domain.Packed, error) {
	return domain.Packed{Store: "memory", Digest: "sha256:0", Bytes: 1}, nil
}

func (depot) Fetch(ctx context.Context, id domain.ID, _ domain.Artifact) (image.Result, error) {
	return images{}.Get(ctx, string(id))
}

func (depot) SendSnapshot(context.Context, *domain.Snapshot, func(io.Writer) error) (domain.Packed, error) {
	return domain.Packed{Store: "memory", Digest: "sha256:0", Bytes: 1}, nil
}

func (depot) FetchSnapshot(_ context.Context, s *domain.Snapshot, _ func(io.Reader) error) error {
	return fmt.Errorf("snapshot %s is nowhere", s.ID)
}

func (depot) Drop(context.Context, domain.Packed) error { return nil }
func (depot) Held(context.Context) ([]domain.ID, error) { return nil, nil }
func (depot) Collect(context.Context, time.Time, func(context.Context) (map[string]bool, error)) (int, error) {
	return 0, nil
}

// images has every build: the fake driver's machines have the host's own files.
type images struct{}

func (images) Get(_ context.Context, id string) (image.Result, error) {
	return image.Result{ID: id, RootFS: "/", Digest: "sha256:0"}, nil
}

func (i images) Build(ctx context.Context, id string, _ domain.TemplateSource, _ image.Progress) (image.Result, error) {
	return i.Get(ctx, id)
}

func (i images) BuildBase(ctx context.Context, id string, _ image.Progress) (image.Result, error) {
	return i.Get(ctx, id)
}

func (images) Delete(context.Context, string) error { return nil }
