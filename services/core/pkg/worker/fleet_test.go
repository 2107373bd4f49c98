package worker_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// fleet is two workers over one store, and a service that reaches both as a
// gateway of its own does.
type fleet struct {
	*service.Service
	beside     *service.Service // as another gateway has it
	one, other *bed

	mu    sync.Mutex
	links map[domain.ID]*link
	asked map[domain.ID]int // how often for a worker
}

func newFleet(t *testing.T, options ...func(*worker.Config)) *fleet {
	t.Helper()
	one := newBed(t, options...)
	dir := t.TempDir()
	other := &bed{
		t: t, ctx: one.ctx, store: one.store, sealer: one.sealer, by: one.by, config: one.config,
		node: fake.NewNode(t.TempDir()), images: &images{built: map[string]image.Result{}},
	}
	other.config.Name, other.config.DataDir = "other", dir
	t.Cleanup(func() { must(t, other.node.Close()) })
	changes := new(watch.Hub[domain.ID])
	shared := func(d *worker.Deps) { d.Changes = changes }
	one.down()
	one.deps, other.deps = shared, shared
	f := &fleet{one: one, other: other, links: map[domain.ID]*link{}, asked: map[domain.ID]int{}}
	log := slog.New(slog.DiscardHandler)
	for _, b := range []*bed{one, other} {
		b.up()
		f.links[b.worker.ID()] = newLink(b.worker, log)
	}
	t.Cleanup(other.down)
	t.Cleanup(func() {
		for _, l := range f.links {
			l.cut()
		}
	})
	f.Service, f.beside = one.serve(f, changes), one.serve(f, changes)
	one.Service, other.Service = f.Service, f.Service
	return f
}

// silentByItself has a worker give no sign of life but those that a test asks for.
func silentByItself(c *worker.Config) { c.HeartbeatEvery = time.Hour }

func (f *fleet) Node(id domain.ID) (service.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[id]++
	if l := f.links[id]; l != nil {
		return l.node, nil
	}
	return nil, errors.New(errors.Unavailable, "there is no worker %q", id)
}

func (f *fleet) askedFor(id domain.ID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[id]
}

// silent has so much time pass that a worker without a sign of life since is away.
func (f *fleet) silent(alive ...*bed) {
	f.one.t.Helper()
	f.one.late.Add(int64(time.Minute))
	for _, b := range alive {
		_, err := b.worker.Heartbeat(b.ctx)
		must(b.t, err)
	}
	// As several gateways look.
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- f.Review(f.one.ctx) }()
	}
	for range cap(errs) {
		must(f.one.t, <-errs)
	}
}

// crash has a worker's process die.
func (f *fleet) crash(b *bed) domain.ID {
	id := b.worker.ID()
	f.cut(b)
	b.crash()
	return id
}

// again starts a worker anew.
func (f *fleet) again(b *bed) {
	b.up()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links[b.worker.ID()] = newLink(b.worker, slog.New(slog.DiscardHandler))
	b.Service = f.Service
}

func (f *fleet) Here() service.Node { return nil }

// cut ends the way to a worker.
func (f *fleet) cut(b *bed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links[b.worker.ID()].cut()
	delete(f.links, b.worker.ID())
}

