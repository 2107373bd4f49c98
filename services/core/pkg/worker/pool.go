package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// PoolConfig is how many machines wait ready for VMs to come.
type PoolConfig struct {
	// Size is how many machines are kept of each kind; 0 or less: none.
	Size int
	// Kinds is how many kinds are kept, those used last. A kind is what must be
	// the same for a machine to serve: driver, build, resources and network.
	Kinds int
}

// pooledHostname is the name of a machine that is nobody's yet.
const pooledHostname = "vm"

// pool keeps machines running that no VM owns yet, so that a VM gets one in
// the time of a database transaction. A machine in the pool has a row without
// a VM; it is claimed in the transaction that binds a VM to it, so it is
// handed out once, whatever crashes when.
type pool struct {
	w      *Worker
	config PoolConfig
	wake   chan struct{} // one slot: there may be something to fill

	cancel context.CancelFunc // of filling
	filled chan struct{}      // closed when filling has ended

	changed watch.Hub[struct{}] // woken when the pool has changed
	saved   []storage.PoolKey   // the kinds as written down; used by fill only

	mu      sync.Mutex
	closed  bool
	busy    int                 // fillings, adoptions and removals under way
	shelves []*shelf            // used last first
	pending map[domain.ID]*warm // have a row, or are about to, and are on no shelf yet
	gone    sync.WaitGroup      // adoptions and removals under way
}

// shelf is the ready machines of one kind, oldest first.
type shelf struct {
	key   storage.PoolKey
	ready []*warm
}

// warm is a machine whose agent has answered.
type warm struct {
	id     domain.ID
	key    storage.PoolKey
	client *guest.Client
}

func newPool(w *Worker, c PoolConfig) *pool {
	if c.Size <= 0 || c.Kinds <= 0 {
		c = PoolConfig{}
	}
	return &pool{w: w, config: c, wake: make(chan struct{}, 1), pending: map[domain.ID]*warm{}}
}

// keyOf is the kind of machine that a VM needs. ok is false for one that no
// machine made beforehand can serve.
func (p *pool) keyOf(vm *domain.VM) (key storage.PoolKey, ok bool) {
	driver, err := p.w.driver(vm.Spec.Driver)
	if err != nil || p.config.Size == 0 || vm.Spec.SnapshotID != "" || len(vm.Spec.Tools) > 0 {
		return key, false
	}
	_, renames := driver.(vmm.Renamer)
	return storage.PoolKey{
		WorkerID: p.w.id, Driver: vm.Spec.Driver, BuildID: vm.Spec.BuildID,
		Shape: domain.Shape{Resources: vm.Spec.Resources, Network: vm.Spec.Network},
	}, renames
}

// want notes that a kind is in use. What falls out of the kinds kept is removed.
func (p *pool) want(key storage.PoolKey) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	at := slices.IndexFunc(p.shelves, func(s *shelf) bool { return s.key == key })
	var s *shelf
	if at < 0 {
		s = &shelf{key: key}
	} else {
		s = p.shelves[at]
		p.shelves = slices.Delete(p.shelves, at, at+1)
	}
	p.shelves = slices.Insert(p.shelves, 0, s)
	var out []*shelf
	if len(p.shelves) > p.config.Kinds {
		out = slices.Clone(p.shelves[p.config.Kinds:])
		p.shelves = slices.Delete(p.shelves, p.config.Kinds, len(p.shelves))
	}
	p.mu.Unlock()
	p.discard(out)
	p.poke()
}

func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take hands over the client of a machine that was claimed; nil when it is not
// at hand, and the caller dials for itself.
func (p *pool) take(id domain.ID) *guest.Client {
	m := p.remove(id)
	if m == nil {
		return nil
	}
	return m.client
}

// remove takes a machine off its shelf, or keeps it from getting there.
func (p *pool) remove(id domain.ID) *warm {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.pending[id]; m != nil {
		delete(p.pending, id)
		return m
	}
	for _, s := range p.shelves {
		if at := slices.IndexFunc(s.ready, func(m *warm) bool { return m.id == id }); at >= 0 {
			m := s.ready[at]
			s.ready = slices.Delete(s.ready, at, at+1)
			return m
		}
	}
	return nil
}

