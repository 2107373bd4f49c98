package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

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
				p.retireAtLast(s.key.Driver, m.id)
			})
		}
	}
	return these.Wait
}

// poolAgain is when the pool tries again what needs what is away.
const poolAgain = time.Second

// retireAtLast is retire, again and again while the database is away, but not when the
// pool is closed: what is left then is removed by the worker's next start.
func (p *pool) retireAtLast(driver string, id domain.ID) {
	for {
		err := p.retire(context.WithoutCancel(p.w.ctx), driver, id)
		if err == nil {
			return
		}
		p.mu.Lock()
		again := isAway(err) && !p.closed
		p.mu.Unlock()
		if again {
			if wait(p.w.ctx, poolAgain); p.w.ctx.Err() == nil {
				continue
			}
		}
		p.w.Log.Error("pooled machine not removed; the next start does", "machine", id, "error", err)
		return
	}
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

// close begins to empty the pool; [pool.wait] waits for that.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.emptied.Go(func() {
		if p.cancel != nil {
			p.cancel()
			<-p.filled
			p.save(context.WithoutCancel(p.w.ctx))
		}
		p.drop(func(storage.PoolKey) bool { return true })()
	})
}

// awaitEmpty waits within ctx until the machines that a pool had when it was closed are gone.
func (p *pool) awaitEmpty(ctx context.Context) error {
	done := make(chan struct{})
	go func() { p.emptied.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Wrap(ctx.Err(), errors.DeadlineExceeded, "machines of the pool are still being removed")
	}
}

// wait waits until the machines of a pool that was closed are gone, and those that
// were given back since. Nothing gives any back any more.
func (p *pool) wait() {
	p.emptied.Wait()
	p.gone.Wait()
}