// What is of one worker is found there, and there alone.
func TestTwoWorkers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	large := one.running(vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 4 << 30}})
	if large.WorkerID != one.worker.ID() {
		t.Fatalf("a VM of the first worker's template is on %s", large.WorkerID)
	}

	// The other has more memory left.
	f.one.template("second", "/")
	info, err := f.GetTemplate(one.ctx, one.by, "second")
	must(t, err)
	build := info.Builds[0]
	if build.WorkerID != other.worker.ID() {
		t.Errorf("the second template is on %s", build.WorkerID)
	}
	if _, err := one.images.Get(one.ctx, build.ID.String()); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("it is on the first worker: %v", err)
	}
	vm := other.running(vmm.CreateVM{Template: "second"})
	if vm.WorkerID != other.worker.ID() {
		t.Errorf("a VM of the second template is on %s", vm.WorkerID)
	}
	for _, id := range []domain.ID{large.ID, vm.ID} {
		if out, x := other.sh(id, "echo here"); out != "here\n" || x.State != domain.ExecutionExited {
			t.Errorf("%q, %s", out, x.State)
		}
	}

	// An execution is found from the moment that its start is told of, by any
	// gateway; and whoever started it asks none but its worker.
	start := vmm.StartExecution{Command: domain.Command{Args: []string{"true"}}}
	for range 30 {
		x, err := f.StartExecution(one.ctx, one.by, vm.ID, start)
		must(t, err)
		before := f.askedFor(large.WorkerID)
		if got, err := f.GetExecution(one.ctx, one.by, x.ID); err != nil || got.ID != x.ID {
			t.Fatalf("%+v, %v", got, err)
		}
		if out := other.output(x.ID); out != "" {
			t.Fatalf("%q", out)
		}
		if n := f.askedFor(large.WorkerID) - before; n > 0 {
			t.Fatalf("the other worker was asked %d times", n)
		}
		if got, err := f.beside.GetExecution(one.ctx, one.by, x.ID); err != nil || got.ID != x.ID {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	start.ID = domain.NewID()
	for range 2 {
		x, err := f.StartExecution(one.ctx, one.by, vm.ID, start)
		must(t, err)
		if x.VMID != vm.ID {
			t.Errorf("%+v", x)
		}
	}
	_, err = f.ListExecutions(one.ctx, one.by, vm.ID, vmm.Page{}) // it is written then
	must(t, err)
	_, err = f.StartExecution(one.ctx, one.by, large.ID, start)
	refused(t, err, errors.AlreadyExists)
	_, err = f.GetExecution(one.ctx, one.by, domain.NewID())
	refused(t, err, errors.NotFound)

	// What nobody uses is removed by the worker that has it.
	_, err = f.DeleteVM(one.ctx, one.by, vm.ID)
	must(t, err)
	_, err = f.WaitVM(one.ctx, one.by, vm.ID)
	must(t, err)
	must(t, f.DeleteTemplate(one.ctx, one.by, "second"))
	for {
		if _, err := other.images.Get(one.ctx, build.ID.String()); errors.HasCode(err, errors.NotFound) {
			break
		}
		other.worker.Sweep(one.ctx)
		must(t, one.ctx.Err())
		time.Sleep(time.Millisecond)
	}

	// Without one worker the other is there, and nothing is told to be absent that may be.
	f.cut(other)
	for range 30 { // each is looked for while it is written, and forgotten
		if out, _ := one.sh(large.ID, "echo here"); out != "here\n" {
			t.Errorf("%q", out)
		}
	}
	start.ID = domain.NewID()
	_, err = f.StartExecution(one.ctx, one.by, large.ID, start)
	must(t, err)
	_, err = f.GetExecution(one.ctx, one.by, domain.NewID())
	refused(t, err, errors.Unavailable)
}

func refused(t *testing.T, err error, code errors.Code) {
	t.Helper()
	if !errors.HasCode(err, code) {
		t.Errorf("%v, not %s", err, code)
	}
}

// What is kept no longer is removed by the worker that has its files, however
// much it is, and nothing of it is left there.
func TestSweepsAreOfOnesOwn(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	one.running(vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 4 << 30}})
	one.template("second", "/") // where more memory is left
	vm := other.running(vmm.CreateVM{Template: "second"})
	if vm.WorkerID != other.worker.ID() {
		t.Fatalf("the VM is on %s", vm.WorkerID)
	}
	_, x := other.sh(vm.ID, "echo kept")
	must(t, other.worker.FlushExecutions(other.ctx)) // a sweep goes by rows, which are written beside
	kept := func() bool {
		j, err := other.journals.Lookup(journal.Key{VM: vm.ID, Epoch: x.Epoch, Execution: x.ID})
		if err == nil {
			j.Close()
		}
		return err == nil
	}
	if !kept() {
		t.Fatal("there is no journal")
	}
	must(t, one.store.Update(one.ctx, func(tx storage.Tx) error {
		for range 1200 {
			if err := tx.Outbox().Append(one.ctx, &domain.Event{ProjectID: one.by.ProjectID, Type: "old", Subject: vm.ID, At: time.Now().UTC()}); err != nil {
				return err
			}
		}
		return nil
	}))
	later := time.Now().Add(8 * 24 * time.Hour)
	one.skip(time.Until(later))
	other.skip(time.Until(later))
	one.worker.Sweep(one.ctx)
	if _, err := f.GetExecution(one.ctx, one.by, x.ID); err != nil || !kept() {
		t.Errorf("another worker's sweep removed it: %v", err)
	}
	must(t, one.store.View(one.ctx, func(tx storage.Tx) error {
		left, err := tx.Outbox().List(one.ctx, storage.EventFilter{Limit: storage.MaxPage})
		if len(left) > 20 { // what came of the sweep, and the newest
			t.Errorf("%d events are left", len(left))
		}
		return err
	}))
	other.worker.Sweep(one.ctx)
	if _, err := f.GetExecution(one.ctx, one.by, x.ID); !errors.HasCode(err, errors.NotFound) || kept() {
		t.Errorf("it is still there: %v", err)
	}
}