// start begins to fill.
func (p *pool) start(ctx context.Context) {
	ctx, p.cancel = context.WithCancel(ctx)
	p.filled = make(chan struct{})
	go func() {
		defer close(p.filled)
		p.fill(ctx)
	}()
}

// fillAfter is the pause between the use of a machine and the making of the
// next: the VM that has just become ready goes first, with what its owner had
// it made for.
const fillAfter = 20 * time.Millisecond

// fill refills until ctx ends, one machine at a time: VMs that are being made
// meanwhile have the rest of the host.
func (p *pool) fill(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(fillAfter):
		case <-ctx.Done():
			return
		}
		for {
			p.save(ctx)
			key, ok := p.lacking()
			if !ok || ctx.Err() != nil {
				break
			}
			done := p.work()
			err := p.add(ctx, key)
			done()
			if err != nil {
				if ctx.Err() == nil {
					// The next use of the kind tries again.
					p.w.Log.Warn("no machine for the pool", "driver", key.Driver, "build", key.BuildID, "error", err)
					p.drop(func(k storage.PoolKey) bool { return k == key })
				}
				break
			}
		}
	}
}

// work counts something that goes on until the returned function is called.
func (p *pool) work() (done func()) {
	p.mu.Lock()
	p.busy++
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.busy--
		p.mu.Unlock()
		p.changed.Notify(struct{}{})
	}
}

// settled waits until every kind in use has its machines and every other
// machine is gone. It returns how many are ready.
func (p *pool) settled(ctx context.Context) (ready int, err error) {
	sub := p.changed.Subscribe(struct{}{})
	defer sub.Done()
	for {
		changed := sub.Changed()
		_, lacking := p.lacking()
		p.mu.Lock()
		ready = 0
		for _, s := range p.shelves {
			ready += len(s.ready)
		}
		over := !lacking && p.busy == 0 && len(p.pending) == 0
		p.mu.Unlock()
		if over {
			return ready, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ready, ctx.Err()
		}
	}
}

// lacking names a kind with fewer machines than there should be.
func (p *pool) lacking() (storage.PoolKey, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shelves {
		if !p.closed && len(s.ready)+p.coming(s.key) < p.config.Size {
			return s.key, true
		}
	}
	return storage.PoolKey{}, false
}

// coming counts the machines that are about to be on a kind's shelf; mu is held.
func (p *pool) coming(key storage.PoolKey) (n int) {
	for _, m := range p.pending {
		if m.key == key {
			n++
		}
	}
	return n
}

// add makes one machine. Until its row is written it belongs to nobody, and
// the next start of a worker removes it as an orphan.
func (p *pool) add(ctx context.Context, key storage.PoolKey) (err error) {
	driver, err := p.w.driver(key.Driver)
	if err != nil {
		return err
	}
	files, err := p.w.Images.Get(ctx, string(key.BuildID))
	if err != nil {
		return err
	}
	m := &domain.Machine{
		ID: domain.NewID(), WorkerID: key.WorkerID, Driver: key.Driver, BuildID: key.BuildID, Shape: key.Shape, CreatedAt: p.w.time(),
	}
	defer func() {
		if err != nil {
			p.w.machines.forget(m.ID)
			err = errors.Join(err, driver.Delete(context.WithoutCancel(ctx), string(m.ID)))
		}
	}()
	m.Handle, err = driver.Create(ctx, vmm.Spec{
		MachineID: string(m.ID), RootFS: files.RootFS, BuildID: string(key.BuildID), Hostname: pooledHostname,
		Resources: key.Shape.Resources, Network: key.Shape.Network, Platform: p.w.config.Platform,
	})
	if err != nil {
		return err
	}
	if err := driver.Start(ctx, string(m.ID)); err != nil {
		return err
	}
	client, err := p.greet(ctx, driver, m.ID)
	if err != nil {
		return err
	}
	p.w.machines.set(m.ID, key.Driver, lifecycle.MachineRunning)
	made := &warm{id: m.ID, key: key, client: client}
	p.expect(made)
	err = p.w.Store.Update(ctx, func(tx storage.Tx) error {
		// A build that is gone, or going, gets no more machines.
		if b, err := tx.Builds().Get(ctx, storage.System, key.BuildID); err != nil {
			return err
		} else if b.State != domain.BuildReady {
			return errors.New(errors.Conflict, "the build is not ready")
		}
		return tx.Machines().Insert(ctx, m)
	})
	if err != nil {
		p.remove(m.ID)
		client.Close()
		return err
	}
	p.shelve(key, made, driver)
	return nil
}

