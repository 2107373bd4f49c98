package service

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
)

// need is what a worker is chosen for.
type need struct {
	what      string // "VM", "volume"
	field     string // of the request, that says how large it is
	hint      string // what to do where none has room; %s is the resource of which too little is left
	resources domain.Resources
	bound     domain.ID                    // the worker that it must be; empty: any
	unable    func(*domain.Worker) error   // why a worker cannot give it
	prefer    func(*domain.Worker) bool    // those before all others
	free      func(*domain.Worker) float64 // what the best has most of, of 1
	// warm tells which of some workers, at most counted, have one ready; nil: none has.
	warm func(ctx context.Context, tx storage.Tx, of []*domain.Worker) (map[domain.ID]bool, error)
}

// warmWorth is how much fuller a worker may be, of 1, that has a machine ready. It is
// no more than that: others ask at the same moment, and only one is given the machine.
const warmWorth = 0.1

// counted is how many workers are looked at for what they hold before one is
// chosen. The best of a few, taken at random, is nearly as good as the best of
// all (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"),
// and costs the same however large the fleet is.
const counted = 8

// choose finds a worker in the transaction that inserts what needs it, so that
// two requests never take the same room. Those that are away or cordoned get
// nothing new.
// Returns CapacityExhausted, Unavailable where the worker that it must be is
// away, InvalidArgument when no worker would have room even if it were empty,
// and what unable does.
func (s *Service) choose(ctx context.Context, tx storage.Tx, n need) (*domain.Worker, error) {
	// Most often the workers are as they were a moment ago and one of a few has
	// room. What is wrong where none has only all of them tell, as they are now.
	if known := s.roster.known(); known != nil {
		c := s.candidates(n, known)
		best, _, version, err := s.best(ctx, tx, n, sample(c.open, n.prefer))
		if err != nil || best != nil && version == storage.VersionOf(known) {
			return best, err
		}
	}
	workers, err := tx.Workers().All(ctx)
	if err != nil {
		return nil, err
	}
	s.roster.learn(workers)
	c := s.candidates(n, workers)
	short := ""
	for _, some := range [][]*domain.Worker{sample(c.open, n.prefer), c.open} {
		best, lacks, _, err := s.best(ctx, tx, n, some)
		if err != nil || best != nil {
			return best, err
		}
		if short = lacks; len(some) == len(c.open) {
			break
		}
	}
	switch {
	case c.unable != nil && short == "" && len(c.closed) == 0:
		return nil, c.unable
	case c.largest != nil && !c.possible:
		return nil, s.tooSmall(c.largest, n.resources, n.what, n.field)
	case short != "":
		return nil, errors.New(errors.CapacityExhausted, "no worker has room for this %s", n.what).WithHint(n.hint, short).WithRetryAfter(retryPlace)
	case n.bound != "" && len(c.closed) == 1 && c.closed[0].State == domain.WorkerAway:
		return nil, workerAway(c.closed[0].Name)
	}
	return nil, errors.New(errors.CapacityExhausted, "no worker takes anything new").WithHint("%s", states(c.closed)).WithRetryAfter(retryPlace)
}

// tooSmall says what r has too much of, and what the largest worker has of it, as
// people read sizes.
func (s *Service) tooSmall(largest *domain.Worker, r domain.Resources, what, field string) error {
	err := errors.New(errors.InvalidArgument, "no worker is large enough for this %s", what).WithField(field)
	most := largest.Capacity
	switch s.lacks(largest, r) {
	case "milli_cpu":
		return err.WithHint("%s cores are asked for, the largest worker has %s", cores(r.MilliCPU), cores(most.MilliCPU))
	case "disk_bytes":
		return err.WithHint("%s of disk are asked for, the largest worker has %s", gib(r.DiskBytes), gib(most.DiskBytes))
	}
	return err.WithHint("%s of memory are asked for, the largest worker has %s", gib(r.MemoryBytes), gib(most.MemoryBytes))
}

func cores(milli int64) string { return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64) }

