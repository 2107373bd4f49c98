package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// turns is a store that tells how many executions each turn to write removes at most.
type turns struct {
	storage.Store
	project domain.ID
	of      []domain.ID // VMs
	counts  atomic.Bool
	most    atomic.Int64
}

func (s *turns) count(ctx context.Context, tx storage.Tx) (n int, err error) {
	for _, vm := range s.of {
		p := storage.Page{Limit: storage.MaxPage}
		for {
			list, err := tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: s.project, VMID: vm, Page: p})
			if err != nil {
				return 0, err
			}
			n += len(list.Items)
			if p.Cursor = list.Next; list.Next == "" {
				break
			}
		}
	}
	return n, nil
}

func (s *turns) Update(ctx context.Context, f func(storage.Tx) error) error {
	if !s.counts.Load() {
		return s.Store.Update(ctx, f)
	}
	return s.Store.Update(ctx, func(tx storage.Tx) error {
		before, err := s.count(ctx, tx)
		if err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		after, err := s.count(ctx, tx)
		s.most.Store(max(s.most.Load(), int64(before-after)))
		return err
	})
}

// However much ran in VMs that ended long ago, and however many there are, they go
// in turns that others can wait for.
func TestTombstonesGoInSmallTurns(t *testing.T) {
	t.Parallel()
	s := &turns{}
	b := newBed(t)
	b.down()
	s.Store, s.project = b.store, b.by.ProjectID
	b.deps = func(d *worker.Deps) { d.Store = s }
	b.up()
	for _, ran := range []int{1200, 499, 1, 300, 300} {
		vm := b.running(vmm.CreateVM{})
		_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, vm.ID)
		must(t, err)
		now := time.Now().UTC().Truncate(time.Microsecond)
		xs := make([]*domain.Execution, ran)
		for i := range xs {
			xs[i] = &domain.Execution{
				ID: domain.NewID(), ProjectID: b.by.ProjectID, VMID: vm.ID, Epoch: 1, State: domain.ExecutionExited,
				CommandSealed: []byte("sealed"), CreatedAt: now, StartedAt: &now, EndedAt: &now,
			}
		}
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Executions().Upsert(b.ctx, xs...) }))
		s.of = append(s.of, vm.ID)
	}
	b.skip(8 * 24 * time.Hour)
	s.counts.Store(true)
	b.worker.Sweep(b.ctx)
	if most := s.most.Load(); most == 0 || most > 500 {
		t.Errorf("%d executions go in one turn", most)
	}
	must(t, b.store.View(b.ctx, func(tx storage.Tx) error {
		left, err := s.count(b.ctx, tx)
		if err == nil && left > 0 {
			t.Errorf("%d executions are left", left)
		}
		for _, vm := range s.of {
			if _, err := tx.VMs().Get(b.ctx, b.by.ProjectID, vm); !errors.HasCode(err, errors.NotFound) {
				t.Errorf("the VM %s is left: %v", vm, err)
			}
		}
		return err
	}))
}