// expect announces a machine whose row VMs can see before it is on a shelf.
func (p *pool) expect(m *warm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending[m.id] = m
}

// greet waits until a machine's agent has answered and is at its ease.
func (p *pool) greet(ctx context.Context, driver vmm.Driver, id domain.ID) (*guest.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, p.w.config.ReadyTimeout)
	defer cancel()
	client := p.w.client(driver, id)
	_, err := client.Handshake(ctx)
	if err == nil {
		err = client.WarmUp(ctx)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// shelve puts an expected machine on its shelf. A VM may have claimed it by
// now, and its kind may have fallen out of use.
func (p *pool) shelve(key storage.PoolKey, m *warm, driver vmm.Driver) {
	p.mu.Lock()
	if p.pending[m.id] != m {
		p.mu.Unlock()
		return
	}
	delete(p.pending, m.id)
	at := slices.IndexFunc(p.shelves, func(s *shelf) bool { return s.key == key })
	kept := !p.closed && at >= 0
	if kept {
		p.shelves[at].ready = append(p.shelves[at].ready, m)
	}
	p.mu.Unlock()
	if !kept {
		p.discard([]*shelf{{key: key, ready: []*warm{m}}})
		return
	}
	p.w.wg.Go(func() { p.follow(key, m, driver) })
}

// follow removes a machine that ends before a VM has claimed it.
func (p *pool) follow(key storage.PoolKey, m *warm, driver vmm.Driver) {
	if _, err := driver.Wait(p.w.ctx, string(m.id)); p.w.ctx.Err() != nil {
		return
	} else if err != nil {
		p.w.Log.Debug("pooled machine not watched", "machine", m.id, "error", err)
	}
	if p.remove(m.id) != nil {
		p.w.Log.Warn("a machine ended in the pool", "machine", m.id)
		p.discard([]*shelf{{key: key, ready: []*warm{m}}})
		p.poke()
	}
}

// drop removes the kinds that which names, with their machines, which may take
// until wait returns.
func (p *pool) drop(which func(storage.PoolKey) bool) (wait func()) {
	p.mu.Lock()
	var out []*shelf
	p.shelves = slices.DeleteFunc(p.shelves, func(s *shelf) bool {
		if !which(s.key) {
			return false
		}
		out = append(out, s)
		return true
	})
	p.mu.Unlock()
	return p.discard(out)
}

// discard removes machines that are on no shelf any more, beside the caller,
// who may wait for it.
func (p *pool) discard(shelves []*shelf) (wait func()) {
	var these sync.WaitGroup
	for _, s := range shelves {
		for _, m := range s.ready {
			these.Add(1)
			done := p.work()
			p.gone.Go(func() {
				defer these.Done()
				defer done()
				if m.client != nil {
					m.client.Close()
				}
				if err := p.retire(context.WithoutCancel(p.w.ctx), s.key.Driver, m.id); err != nil {
					p.w.Log.Error("pooled machine not removed; the next start does", "machine", m.id, "error", err)
				}
			})
		}
	}
	return these.Wait
}

// retire removes a machine unless a VM has claimed it meanwhile. The row goes
// first: from then on no VM can get it, and what a crash leaves is an orphan.
func (p *pool) retire(ctx context.Context, driverName string, id domain.ID) error {
	driver, err := p.w.driver(driverName)
	if err != nil {
		return err
	}
	claimed := false
	err = p.w.Store.Update(ctx, func(tx storage.Tx) error {
		m, err := tx.Machines().Get(ctx, id)
		if errors.HasCode(err, errors.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if claimed = m.VMID != ""; claimed {
			return nil
		}
		return tx.Machines().Delete(ctx, id)
	})
	if err != nil || claimed {
		return err
	}
	if err := driver.Delete(ctx, string(id)); err != nil {
		return err
	}
	p.w.machines.forget(id)
	return nil
}

// review removes the kinds whose build no template's tag names any more: who
// asks for the template now gets another build. It returns when they are gone.
func (p *pool) review(ctx context.Context) error {
	p.mu.Lock()
	builds := make(map[domain.ID]bool, len(p.shelves))
	for _, s := range p.shelves {
		builds[s.key.BuildID] = true
	}
	p.mu.Unlock()
	if len(builds) == 0 {
		return nil
	}
	err := p.w.Store.View(ctx, func(tx storage.Tx) error {
		for id := range builds {
			current, err := tagged(ctx, tx, id)
			if err != nil {
				return err
			}
			if current {
				delete(builds, id)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.drop(func(k storage.PoolKey) bool { return builds[k.BuildID] })()
	return nil
}

// tagged reports whether a template's tag names a build.
func tagged(ctx context.Context, tx storage.Tx, build domain.ID) (bool, error) {
	b, err := tx.Builds().Get(ctx, storage.System, build)
	if errors.HasCode(err, errors.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t, err := tx.Templates().Get(ctx, storage.System, b.TemplateID)
	if errors.HasCode(err, errors.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, id := range t.Tags {
		if id == build {
			return true, nil
		}
	}
	return false, nil
}

// PoolReady waits until the pool is as it should be, and says how many machines
// are ready in it.
func (w *Worker) PoolReady(ctx context.Context) (int, error) { return w.pool.settled(ctx) }

// close empties the pool and waits until its machines are gone, within ctx.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		if p.cancel != nil {
			p.cancel()
			<-p.filled
			p.save(context.WithoutCancel(ctx))
		}
		p.drop(func(storage.PoolKey) bool { return true })
		p.gone.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Wrap(ctx.Err(), errors.DeadlineExceeded, "machines of the pool are still being removed")
	}
}

// recover takes up the machines that an earlier process left in the pool; the
// caller has learned from the drivers what runs. What does not run, or is of
// no use any more, is removed.
func (p *pool) recover(left map[domain.ID]*domain.Machine) {
	for _, m := range left {
		key := storage.PoolKey{WorkerID: m.WorkerID, Driver: m.Driver, BuildID: m.BuildID, Shape: m.Shape}
		p.expect(&warm{id: m.ID, key: key})
		done := p.work()
		p.gone.Go(func() {
			defer done()
			p.adopt(p.w.ctx, key, m.ID)
		})
	}
}

func (p *pool) adopt(ctx context.Context, key storage.PoolKey, id domain.ID) {
	err := errors.Plain("it does not run, or the pool is off")
	if driver, derr := p.w.driver(key.Driver); derr == nil && p.config.Size > 0 && p.w.machines.status(id) == lifecycle.MachineRunning {
		var client *guest.Client
		if client, err = p.greet(ctx, driver, id); err == nil {
			m := p.met(id, client)
			if m == nil {
				client.Close() // claimed meanwhile
				return
			}
			p.want(key)
			p.shelve(key, m, driver)
			return
		}
	}
	if ctx.Err() != nil || p.remove(id) == nil {
		return
	}
	p.w.Log.Info("removing a machine of the pool", "machine", id, "why", err)
	if err := p.retire(context.WithoutCancel(ctx), key.Driver, id); err != nil {
		p.w.Log.Error("pooled machine not removed; the next start does", "machine", id, "error", err)
	}
	p.poke()
}

// met gives an expected machine its client; nil when a VM has claimed it.
func (p *pool) met(id domain.ID, client *guest.Client) *warm {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.pending[id]
	if m != nil {
		m.client = client
	}
	return m
}