// gib rounds to hundredths.
func gib(bytes int64) string {
	return strconv.FormatFloat(math.Round(float64(bytes)/(1<<30)*100)/100, 'f', -1, 64) + " GiB"
}

// fitsSome refuses the shape of a template that no worker could give a VM, were
// it empty. Returns InvalidArgument.
func (s *Service) fitsSome(ctx context.Context, tx storage.Tx, shape domain.Resources) error {
	workers, err := tx.Workers().All(ctx)
	if err != nil {
		return err
	}
	c := s.candidates(need{resources: shape, unable: func(*domain.Worker) error { return nil }}, workers)
	if c.largest != nil && !c.possible {
		return s.tooSmall(c.largest, shape, "template's VMs", "resources")
	}
	return nil
}

// candidates are workers by what they are to a need, without what they hold.
type candidates struct {
	open, closed []*domain.Worker // would do, were they empty; would, but take nothing
	unable       error            // why one of the others cannot
	possible     bool             // one is large enough
	largest      *domain.Worker   // by memory
}

func (s *Service) candidates(n need, workers []*domain.Worker) (c candidates) {
	for _, w := range workers {
		if s.lacks(w, n.resources) == "" { // it is not counted yet what it holds
			c.possible = true
		}
		if c.largest == nil || w.Capacity.MemoryBytes > c.largest.Capacity.MemoryBytes {
			c.largest = w
		}
		if n.bound != "" && n.bound != w.ID {
			continue
		}
		if err := n.unable(w); err != nil {
			c.unable = err
			continue
		}
		if w.State != domain.WorkerReady {
			c.closed = append(c.closed, w)
			continue
		}
		c.open = append(c.open, w)
	}
	return c
}

// best counts what some workers hold and gives the one that suits best; nil:
// none has room, and too little of short.
func (s *Service) best(ctx context.Context, tx storage.Tx, n need, some []*domain.Worker) (best *domain.Worker, short string, version storage.WorkersVersion, err error) {
	own := make([]*domain.Worker, len(some)) // others know of those that are given
	for i, w := range some {
		own[i] = new(*w)
	}
	if version, err = tx.Workers().Count(ctx, own...); err != nil {
		return nil, "", version, err
	}
	var fit []*domain.Worker
	for _, w := range own {
		if lacks := s.lacks(w, n.resources); lacks != "" {
			short = lacks
		} else {
			fit = append(fit, w)
		}
	}
	var warm map[domain.ID]bool
	if n.warm != nil && len(fit) > 1 && len(fit) <= counted {
		if warm, err = n.warm(ctx, tx, fit); err != nil {
			return nil, "", version, err
		}
	}
	for _, w := range fit {
		if best == nil || n.better(w, best, warm) {
			best = w
		}
	}
	return best, short, version, nil
}

func (n need) better(w, than *domain.Worker, warm map[domain.ID]bool) bool {
	if a, b := n.prefer(w), n.prefer(than); a != b {
		return a
	}
	worth := func(w *domain.Worker) float64 {
		if warm[w.ID] {
			return n.free(w) + warmWorth
		}
		return n.free(w)
	}
	return worth(w) > worth(than)
}

// sample picks a few of workers at random, those that are preferred first.
func sample(workers []*domain.Worker, prefer func(*domain.Worker) bool) []*domain.Worker {
	if len(workers) <= counted {
		return workers
	}
	some := slices.Clone(workers)
	rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	slices.SortStableFunc(some, func(a, b *domain.Worker) int {
		switch {
		case prefer(a) == prefer(b):
			return 0
		case prefer(a):
			return -1
		}
		return 1
	})
	return some[:counted]
}

// retryPlace is when a request that found no place may do so.
const retryPlace = 5 * time.Second

// states counts workers that take nothing new, for people.
func states(workers []*domain.Worker) string {
	count := map[domain.WorkerState]int{}
	for _, w := range workers {
		count[w.State]++
	}
	if len(count) == 0 {
		return "no worker has joined"
	}
	return fmt.Sprintf("of those that could, %d are away and %d cordoned", count[domain.WorkerAway], count[domain.WorkerCordoned])
}

