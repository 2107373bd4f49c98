package worker

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Config is how a worker behaves. Zero durations mean the defaults of [Config.withDefaults].
type Config struct {
	// ID is of the worker's row, made when it joined; empty: the row is that with
	// its name, and made at the first start.
	ID domain.ID
	// Address is host:port at which gateways reach the worker; empty: the one that
	// its row has, or it is in their process.
	Address string

	Name     string // of the worker; empty: the one that its row has
	Version  string
	Platform string
	Capacity domain.Resources
	DataDir  string

	ReadyTimeout   time.Duration // for a started machine's agent to answer
	StartUpTimeout time.Duration // for what a template starts in it to be ready
	StopGrace      time.Duration // between asking a machine to end and ending it
	HeartbeatEvery time.Duration // between signs of life; a few of them fit into service.Config.AwayAfter
	WishesEvery    time.Duration // between looks for wishes and tasks that nobody told it of
	SweepEvery     time.Duration // between looks for expired rows
	UsageEvery     time.Duration // between usage samples
	// StoreOutputEvery is between two looks for output to be stored: what ends
	// meanwhile is one object for each project.
	StoreOutputEvery time.Duration
	KeepTombstones   time.Duration
	KeepTasks        time.Duration
	KeepEvents       time.Duration
	KeepUsage        time.Duration // 0: for ever
	// KeepArchives is how long ended VMs, executions and tasks are kept in archives
	// after they ended. They are not archived where it is not longer than they are kept
	// before.
	KeepArchives time.Duration
	// MaxConcurrentSteps bounds how many VMs are stepped at once.
	MaxConcurrentSteps int
	Pool               PoolConfig
	// EgressCA is the certificate (PEM) that VMs with bound secrets trust; empty: no secret can be bound.
	EgressCA []byte
	Tools    ToolsConfig
	// Late are the drivers whose trial takes long: the worker serves before it
	// knows what they can do.
	Late []string
	// NoTrials: nothing will be made, so no driver is tried out.
	NoTrials bool
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.ReadyTimeout, 30*time.Second)
	set(&c.StartUpTimeout, 3*time.Minute)
	set(&c.StopGrace, 5*time.Second)
	set(&c.HeartbeatEvery, 5*time.Second)
	set(&c.WishesEvery, 5*time.Second)
	set(&c.SweepEvery, 30*time.Second)
	set(&c.UsageEvery, 15*time.Second)
	set(&c.StoreOutputEvery, time.Minute)
	set(&c.KeepTombstones, 7*24*time.Hour)
	set(&c.KeepTasks, 7*24*time.Hour)
	set(&c.KeepEvents, 7*24*time.Hour)
	if c.KeepArchives <= max(c.KeepTombstones, c.KeepTasks) {
		c.KeepArchives = 0
	}
	if c.MaxConcurrentSteps == 0 {
		c.MaxConcurrentSteps = 64
	}
	return c
}

// Images keeps root filesystems by build ID. *image.Store is one.
type Images interface {
	Get(ctx context.Context, id string) (image.Result, error)
	Build(ctx context.Context, id string, src domain.TemplateSource, progress image.Progress) (image.Result, error)
	BuildBase(ctx context.Context, id string, progress image.Progress) (image.Result, error)
	Delete(ctx context.Context, id string) error
}

