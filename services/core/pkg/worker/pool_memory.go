package worker

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// kinds lists the kinds kept, used last first.
func (p *pool) kinds() []storage.PoolKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := make([]storage.PoolKey, 0, len(p.shelves))
	for _, s := range p.shelves {
		keys = append(keys, s.key)
	}
	return keys
}

// save writes the kinds down if they are others than were written last.
func (p *pool) save(ctx context.Context) {
	keys := p.kinds()
	if slices.Equal(keys, p.saved) {
		return
	}
	text, err := json.Marshal(keys)
	if err == nil {
		err = p.w.Store.Update(ctx, func(tx storage.Tx) error { return tx.Settings().Set(ctx, storage.SettingPool(p.w.id), string(text)) })
	}
	if err != nil {
		if ctx.Err() == nil {
			p.w.Log.Warn("the pool's kinds are not remembered", "error", err)
		}
		return
	}
	p.saved = keys
}

// remember takes up the kinds that were written down. Those whose build is not
// to be had any more are left out.
func (p *pool) remember(ctx context.Context) error {
	if p.config.Size == 0 {
		return nil
	}
	var text string
	err := p.w.Store.View(ctx, func(tx storage.Tx) (err error) {
		text, err = tx.Settings().Get(ctx, storage.SettingPool(p.w.id))
		return err
	})
	if errors.HasCode(err, errors.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var keys []storage.PoolKey
	if err := json.Unmarshal([]byte(text), &keys); err != nil {
		p.w.Log.Warn("the pool's kinds cannot be read", "error", err)
		return nil
	}
	for _, k := range slices.Backward(keys) {
		if _, err := p.w.driver(k.Driver); err == nil && k.WorkerID == p.w.id {
			p.want(k)
		}
	}
	return p.review(ctx)
}

// Expect has machines made ready for VMs like vm, unless it is known what is
// in use here.
func (w *Worker) Expect(vm *domain.VM) {
	if key, ok := w.pool.keyOf(vm); ok && len(w.pool.kinds()) == 0 {
		w.pool.want(key)
	}
}