// place chooses worker and driver for vm, which is made from a build or, nil, from
// a snapshot. A VM that is bound to a worker (its snapshot is there) gets that one
// or none.
// Returns what choose does, and Unsupported.
func (s *Service) place(ctx context.Context, tx storage.Tx, vm *domain.VM, build *domain.Build) (err error) {
	begun := time.Now()
	ctx, span := tracing.Begin(ctx, "placement")
	defer func() {
		s.metrics.ended(begun, err)
		span.End(err)
	}()
	at, err := findFiles(ctx, tx, vm, build)
	if err != nil {
		return err
	}
	n := s.needOf(vm, at, "too little %s is left: ask for less, delete VMs, or raise the overcommit in the configuration")
	n.field, n.bound = "resources", vm.WorkerID
	if build != nil && len(vm.Spec.Tools) == 0 && len(vm.Spec.Mounts) == 0 {
		n.warm = func(ctx context.Context, tx storage.Tx, of []*domain.Worker) (map[domain.ID]bool, error) {
			return s.pooled(ctx, tx, vm, of)
		}
	}
	w, err := s.choose(ctx, tx, n)
	if err != nil {
		return err
	}
	driver, err := s.driverFor(w, vm.Spec)
	vm.WorkerID, vm.Spec.Driver, vm.Isolation = w.ID, driver.Name, driver.Isolation
	return err
}

// pooled tells which of some workers have a machine in their pool that vm could be given.
func (s *Service) pooled(ctx context.Context, tx storage.Tx, vm *domain.VM, of []*domain.Worker) (map[domain.ID]bool, error) {
	var keys []storage.PoolKey
	for _, w := range of {
		if d, err := s.driverFor(w, vm.Spec); err == nil {
			keys = append(keys, storage.PoolKey{
				WorkerID: w.ID, Driver: d.Name, BuildID: vm.Spec.BuildID, Shape: domain.Shape{Resources: vm.Spec.Resources, Network: vm.Spec.Network},
			})
		}
	}
	ids, err := tx.Machines().Pooled(ctx, keys...)
	warm := make(map[domain.ID]bool, len(ids))
	for _, id := range ids {
		warm[id] = true
	}
	return warm, err
}

// needOf is what a VM needs that is made from files: a worker that can get them and
// has a driver for it, rather one that has them.
func (s *Service) needOf(vm *domain.VM, at files, hint string) need {
	return need{
		what: "VM", hint: hint, resources: vm.Spec.Resources,
		unable: func(w *domain.Worker) error {
			if err := at.reach(w); err != nil {
				return err
			}
			_, err := s.driverFor(w, vm.Spec)
			return err
		},
		prefer: func(w *domain.Worker) bool { return at.held[w.ID] },
		free:   freeMemory,
	}
}

// files is where the root filesystem is that a VM is made from, or the disk of a
// snapshot.
type files struct {
	anywhere bool // nothing is to be had that is not where it must be
	held     map[domain.ID]bool
	packed   *domain.Packed // nil: there alone
	// Of a snapshot's disk: the driver that it is of, and what is below it. Who has
	// the disk has both.
	driver string
	below  *files
}

// reach says why a worker cannot get the files; nil: it can. Returns Conflict.
func (f files) reach(w *domain.Worker) error {
	switch {
	case f.anywhere, f.held[w.ID]:
		return nil
	case f.below == nil && (f.packed == nil || f.packed.Store != w.Storage):
		return errors.New(errors.Conflict, "the worker %s cannot get the template's files", w.Name).WithField("template").
			WithHint("give it the same storage as the worker that built it, or build it again")
	case f.below == nil:
		return nil
	case f.packed == nil || f.packed.Store != w.Storage || !can(infoOf(w, f.driver), capCarry):
		return errors.New(errors.Conflict, "the worker %s cannot get the snapshot's disk", w.Name).WithField("template").
			WithHint("give it the same storage, and the same driver, as the worker that took it")
	}
	return f.below.reach(w)
}

