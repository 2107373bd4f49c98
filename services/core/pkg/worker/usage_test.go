package worker_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// TestWhatWasUsedOutlastsTheWorker: spans follow one another, are told by their
// beginning, and are there after a crash.
func TestWhatWasUsedOutlastsTheWorker(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *worker.Config) { c.UsageEvery = 10 * time.Millisecond })
	vm := b.running(vmm.CreateVM{Template: "base"})
	used := func(from, to time.Time) []domain.Usage {
		t.Helper()
		list, err := b.VMUsed(b.ctx, b.by, vm.ID, from, to)
		must(t, err)
		return list
	}
	all := used(time.Time{}, time.Time{})
	for ; len(all) < 3; all = used(time.Time{}, time.Time{}) {
		must(t, b.ctx.Err())
		time.Sleep(time.Millisecond)
	}
	for i, u := range all[:3] {
		if u.VMID != vm.ID || !u.To.After(u.From) || i > 0 && !u.From.Equal(all[i-1].To) {
			t.Errorf("span %d: %+v", i, u)
		}
	}
	if got := used(all[1].From, all[2].From); len(got) != 1 || got[0] != all[1] {
		t.Errorf("one of them: %+v", got)
	}
	b.crash()
	b.up()
	if got := used(time.Time{}, all[2].To); len(got) < 3 || got[0] != all[0] || got[2] != all[2] {
		t.Errorf("after a crash: %+v", got)
	}
	other := vmm.Caller{ProjectID: domain.NewID(), Name: "other"}
	if _, err := b.VMUsed(b.ctx, other, vm.ID, time.Time{}, time.Time{}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("another project's: %v", err)
	}
}

// What was used long ago is forgotten, and what was of late is not.
func TestWhatWasUsedIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *worker.Config) { c.SweepEvery, c.KeepUsage = 10*time.Millisecond, time.Hour })
	const old, young = 1234, 5 // more than a batch
	ended, now := domain.NewID(), time.Now().UTC().Truncate(time.Microsecond)
	spans := make([]domain.Usage, old+young)
	for i := range spans {
		from := now.Add(time.Duration(i) * time.Second)
		if i < old {
			from = from.Add(-2 * time.Hour)
		}
		spans[i] = domain.Usage{ProjectID: b.by.ProjectID, VMID: ended, From: from, To: from.Add(time.Second)}
	}
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Usage().Record(b.ctx, spans...) }))
	for {
		var left []domain.Usage
		must(t, b.store.View(b.ctx, func(tx storage.Tx) (err error) {
			left, err = tx.Usage().List(b.ctx, storage.UsageFilter{VMID: ended}, storage.MaxPage)
			return err
		}))
		if len(left) < young {
			t.Fatalf("%d spans are left of %d", len(left), young)
		}
		if len(left) == young {
			return
		}
		must(t, b.ctx.Err())
		time.Sleep(time.Millisecond) // nobody is told of a sweep
	}
}
