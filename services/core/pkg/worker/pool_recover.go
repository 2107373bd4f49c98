package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// recover takes up the machines that an earlier process left in the pool; the
// caller has learned from the drivers what runs. What does not run, or is of
// no use any more, is removed.
func (p *pool) recover(left map[domain.ID]*domain.Machine) {
	for _, m := range left {
		key := storage.PoolKey{WorkerID: m.WorkerID, Driver: m.Driver, BuildID: m.BuildID, Shape: m.Shape, Memory: m.Memory}
		p.expect(&warm{id: m.ID, key: key, left: true})
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