// findFiles finds the workers that have what vm is made from: a build or, nil, its
// snapshot.
func findFiles(ctx context.Context, tx storage.Tx, vm *domain.VM, build *domain.Build) (files, error) {
	if build != nil {
		return findRootFS(ctx, tx, build)
	}
	return findDisk(ctx, tx, vm.ProjectID, vm.Spec.SnapshotID)
}

// findDisk finds the workers that have a snapshot.
func findDisk(ctx context.Context, tx storage.Tx, project, snapshot domain.ID) (files, error) {
	snap, err := tx.Snapshots().Get(ctx, project, snapshot)
	if err != nil {
		return files{}, err
	}
	f := files{held: map[domain.ID]bool{snap.WorkerID: true}, packed: snap.Packed, driver: snap.Driver}
	if f.packed == nil {
		f.below = &files{}
		return f, nil // nobody can have fetched it
	}
	copies, err := tx.Snapshots().Copies(ctx, snap)
	if err != nil {
		return f, err
	}
	for _, id := range copies {
		f.held[id] = true
	}
	// Of a template that was shared once, and is no more, its snapshots are.
	b, err := tx.Builds().Get(ctx, storage.System, snap.BuildID)
	if err != nil {
		return f, err
	}
	below, err := findRootFS(ctx, tx, b)
	f.below = &below
	return f, err
}

// findRootFS finds the workers that have a build.
func findRootFS(ctx context.Context, tx storage.Tx, b *domain.Build) (files, error) {
	f := files{anywhere: b.WorkerID == "", held: map[domain.ID]bool{b.WorkerID: true}, packed: b.Packed()}
	if f.packed == nil {
		return f, nil // nobody can have fetched it
	}
	copies, err := tx.Builds().Copies(ctx, b)
	for _, id := range copies {
		f.held[id] = true
	}
	return f, err
}

// worker picks the worker for work that is bound to none: the one with the most
// memory left of those that can use the driver, if one is named. Where none can,
// any of them, which does the work when it can.
// Returns CapacityExhausted.
func (s *Service) worker(ctx context.Context, tx storage.Tx, driver string) (domain.ID, error) {
	w, err := s.choose(ctx, tx, need{
		unable: func(*domain.Worker) error { return nil },
		prefer: hasDriver(driver),
		free:   freeMemory,
	})
	if err != nil {
		return "", err
	}
	return w.ID, nil
}

// hasDriver tells of workers whether they can use a driver; empty: any.
func hasDriver(name string) func(*domain.Worker) bool {
	return func(w *domain.Worker) bool {
		return name == "" || slices.ContainsFunc(w.Drivers, func(d domain.DriverInfo) bool { return d.Name == name && d.Usable })
	}
}

// lacks names what a worker has too little of for r. Empty: r fits.
func (s *Service) lacks(w *domain.Worker, r domain.Resources) string {
	o := s.config.Overcommit
	for _, part := range []struct {
		name                       string
		wanted, reserved, capacity int64
		times                      float64
	}{
		{"milli_cpu", r.MilliCPU, w.Reserved.MilliCPU, w.Capacity.MilliCPU, o.CPU},
		{"memory_bytes", r.MemoryBytes, w.Reserved.MemoryBytes, w.Capacity.MemoryBytes, o.Memory},
		{"disk_bytes", r.DiskBytes, w.Reserved.DiskBytes, w.Capacity.DiskBytes, o.Disk},
	} {
		if part.wanted == 0 {
			continue
		}
		if part.wanted > part.capacity || part.times != 0 && float64(part.reserved+part.wanted) > float64(part.capacity)*part.times {
			return part.name
		}
	}
	if r.MemoryBytes != 0 && o.VMs != 0 && w.Active >= o.VMs {
		return "vms"
	}
	return ""
}

// freeMemory is the part of a worker's memory that is not reserved, of 1.
func freeMemory(w *domain.Worker) float64 {
	return 1 - float64(w.Reserved.MemoryBytes)/float64(max(1, w.Capacity.MemoryBytes))
}