// Deps are what a worker works with.
type Deps struct {
	Store    storage.Store
	Drivers  map[string]vmm.Driver // by name
	Absent   []domain.DriverInfo   // drivers that this node should have and that could not be opened, with the reason
	Images   Images
	Depot    Depot // nil: builds and snapshots stay on the worker that makes them
	Journals *journal.Store
	Stored   OutputStore    // nil: output stays on the worker that it came to be on
	Fetched  *journal.Store // of output that was fetched; what it has may go at any time. nil with Stored alone
	Volumes  Volumes        // nil: it keeps none
	Sealer   seal.Sealer
	Queue    queue.Queue
	Changes  watch.Changes[domain.ID] // woken after commits for a VM or task but for a step's beginning, and where a snapshot was stored
	Tracing  *tracing.Tracing         // nil: no spans
	Log      *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// Worker implements service.Node for this process.
type Worker struct {
	id     domain.ID
	config Config
	Deps

	ctx      context.Context // ends with Stop
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	spawning sync.Mutex // guards halted, and what spawn begins
	halted   bool
	removed  removed

	offers    offers
	machines  machines
	vms       live
	turns     turns
	restless  restless
	making    making
	earlier   earlier
	egress    keyed[domain.ID] // one change of a VM's egress at a time
	fetches   keyed[domain.ID] // one fetch of a build or a snapshot at a time
	steps     steps
	retries   retries
	tasks     underway
	clock     *clock
	rows      *rows
	builds    builds
	uploads   *upload.Dir // opened by Start
	stored    stored
	outputs   outputs
	archiving archiving
	unstored  unstored
	moves     moves
	layers    layers
	pool      *pool
	tools     toolshed
	execs     executions
	metrics   *metrics
	endings   watch.Hub[domain.ID] // woken when an execution has ended

	stepSlots slots // of builds by steps
}

// New makes a worker; Start puts it to work.
func New(config Config, d Deps) *Worker {
	if d.Now == nil {
		d.Now = time.Now
	}
	d.Sealer, d.Store = sealer{d.Sealer}, store{d.Store}
	w := &Worker{config: config.withDefaults(), Deps: d}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.removed.learned = make(chan struct{})
	w.clock = newClock(d.Now, func(ctx context.Context, id domain.ID) {
		// On a goroutine of its own: one slow database must not hold up the others' deadlines.
		w.spawn(func() { w.due(ctx, id) })
	})
	w.rows = newRows(d.Store, d.Log)
	w.metrics = newMetrics()
	w.pool = newPool(w, w.config.Pool)
	w.unstored.look = make(chan struct{}, 1)
	w.moves.look = make(chan struct{}, 1)
	w.layers.dir = filepath.Join(w.config.DataDir, "layers")
	w.outputs.storing, w.outputs.slots = make(slots, 1), make(slots, maxOutputFetches)
	w.stepSlots = make(slots, maxStepBuilds)
	return w
}

// Start registers the worker, takes up what runs on the node and begins to
// serve. It returns when every VM that was running can be talked to again or
// is known not to be.
func (w *Worker) Start(ctx context.Context) error {
	if err := w.register(ctx); err != nil {
		return err
	}
	if err := w.openTools(); err != nil {
		return err
	}
	if err := w.openUploads(); err != nil {
		return err
	}
	w.Queue.Handle(convergeKind, w.handleConverge)
	w.Queue.Handle(taskKind, w.handleTask)
	w.wg.Go(w.rows.run)
	running, err := w.recover(ctx)
	if err != nil {
		return err
	}
	// Only now: jobs that outlived the last process are for what is taken up.
	if err := w.Queue.Start(ctx); err != nil {
		return err
	}
	w.waitAllConverged(ctx, running)
	if err := w.pool.remember(ctx); err != nil {
		return err
	}
	w.pool.start(w.ctx)
	w.tryLate()
	w.wg.Go(func() { w.clock.run(w.ctx) })
	// From here on it is there for others.
	if _, err := w.Heartbeat(ctx); err != nil {
		return err
	}
	w.wg.Go(w.storeSnapshots)
	w.wg.Go(w.storeOutputs)
	w.wg.Go(w.moveVMs)
	w.SnapshotsChanged(ctx) // the last process may have died before it stored some
	w.wg.Go(func() { w.live(w.ctx) })
	w.wg.Go(func() { w.every(w.config.WishesEvery, w.sweepAsked) })
	w.wg.Go(func() { w.every(w.config.SweepEvery, w.sweep) })
	w.wg.Go(func() { w.every(w.config.UsageEvery, w.sampleUsage) })
	return nil
}

// Stop lets go of everything in this process within ctx, and removes the
// machines that wait for a VM. The VMs run on.
func (w *Worker) Stop(ctx context.Context) error {
	w.steps.cancelAll()
	w.pool.close() // at once: a build may take all the time that there is
	err := w.Queue.Stop(ctx)
	w.storeLastOutput(ctx)
	w.cancel()
	w.vms.closeAll()
	w.rows.stop()
	done := make(chan struct{})
	go func() { w.wait(); w.pool.wait(); close(done) }() // what ends may give machines back
	select {
	case <-done:
		w.leave(ctx)
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	for name, d := range w.Deps.Drivers {
		if c, ok := d.(vmm.Closer); ok {
			if cerr := c.Close(); cerr != nil {
				err = errors.Join(err, errors.Wrap(cerr, errors.Internal, "closing the driver %s", name))
			}
		}
	}
	return err
}

// spawn runs f beside what calls, unless the worker is about to have stopped.
func (w *Worker) spawn(f func()) {
	w.spawning.Lock()
	defer w.spawning.Unlock()
	if !w.halted {
		w.wg.Go(f)
	}
}

// wait waits for all that was begun; nothing is begun any more then.
func (w *Worker) wait() {
	w.spawning.Lock()
	w.halted = true
	w.spawning.Unlock()
	w.wg.Wait()
}

// ID returns the worker's ID, known after Start.
func (w *Worker) ID() domain.ID { return w.id }

func (w *Worker) time() time.Time { return w.Now().UTC().Truncate(time.Microsecond) }

// every runs f at an interval until the worker stops; the interval counts
// from the end of a run, so that a slow run never piles up. The first is half of it
// to half as much again: workers that start at the same time, as after a power cut or
// with a new version, would else come to the database together from then on.
func (w *Worker) every(d time.Duration, f func(context.Context)) {
	timer := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // nothing to be guessed
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			f(w.ctx)
			timer.Reset(d)
		case <-w.ctx.Done():
			return
		}
	}
}

