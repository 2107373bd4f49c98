package runner_test

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/runner"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

func result(t *testing.T, task *domain.Task) runner.Result {
	t.Helper()
	var r runner.Result
	must(t, json.Unmarshal(task.Result, &r))
	return r
}

func TestRun(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	r := run(`cat in.txt; cat; echo "$SECRET" >&2; printf out >kept; head -c 300000 /dev/zero >large`)
	r.VM.Env = map[string]string{"SECRET": "not-in-the-row"}
	r.Stdin = []byte(strings.Repeat("input ", 30_000)) // in several pieces
	r.Files = []vmm.RunFile{{Path: "in.txt", Content: []byte("file ")}}
	r.Results = []string{"kept", "missing", "large"}
	task := b.ended(b.create(r)[0].ID)
	if task.State != domain.TaskSucceeded || task.Step != domain.StepDone || task.Attempts != 1 || task.Error != nil {
		t.Fatalf("%+v, %+v", task, task.Error)
	}
	got := result(t, task)
	if got.ExitCode == nil || *got.ExitCode != 0 || len(got.Files) != 3 || string(got.Files[0].Content) != "out" || got.Files[0].SizeBytes != 3 ||
		got.Files[1].Error != string(errors.NotFound) || got.Files[2].Error != string(errors.TooLarge) || got.Files[2].Content != nil {
		t.Errorf("result %+v", got)
	}
	b.gone(task)
	id, err := b.TaskExecution(b.ctx, b.by, task.ID, false)
	must(t, err)
	out, err := b.Output(b.ctx, b.by, id, 0, true)
	must(t, err)
	var stdout, stderr strings.Builder
	for {
		ev, err := out.Next(b.ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if ev.Stream == domain.Stdout {
			stdout.Write(ev.Data)
		} else {
			stderr.Write(ev.Data)
		}
	}
	must(t, out.Close())
	if stdout.String() != "file "+string(r.Stdin) || stderr.String() != "not-in-the-row\n" {
		t.Errorf("it wrote %d bytes and %q", stdout.Len(), stderr.String())
	}
	if text, err := json.Marshal(task); err != nil || strings.Contains(string(text), "not-in-the-row") {
		t.Errorf("a secret is in the row, %v", err)
	}
}

// What a gateway began before it was killed the next one finds and follows,
// wherever that was: the command runs once.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) { b.config.ClaimFor = time.Second })
	for deaths := 1; ; deaths++ {
		must(t, b.runner.Stop(b.ctx))
		b.up(deaths)
		name := "ran" + string(rune('a'+deaths))
		r := run(`[ "$(cat in.txt)" = file ] && echo ran >>%s/%s; cat; printf x >kept`, b.dir, name)
		r.Results, r.Stdin = []string{"kept"}, []byte("input")
		r.Files = []vmm.RunFile{{Path: "in.txt", Content: []byte("file")}}
		// The first write is that of the task.
		tasks, err := b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: []vmm.Run{r}})
		must(t, err)
		id := tasks[0].ID
		done := make(chan struct{})
		go func() { defer close(done); b.ended(id) }()
		survived := false
		select {
		case <-b.mortal.dead:
			must(t, b.runner.Stop(b.ctx))
			b.up(0)
			<-done
		case <-done:
			select {
			case <-b.mortal.dead: // by the last of its writes
			default:
				survived = true
			}
		}
		task := b.task(id)
		if task.State != domain.TaskSucceeded || task.Attempts != 1 || len(result(t, task).Files) != 1 {
			t.Errorf("killed at its write %d: %+v, %+v", deaths, task, task.Error)
		}
		if n := len(b.lines(name)); n != 1 {
			t.Errorf("killed at its write %d: the command ran %d times", deaths, n)
		}
		b.gone(task)
		if survived {
			if deaths < 6 {
				t.Errorf("only %d writes were died at", deaths-1)
			}
			return
		}
	}
}

