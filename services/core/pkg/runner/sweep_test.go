package runner_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// What nobody was told of is found, however many runs of other projects wait;
// and looking for it writes nothing.
func TestLostWakeUps(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) {
		b.config.PerProject, b.config.SweepEvery = 1, 100*time.Millisecond
	})
	other := b.project("other")
	b.holder()
	lost := b.service(b.store, b.worker, nil)
	many := make([]vmm.Run, domain.MaxTaskGroup)
	for i := range many {
		many[i] = run("true")
	}
	for range 2 {
		_, err := lost.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: many, Group: true})
		must(t, err)
	}
	tasks, err := lost.CreateRuns(b.ctx, other, vmm.CreateRuns{Runs: many[:1]})
	must(t, err)
	if task, err := b.WaitTask(b.ctx, other, tasks[0].ID); err != nil || task.State != domain.TaskSucceeded {
		t.Fatalf("%+v, %v", task, err)
	}
	time.Sleep(300 * time.Millisecond) // its VM goes
	before := b.mortal.writes()
	time.Sleep(500 * time.Millisecond)
	if n := b.mortal.writes() - before; n != 0 {
		t.Errorf("nothing is to be done, for which it wrote %d times", n)
	}
}
