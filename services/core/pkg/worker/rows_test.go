package worker_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// lateRows is a store that does not take the row of an execution that has begun,
// until it is told not to mind: whoever writes it tries again.
type lateRows struct {
	storage.Store
	refuse atomic.Bool
	shut   atomic.Bool   // it takes no row of any execution as long as this is set
	asked  chan struct{} // gets one when a row was refused
}

// Update implements storage.Store.
func (s *lateRows) Update(ctx context.Context, f func(storage.Tx) error) error {
	return s.Store.Update(ctx, func(tx storage.Tx) error { return f(lateTx{tx, s}) })
}

type lateTx struct {
	storage.Tx
	of *lateRows
}

func (t lateTx) Executions() storage.Executions { return lateExecutions{t.Tx.Executions(), t.of} }

type lateExecutions struct {
	storage.Executions
	of *lateRows
}

func (e lateExecutions) Upsert(ctx context.Context, all ...*domain.Execution) error {
	if e.of.shut.Load() {
		return errors.New(errors.Unavailable, "the database is busy")
	}
	for _, x := range all {
		if !x.State.Ended() && e.of.refuse.CompareAndSwap(true, false) {
			e.of.asked <- struct{}{}
			return errors.New(errors.Unavailable, "the database is busy")
		}
	}
	return e.Executions.Upsert(ctx, all...)
}

// What a VM's end finds running is lost with it, also where its row was late: it
// must not be written as running after that.
func TestRowsThatAreLaterThanTheEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*bed, domain.ID) error{
		"stopped": func(b *bed, vm domain.ID) error { _, err := b.StopVM(b.ctx, b.by, vm); return err },
		"deleted": func(b *bed, vm domain.ID) error { _, err := b.DeleteVM(b.ctx, b.by, vm); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newMemoryBed(t)
			late := &lateRows{Store: b.store, asked: make(chan struct{}, 1)}
			b.down()
			b.store = late
			b.up()
			vm := b.running(vmm.CreateVM{})
			late.refuse.Store(true)
			x := b.talk(vm.ID)
			<-late.asked
			b.pause(vm.ID, domain.PauseMemory)
			must(t, end(b, vm.ID))
			_, err := b.WaitVM(b.ctx, b.by, vm.ID)
			must(t, err)
			if row := b.ended(x); row.State != domain.ExecutionLost {
				t.Errorf("%+v", row)
			}
			must(t, b.worker.FlushExecutions(b.ctx))
			var row *domain.Execution
			must(t, b.store.View(b.ctx, func(tx storage.Tx) (err error) {
				row, err = tx.Executions().Get(b.ctx, storage.System, x)
				return err
			}))
			if row.State != domain.ExecutionLost || row.LostReason == "" {
				t.Errorf("written in the end: %+v", row)
			}
		})
	}
}
