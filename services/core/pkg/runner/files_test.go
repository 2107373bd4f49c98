package runner_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// slow is a worker on the way to which files are held up.
type slow struct {
	*worker.Worker
	once    *sync.Once
	reached chan struct{} // closed by the first file
	release chan struct{}
}

func slowly(w *worker.Worker) slow {
	return slow{Worker: w, once: new(sync.Once), reached: make(chan struct{}), release: make(chan struct{})}
}

func (s slow) Files(ctx context.Context, vm *domain.VM) (service.GuestFiles, error) {
	f, err := s.Worker.Files(ctx, vm)
	return slowFiles{f, s}, err
}

type slowFiles struct {
	service.GuestFiles
	of slow
}

func (f slowFiles) Write(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error) {
	f.of.once.Do(func() { close(f.of.reached) })
	select {
	case <-f.of.release:
	case <-ctx.Done():
		return vmm.FileInfo{}, ctx.Err()
	}
	return f.GuestFiles.Write(ctx, path, r, o)
}

// Two processes follow one run while Redis is away: what its command has made of
// its files stays as it is.
func TestTwoFollowOneRun(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	must(t, b.runner.Stop(b.ctx))
	one, other := slowly(b.worker), slowly(b.worker)
	s, first, _ := b.gateway(b.store, one)
	must(t, first.Start(b.ctx))
	defer func() { must(t, first.Stop(b.ctx)) }()
	r := run(`echo changed >in.txt; touch %[1]s/changed; while [ ! -e %[1]s/go ]; do sleep 0.01; done; cat in.txt >kept`, b.dir)
	r.Files, r.Results = []vmm.RunFile{{Path: "in.txt", Content: []byte("as it was")}}, []string{"kept"}
	tasks, err := s.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: []vmm.Run{r}})
	must(t, err)
	<-one.reached
	_, second, q := b.gateway(b.store, other)
	must(t, second.Start(b.ctx)) // it finds the run
	defer func() { must(t, second.Stop(b.ctx)) }()
	b.eventually(func() bool { // it has come to the files, or does without
		select {
		case <-other.reached:
			return true
		default:
		}
		counts, err := q.Count(b.ctx)
		must(t, err)
		return counts[queue.Scheduled] > 0
	})
	close(one.release)
	b.eventually(func() bool { _, err := os.Stat(filepath.Join(b.dir, "changed")); return err == nil })
	close(other.release)
	time.Sleep(300 * time.Millisecond) // it would write them
	must(t, os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600))
	task := b.ended(tasks[0].ID)
	if task.State != domain.TaskSucceeded || len(result(t, task).Files) != 1 {
		t.Fatalf("%+v, %+v", task, task.Error)
	}
	if got := string(result(t, task).Files[0].Content); got != "changed\n" {
		t.Errorf("the command's file has become %q", got)
	}
}

// A run whose files a process was writing that has died is gone on with once its
// claim has ended; one that was stopped gives it back.
func TestWhoeverWritesFilesGoes(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]bool{"killed": true, "stopped": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, func(b *bed, _ *worker.Config) {
				if killed {
					b.config.ClaimFor = time.Second
				}
			})
			must(t, b.runner.Stop(b.ctx))
			held := slowly(b.worker)
			store := &mortal{Store: b.store, dead: make(chan struct{})}
			s, first, _ := b.gateway(store, held)
			must(t, first.Start(b.ctx))
			r := run(`cat in.txt >kept`)
			r.Files, r.Results = []vmm.RunFile{{Path: "in.txt", Content: []byte("as it was")}}, []string{"kept"}
			tasks, err := s.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: []vmm.Run{r}})
			must(t, err)
			<-held.reached
			if killed {
				store.kill()
			}
			must(t, first.Stop(b.ctx))
			begun := time.Now()
			b.up(0)
			task := b.ended(tasks[0].ID)
			if task.State != domain.TaskSucceeded || task.Attempts != 1 || len(result(t, task).Files) != 1 || string(result(t, task).Files[0].Content) != "as it was" {
				t.Errorf("%+v, %+v", task, task.Error)
			}
			if d := time.Since(begun); d > 20*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
}