func TestAttempts(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	tries := run(`echo x >>%s/tries; [ $(wc -l <%s/tries) = 3 ]`, b.dir, b.dir)
	tries.MaxAttempts = 5
	fails := run(`echo x >>%s/fails; exit 7`, b.dir)
	fails.MaxAttempts = 2
	once := run(`echo x >>%s/once; kill -9 $$`, b.dir)
	absent := run("")
	absent.Command.Args, absent.MaxAttempts = []string{"no-such-program-here"}, 5
	slow := run("sleep 600")
	slow.Command.Timeout = 50 * time.Millisecond
	tasks := b.create(tries, fails, once, absent, slow)
	for i, want := range []struct {
		state    domain.TaskState
		attempts int
		code     string
		exit     int
	}{
		{domain.TaskSucceeded, 3, "", 0},
		{domain.TaskFailed, 2, domain.TaskCommandFailed, 7},
		{domain.TaskFailed, 1, domain.TaskCommandFailed, 137},
		{domain.TaskFailed, 1, string(errors.InvalidArgument), -1}, // trying again does not help
		{domain.TaskFailed, 1, domain.TaskCommandTimedOut, 137},
	} {
		task := b.ended(tasks[i].ID)
		code, exit := "", -1
		if task.Error != nil {
			code = task.Error.Code
		}
		if e := result(t, task).ExitCode; e != nil {
			exit = *e
		}
		if task.State != want.state || task.Attempts != want.attempts || code != want.code || exit != want.exit {
			t.Errorf("%d: %s after %d attempts with %q, %d (%+v)", i, task.State, task.Attempts, code, exit, task.Error)
		}
		b.gone(task)
	}
	if n := len(b.lines("tries")); n != 3 || len(b.lines("fails")) != 2 || len(b.lines("once")) != 1 {
		t.Errorf("they ran %d, %v, %v times", n, b.lines("fails"), b.lines("once"))
	}
	again, err := b.RetryTask(b.ctx, b.by, tasks[2].ID)
	must(t, err)
	if got := b.ended(again.ID); got.State != domain.TaskFailed || got.Attempts != 2 || len(b.lines("once")) != 2 {
		t.Errorf("asked to run again: %+v, ran %v", got, b.lines("once"))
	}
	if _, err := b.RetryTask(b.ctx, b.by, tasks[0].ID); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("one that has succeeded runs again: %v", err)
	}
}

// Canceling a run ends its command and removes its VM, also when it is asked for
// while nobody follows the run.
func TestCancel(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for _, followed := range []bool{true, false} {
		task := b.create(run("echo started; exec sleep 600"))[0]
		id, err := b.TaskExecution(b.ctx, b.by, task.ID, true)
		must(t, err)
		out, err := b.Output(b.ctx, b.by, id, 0, true)
		must(t, err)
		if ev, err := out.Next(b.ctx); err != nil || string(ev.Data) != "started\n" {
			t.Fatalf("%+v, %v", ev, err)
		}
		must(t, out.Close())
		if !followed {
			must(t, b.runner.Stop(b.ctx))
		}
		_, err = b.CancelTask(b.ctx, b.by, task.ID)
		must(t, err)
		x, err := b.WaitExecution(b.ctx, b.by, id)
		if err != nil || !x.State.Ended() {
			t.Errorf("its command: %+v, %v", x, err)
		}
		if !followed {
			b.up(0)
		}
		task = b.ended(task.ID)
		if task.State != domain.TaskCanceled {
			t.Errorf("%+v", task)
		}
		b.gone(task)
	}
}

func TestAfter(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	good, bad := b.create(run("sleep 0.2; echo first >>%s/order", b.dir))[0], b.create(run("exit 1"))[0]
	after := func(policy domain.AfterFailure, others ...*domain.Task) *domain.Task {
		r := run("echo then >>%s/order", b.dir)
		r.AfterFailure = policy
		for _, o := range others {
			r.After = append(r.After, o.ID)
		}
		return b.create(r)[0]
	}
	then := after("", good)
	skipped, failed := after("", good, bad), after(domain.AfterFailureFail, bad)
	chained := after("", skipped)
	all := after(domain.AfterFailureRun, good, bad, skipped)
	for task, want := range map[*domain.Task]domain.TaskState{
		then: domain.TaskSucceeded, skipped: domain.TaskCanceled, failed: domain.TaskFailed, chained: domain.TaskCanceled, all: domain.TaskSucceeded,
	} {
		got := b.ended(task.ID)
		if got.State != want || want != domain.TaskSucceeded && (got.Error == nil || got.Error.Code != domain.TaskDependencyFailed || got.Attempts != 0) {
			t.Errorf("want %s: %+v, %+v", want, got, got.Error)
		}
	}
	if got := b.lines("order"); !slices.Equal(got, []string{"first", "then", "then"}) {
		t.Errorf("they ran as %v", got)
	}
	r := run("true")
	r.After = []domain.ID{domain.NewID()}
	var e *errors.Error
	if _, err := b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: []vmm.Run{r}}); !errors.As(err, &e) || e.Code != errors.NotFound || e.Field != "after" {
		t.Errorf("after a task that is not there: %v", err)
	}
}