// register finds or makes the worker's row and refreshes what it says. One that
// is away stays so until it has taken up what is on the node.
func (w *Worker) register(ctx context.Context) error {
	var before []domain.DriverInfo
	if err := w.Store.View(ctx, func(tx storage.Tx) error {
		row, err := w.known(ctx, tx)
		if err == nil && row != nil {
			before = row.Drivers
		}
		return err
	}); err != nil {
		return err
	}
	w.learn(ctx, before)
	now := w.time()
	return w.Store.Update(ctx, func(tx storage.Tx) error {
		row, err := w.known(ctx, tx)
		if err != nil {
			return err
		}
		fresh := row == nil
		if fresh {
			row = &domain.Worker{ID: domain.NewID(), Name: w.config.Name, State: domain.WorkerAway, SeenAt: now, JoinedAt: now}
		}
		w.id = row.ID
		if w.config.Name != "" {
			row.Name = w.config.Name
		}
		if w.config.Address != "" {
			row.Address = w.config.Address
		}
		row.Version, row.Platform, row.Drivers, row.Capacity = w.config.Version, w.config.Platform, w.offers.all(), w.config.Capacity
		row.Storage = ""
		if w.Depot != nil {
			row.Storage = w.Depot.Name()
		}
		w.pool.rest(row.Cordoned)
		if !fresh {
			return tx.Workers().Update(ctx, row)
		}
		if err := tx.Workers().Insert(ctx, row); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Worker(events.WorkerJoined, row, now))
	})
}

// known gives the worker's row; nil: it has none yet.
// Returns NotFound for a worker that was removed.
func (w *Worker) known(ctx context.Context, tx storage.Tx) (*domain.Worker, error) {
	if w.config.ID != "" {
		return storage.Member(ctx, tx, w.config.ID)
	}
	row, err := tx.Workers().ByName(ctx, w.config.Name)
	if errors.HasCode(err, errors.NotFound) {
		return nil, nil
	}
	return row, err
}
