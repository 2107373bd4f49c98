package worker

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// TrimTools removes tools over the bound, however new they are.
func (w *Worker) TrimTools(ctx context.Context) error { return w.trimTools(ctx, 0) }

// Crash lets go of everything in this process as its death would: what is on
// the node and in the store stays as it is.
func (w *Worker) Crash(ctx context.Context) {
	w.steps.cancelAll()
	w.cancel()
	ctx, cancel := context.WithCancel(ctx)
	cancel() // what is under way ends, and is not waited for to be done
	_ = w.Queue.Stop(ctx)
	<-w.pool.filled
	w.pool.gone.Wait()
	w.vms.closeAll()
	w.rows.stop()
	w.wait()
}

// Sweep looks for what a lost wake-up left, as the worker does from time to time.
func (w *Worker) Sweep(ctx context.Context) { w.sweepAsked(ctx); w.sweep(ctx) }

// AwaitStored waits until a snapshot is in the storage.
func (w *Worker) AwaitStored(ctx context.Context, id domain.ID) (*domain.Packed, error) {
	sub := w.Changes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		var s *domain.Snapshot
		err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
			s, err = tx.Snapshots().Get(ctx, storage.System, id)
			return err
		})
		if err != nil {
			return nil, err
		}
		if s.Packed != nil {
			return s.Packed, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// AwaitEgress waits until a VM's newest egress policy is acknowledged.
func (w *Worker) AwaitEgress(ctx context.Context, id domain.ID) error {
	sub := w.Changes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		vm, err := w.load(ctx, id)
		if err != nil || vm.EgressAck == vm.EgressGen {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// StoreOutput stores the output of all that has ended by now.
func (w *Worker) StoreOutput(ctx context.Context) error {
	if err := w.rows.flush(ctx); err != nil {
		return err
	}
	return w.storeOutput(ctx)
}

// Due is called by the clock when a VM's time may be up.
func (w *Worker) Due(ctx context.Context, id domain.ID) { w.due(ctx, id) }

// PutRow queues a row of an execution to be written beside.
func (w *Worker) PutRow(x *domain.Execution, kind string) { w.rows.put(x, kind, w.time(), nil) }

// Logins counts what is held to be shown to registries.
func (w *Worker) Logins() int {
	w.builds.mu.Lock()
	defer w.builds.mu.Unlock()
	return len(w.builds.logins)
}