// Of a project so many go on at a time, a group is counted and canceled as one,
// and a key makes it once.
func TestGroup(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(b *bed, _ *worker.Config) { b.config.PerProject = 2 })
	var runs []vmm.Run
	for range 6 {
		runs = append(runs, run(`echo + >>%s/turns; sleep 0.05; echo - >>%s/turns`, b.dir, b.dir))
	}
	req := vmm.CreateRuns{Runs: runs, Group: true, IdempotencyKey: "k", RequestDigest: "d"}
	tasks, err := b.CreateRuns(b.ctx, b.by, req)
	must(t, err)
	again, err := b.CreateRuns(b.ctx, b.by, req)
	must(t, err)
	if len(again) != 6 || again[0].GroupID != tasks[0].GroupID {
		t.Errorf("the same key made %d others", len(again))
	}
	for _, task := range tasks {
		b.ended(task.ID)
	}
	running, most := 0, 0
	for _, turn := range b.lines("turns") {
		if running++; turn == "-" {
			running -= 2
		}
		most = max(most, running)
	}
	if n := len(b.lines("turns")); n != 12 || most > 2 {
		t.Errorf("%d turns, %d at once", n, most)
	}
	g, err := b.GetTaskGroup(b.ctx, b.by, tasks[0].GroupID)
	if err != nil || g.Counts[domain.TaskSucceeded] != 6 || len(g.Counts) != 1 {
		t.Errorf("%+v, %v", g, err)
	}
	other := vmm.Caller{ProjectID: domain.NewID()}
	if _, err := b.GetTaskGroup(b.ctx, other, tasks[0].GroupID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("another project's group: %v", err)
	}

	for i := range runs {
		runs[i] = run("exec sleep 600")
	}
	tasks, err = b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: runs, Group: true})
	must(t, err)
	started := make(chan error, len(tasks))
	for _, task := range tasks {
		go func() {
			_, err := b.TaskExecution(b.ctx, b.by, task.ID, true)
			started <- err
		}()
	}
	must(t, <-started)
	_, err = b.CancelTaskGroup(b.ctx, b.by, tasks[0].GroupID)
	must(t, err)
	for range len(tasks) - 1 {
		<-started
	}
	for _, task := range tasks {
		if got := b.ended(task.ID); got.State != domain.TaskCanceled {
			t.Errorf("%+v", got)
		} else if got.VMID != "" {
			b.gone(got)
		}
	}
}

// Runs for whose VMs there is no room wait, and that counts as no attempt.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(_ *bed, c *worker.Config) { c.Capacity.MemoryBytes = 1 << 30 })
	holder := b.create(run("exec sleep 600"))[0]
	_, err := b.TaskExecution(b.ctx, b.by, holder.ID, true)
	must(t, err)
	waits := b.create(run("true"))[0]
	b.until(waits.ID, func(t *domain.Task) bool { return t.Error != nil })
	if got := b.task(waits.ID); got.State == domain.TaskFailed || got.Error.Code != string(errors.CapacityExhausted) {
		t.Errorf("%+v, %+v", got, got.Error)
	}
	done := b.create(run("true"))[0]
	_, err = b.CancelTask(b.ctx, b.by, holder.ID)
	must(t, err)
	for _, id := range []domain.ID{waits.ID, done.ID} {
		if got := b.ended(id); got.State != domain.TaskSucceeded || got.Attempts != 1 {
			t.Errorf("%+v, %+v", got, got.Error)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for field, change := range map[string]func(*vmm.Run){
		"timeout_ms":    func(r *vmm.Run) { r.Command.Timeout = 0 },
		"max_attempts":  func(r *vmm.Run) { r.MaxAttempts = domain.MaxTaskAttempts + 1 },
		"backoff_ms":    func(r *vmm.Run) { r.Backoff = -1 },
		"stdin":         func(r *vmm.Run) { r.Stdin = make([]byte, domain.MaxTaskStdin+1) },
		"files":         func(r *vmm.Run) { r.Files = []vmm.RunFile{{Path: "/"}} },
		"results":       func(r *vmm.Run) { r.Results = make([]string, domain.MaxTaskResults+1) },
		"after":         func(r *vmm.Run) { r.After = []domain.ID{"x"} },
		"after_failure": func(r *vmm.Run) { r.AfterFailure = "hope" },
		"args":          func(r *vmm.Run) { r.Command.Args = nil },
		"template":      func(r *vmm.Run) { r.VM.Template = "//" },
	} {
		r := run("true")
		change(&r)
		var e *errors.Error
		if _, err := b.CreateRuns(b.ctx, b.by, vmm.CreateRuns{Runs: []vmm.Run{run("true"), r}}); !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	list, err := b.ListTasks(b.ctx, b.by, vmm.TaskFilter{Kind: "run", Page: storage.Page{}})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("made all the same: %v, %v", list.Items, err)
	}
}
