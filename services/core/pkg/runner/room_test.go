package runner_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// quiet waits until what is under way is done: nothing has been written for a while.
func (b *bed) quiet() {
	b.t.Helper()
	for n := -1; n != b.mortal.writes(); {
		must(b.t, b.ctx.Err())
		n = b.mortal.writes()
		time.Sleep(300 * time.Millisecond)
	}
}

// holder is a run whose command runs until it is canceled.
func (b *bed) holder() *domain.Task {
	b.t.Helper()
	task := b.create(run("exec sleep 600"))[0]
	_, err := b.TaskExecution(b.ctx, b.by, task.ID, true)
	must(b.t, err)
	return task
}

// put waits until a run has been put back for want of room.
func (b *bed) put(by vmm.Caller, id domain.ID) {
	b.t.Helper()
	sub := b.changes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		t, err := b.GetTask(b.ctx, by, id)
		must(b.t, err)
		if t.State == domain.TaskPending && t.Error != nil {
			return
		}
		<-changed
	}
}

// told counts events of a kind after one, and gives the newest.
func (b *bed) told(kind string, after int64) (n int, newest int64) {
	b.t.Helper()
	newest = after
	must(b.t, b.store.View(b.ctx, func(tx storage.Tx) error {
		list, err := tx.Outbox().List(b.ctx, storage.EventFilter{After: after, Limit: 1000})
		for _, e := range list {
			if newest = e.Seq; e.Type == kind {
				n++
			}
		}
		return err
	}))
	return n, newest
}

// Of many runs that find no room one at a time tries again: the others cost no
// writes, and nobody is told again of what has not changed. When there is room
// all of them run.
func TestOneTriesForAll(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]func(*bed, *worker.Config){
		"quota":    func(b *bed, _ *worker.Config) { b.quota.VMs = 1 },
		"capacity": func(_ *bed, c *worker.Config) { c.Capacity.MemoryBytes = 1 << 30 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, option)
			holder := b.holder()
			const many = 30
			runs := make([]vmm.Run, many)
			for i := range runs {
				runs[i] = run("true")
			}
			tasks, err := b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: runs, Group: true})
			must(t, err)
			// They come all at once: some try before it is known that there is no room.
			b.quiet()
			before := b.mortal.writes()
			_, newest := b.told(events.TaskUpdated, 0)
			const watched = 6 * time.Second
			time.Sleep(watched)
			// At most one tries each half second, which are three writes.
			if n := b.mortal.writes() - before; n > 3*12 {
				t.Errorf("in %s they wrote %d times", watched, n)
			}
			if n, _ := b.told(events.TaskUpdated, newest); n > 12 {
				t.Errorf("in %s %d updates were told", watched, n)
			}
			waits := 0
			for _, task := range tasks {
				got := b.task(task.ID)
				if got.State == domain.TaskPending {
					waits++
				}
				if got.State.Ended() || got.Attempts > 1 {
					t.Errorf("%+v, %+v", got, got.Error)
				}
			}
			if waits < many-1 {
				t.Errorf("%d of %d wait", waits, many)
			}
			_, err = b.CancelTask(b.ctx, b.by, holder.ID)
			must(t, err)
			for _, task := range tasks {
				if got := b.ended(task.ID); got.State != domain.TaskSucceeded || got.Attempts != 1 {
					t.Errorf("%+v, %+v", got, got.Error)
				}
			}
		})
	}
}

// A run that was put back is told of once for each reason.
func TestPutBackIsToldOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) { b.quota.VMs = 1 })
	b.holder()
	waits := b.create(run("true"))[0]
	b.put(b.by, waits.ID)
	_, newest := b.told(events.TaskUpdated, 0)
	at := b.task(waits.ID).UpdatedAt
	for range 2 { // tries
		at = b.until(waits.ID, func(t *domain.Task) bool { return t.State == domain.TaskPending && t.UpdatedAt.After(at) }).UpdatedAt
	}
	if n, _ := b.told(events.TaskUpdated, newest); n != 0 {
		t.Errorf("told %d times of what is as it was", n)
	}
}

// What is more than the quota is in all does not wait for what will not be.
func TestBeyondQuota(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) { b.quota.MemoryBytes = 3 << 30 })
	large := run("true")
	large.VM.Resources.MemoryBytes, large.MaxAttempts = 4<<30, 5
	task := b.ended(b.create(large)[0].ID)
	if task.State != domain.TaskFailed || task.Attempts != 1 || task.Error == nil || task.Error.Code != string(errors.QuotaExceeded) ||
		!strings.Contains(task.Error.Message, "3221225472 in all") || !strings.Contains(task.Error.Message, "4294967296 more") {
		t.Errorf("%+v, %+v", task, task.Error)
	}
	if task := b.ended(b.create(run("true"))[0].ID); task.State != domain.TaskSucceeded {
		t.Errorf("another: %+v, %+v", task, task.Error)
	}
}

// What needs more than there is keeps nothing of its project from what there is.
func TestLargeAndSmall(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) { b.quota.MemoryBytes = 4 << 30 })
	b.holder()
	large := run("true")
	large.VM.Resources.MemoryBytes = 4 << 30
	waits := b.create(large)[0]
	b.put(b.by, waits.ID)
	small := b.create(run("true"), run("true"), run("true"))
	for _, task := range small {
		if got := b.ended(task.ID); got.State != domain.TaskSucceeded {
			t.Errorf("%+v, %+v", got, got.Error)
		}
	}
	if got := b.task(waits.ID); got.State.Ended() {
		t.Errorf("%+v, %+v", got, got.Error)
	}
}

// The room that a project's run leaves is another's that waits for a worker.
func TestRoomForAnotherProject(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(_ *bed, c *worker.Config) { c.Capacity.MemoryBytes = 1 << 30 })
	other := b.project("other")
	holder := b.holder()
	r := run("true")
	waits, err := b.CreateRuns(b.ctx, other, vmm.CreateRuns{Runs: []vmm.Run{r}})
	must(t, err)
	b.put(other, waits[0].ID)
	_, err = b.CancelTask(b.ctx, b.by, holder.ID)
	must(t, err)
	task, err := b.WaitTask(b.ctx, other, waits[0].ID)
	if err != nil || task.State != domain.TaskSucceeded {
		t.Errorf("%+v, %v", task, err)
	}
}
