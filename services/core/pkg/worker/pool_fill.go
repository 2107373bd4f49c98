package worker

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// pooledHostname is the name of a machine that is nobody's yet.
const pooledHostname = "vm"

// warmUpHostname is a name that it has once, for practice.
const warmUpHostname = "warm-up"

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

// fillSlowlyAfter is that for kinds with a kernel of their own: to start one takes a
// processor for longer, and where it is emulated the first command of the VM before, too.
const fillSlowlyAfter = 250 * time.Millisecond

// pause waits before the next machine is made, or until ctx ends.
func (p *pool) pause(ctx context.Context) {
	wait(ctx, fillAfter)
	if key, ok := p.lacking(); ok && p.w.info(key.Driver).Isolation == domain.IsolationMicroVM {
		wait(ctx, fillSlowlyAfter-fillAfter)
	}
}

// wait waits for a time, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// fill refills until ctx ends, one machine at a time: VMs that are being made
// meanwhile have the rest of the host.
func (p *pool) fill(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		p.pause(ctx)
		for {
			p.save(ctx)
			key, ok := p.lacking()
			if !ok || ctx.Err() != nil {
				break
			}
			done := p.work()
			err := p.add(ctx, key)
			done()
			if err == nil {
				continue
			}
			if ctx.Err() != nil {
				break
			}
			p.w.Log.Warn("no machine for the pool", "driver", key.Driver, "build", key.BuildID, "error", err)
			if !isAway(err) { // the next use of the kind tries again
				p.drop(func(k storage.PoolKey) bool { return k == key })
				break
			}
			// What is ready is as good as before. None is made until there is an answer: it
			// would run, as it may be on record, until it can be removed.
			for isAway(err) && ctx.Err() == nil {
				wait(ctx, poolAgain)
				err = p.w.Store.Read(ctx, func(tx storage.Tx) error { return ready(ctx, tx, key.BuildID) })
			}
		}
	}
}

// lacking names a kind with fewer machines than there should be.
func (p *pool) lacking() (storage.PoolKey, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shelves {
		if !p.closed && !p.resting && len(s.ready)+p.coming(s.key) < p.config.Size {
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
	files, err := p.w.rootFS(ctx, key.BuildID)
	if err != nil {
		return err
	}
	m := &domain.Machine{
		ID: domain.NewID(), WorkerID: key.WorkerID, Driver: key.Driver, BuildID: key.BuildID, Shape: key.Shape, Memory: key.Memory, CreatedAt: p.w.time(),
	}
	spec := vmm.Spec{
		MachineID: string(m.ID), RootFS: files.RootFS, BuildID: string(key.BuildID), Hostname: pooledHostname,
		Resources: key.Shape.Resources, Network: key.Shape.Network, Platform: p.w.config.Platform,
	}
	if key.Memory {
		if err := p.w.fromBuildMemory(ctx, key.Driver, key.Shape, &spec); err != nil {
			return err
		}
	}
	recorded := false // it may have a row
	defer func() {
		if err != nil && !recorded {
			p.w.machines.forget(m.ID)
			err = errors.Join(err, driver.Delete(context.WithoutCancel(ctx), string(m.ID)))
		}
	}()
	m.Handle, err = driver.Create(ctx, spec)
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
	if err := p.prepare(ctx, driver, m.ID, client, key); err != nil {
		client.Close()
		return err
	}
	made := &warm{id: m.ID, key: key, client: client, told: true}
	if key.Memory {
		if made.runs, err = adopt(ctx, client, m.ID); err != nil {
			client.Close()
			return err
		}
	}
	p.w.machines.set(m.ID, key.Driver, lifecycle.MachineRunning)
	p.expect(made)
	err = p.w.Store.Update(ctx, func(tx storage.Tx) error {
		if _, err := p.w.member(ctx, tx); err != nil {
			return err
		}
		if err := ready(ctx, tx, key.BuildID); err != nil {
			return err
		}
		return tx.Machines().Insert(ctx, m)
	})
	if recorded = err == nil || isAway(err); err != nil {
		p.remove(m.ID)
		if recorded {
			p.discard([]*shelf{{key: key, ready: []*warm{made}}})
		} else {
			client.Close()
		}
		return err
	}
	p.shelve(key, made, driver)
	return nil
}

// ready returns Conflict or NotFound for a build that is gone, or going: it gets no more
// machines.
func ready(ctx context.Context, tx storage.Tx, id domain.ID) error {
	b, err := tx.Builds().Get(ctx, storage.System, id)
	if err == nil && b.State != domain.BuildReady {
		return errors.New(errors.Conflict, "the build is not ready")
	}
	return err
}

// expect announces a machine whose row VMs can see before it is on a shelf.
func (p *pool) expect(m *warm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending[m.id] = m
}

// greet waits until a machine's agent has answered.
func (p *pool) greet(ctx context.Context, driver vmm.Driver, id domain.ID) (*guest.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, p.w.config.ReadyTimeout)
	defer cancel()
	client := p.w.client(driver, id)
	if _, err := client.Handshake(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// prepare has a machine's agent at its ease, and tells it what a plain VM asks
// for. No VM may see the machine yet: its own configuration would be undone.
func (p *pool) prepare(ctx context.Context, driver vmm.Driver, id domain.ID, client *guest.Client, key storage.PoolKey) error {
	ctx, cancel := context.WithTimeout(ctx, p.w.config.ReadyTimeout)
	defer cancel()
	cfg, err := p.w.imageConfig(ctx, key.BuildID)
	if err != nil {
		return err
	}
	// As the VM's commands will be run, and not as others: what is emulated is slow the
	// first time.
	if err := client.WarmUp(ctx, cfg); err != nil {
		return err
	}
	// A claim names it. Its own kernel is faster at it the second time.
	if r, ok := driver.(vmm.Renamer); ok && p.w.info(key.Driver).Isolation == domain.IsolationMicroVM {
		for _, name := range []string{warmUpHostname, pooledHostname} {
			if err := r.SetHostname(ctx, string(id), name); err != nil {
				return err
			}
		}
	}
	return nil
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
	kept := !p.closed && !p.resting && at >= 0
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
