package worker_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
)

func TestMainJob(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{Name: "one", Env: map[string]string{"SECRET": "s3cr3t", "BOTH": "vm"}})
	out, x := b.sh(vm.ID, `echo "$SECRET $FROM_IMAGE $BOTH"; echo err >&2; exit 3`)
	if out != "s3cr3t yes vm\nerr\n" && out != "err\ns3cr3t yes vm\n" || x.ExitCode == nil || *x.ExitCode != 3 {
		t.Errorf("%q, %+v", out, x)
	}
	list, err := b.ListExecutions(b.ctx, b.by, vm.ID, vmm.Page{})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].State != domain.ExecutionExited || list.Items[0].OutputBytes != int64(len(out)) ||
		list.Items[0].Command.Args[0] != "sh" {
		t.Errorf("%+v", list.Items)
	}
	if found, err := b.ResolveVM(b.ctx, b.by, "one"); err != nil || found.ID != vm.ID {
		t.Errorf("by name: %v, %v", found, err)
	}
	stranger := vmm.Caller{ProjectID: domain.NewID()}
	if _, err := b.GetExecution(b.ctx, stranger, x.ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("another project's execution: %v", err)
	}
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	gone, err := b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if gone.Observed != domain.Deleted || gone.Tombstone == nil || gone.Tombstone.By != "tester" ||
		gone.Tombstone.LastOutput != out || gone.EnvSealed != nil || gone.MachineID != "" {
		t.Errorf("%+v %+v", gone, gone.Tombstone)
	}
	if got := b.output(x.ID); got != out {
		t.Errorf("the output does not outlive the VM: %q", got)
	}
	if leaks := b.node.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
	if _, err := b.StartExecution(b.ctx, b.by, vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"true"}}}); !errors.HasCode(err, errors.Gone) {
		t.Errorf("exec in a deleted VM: %v", err)
	}
}

func TestCommandsAndSecretsAreSealedAtRest(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{Env: map[string]string{"SECRET": "s3cr3t"}})
	_, x := b.sh(vm.ID, "echo s3cr3t")
	must(t, b.worker.FlushExecutions(b.ctx))
	must(t, b.store.View(b.ctx, func(tx storage.Tx) error {
		row, err := tx.Executions().Get(b.ctx, b.by.ProjectID, x.ID)
		must(t, err)
		stored, err := tx.VMs().Get(b.ctx, b.by.ProjectID, vm.ID)
		must(t, err)
		for name, text := range map[string][]byte{"command": row.CommandSealed, "env": stored.EnvSealed, "token": stored.TokenSealed} {
			if len(text) == 0 || strings.Contains(string(text), "s3cr3t") {
				t.Errorf("%s is stored as %q", name, text)
			}
		}
		return nil
	}))
}

func TestTheSameExecutionIDNeverRunsTwice(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	req := vmm.StartExecution{ID: domain.NewID(), Command: domain.Command{Args: []string{"sh", "-c", "echo run >> runs; cat runs"}}}
	for range 3 {
		x, err := b.StartExecution(b.ctx, b.by, vm.ID, req)
		must(t, err)
		if out := b.output(x.ID); out != "run\n" {
			t.Fatalf("%q", out)
		}
	}
}

// Another request that asks for an execution by a key that was used is refused,
// while it runs, after its end and by a worker that began anew.
func TestAnExecutionKnowsItsRequest(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	req := vmm.StartExecution{ID: domain.NewID(), Command: domain.Command{Args: []string{"sh", "-c", "echo run >> runs; read x; cat runs"}, Stdin: true, Request: "one"}}
	check := func(when string) {
		t.Helper()
		other := req
		other.Command.Request = "two"
		if _, err := b.StartExecution(b.ctx, b.by, vm.ID, other); !errors.HasCode(err, errors.IdempotencyMismatch) {
			t.Errorf("%s: %v", when, err)
		}
		if _, err := b.StartExecution(b.ctx, b.by, vm.ID, req); err != nil {
			t.Errorf("%s, repeated: %v", when, err)
		}
	}
	_, err := b.StartExecution(b.ctx, b.by, vm.ID, req)
	must(t, err)
	check("while it runs")
	b.down()
	b.up()
	check("after a restart")
	must(t, b.CloseStdin(b.ctx, b.by, req.ID))
	if out := b.output(req.ID); out != "run\n" {
		t.Errorf("%q", out)
	}
	b.ended(req.ID)
	check("after its end")
}

func TestFailures(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.node.FailNext(fake.OpCreate, errors.New(errors.NoSpace, "no space is left for the disk"))
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	failed, err := b.WaitVM(b.ctx, b.by, vm.ID)
	if !errors.HasCode(err, errors.NoSpace) || failed.Observed != domain.Failed || !strings.Contains(failed.Reason, "no space") {
		t.Errorf("%v, %+v", err, failed)
	}
	// An agent that answers nonsense.
	b.node.LieNext(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("\x00garbage")) }))
	liar, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	failed, err = b.WaitVM(b.ctx, b.by, liar.ID)
	if err == nil || failed.Observed != domain.Failed || failed.Tombstone == nil {
		t.Errorf("%v, %+v", err, failed)
	}
	for _, id := range []domain.ID{vm.ID, liar.ID} {
		_, err = b.DeleteVM(b.ctx, b.by, id)
		must(t, err)
		if gone, err := b.WaitVM(b.ctx, b.by, id); err != nil || gone.Observed != domain.Deleted {
			t.Errorf("%v, %v", gone, err)
		}
	}
	if leaks := b.node.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
}

func TestDeleteInterruptsACreationThatHangs(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	release := b.node.HangNext(fake.OpCreate)
	defer release()
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	gone, err := b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if gone.Observed != domain.Deleted {
		t.Errorf("%s", gone.Observed)
	}
}

func TestAGuestThatEndsLeavesATombstone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for name, tc := range map[string]struct {
		exit  vmm.Exit
		cause domain.Cause
	}{
		"exit": {vmm.Exit{Known: true, Code: 1}, domain.CauseGuestExit},
		"oom":  {vmm.Exit{Known: true, Signal: 9, OOM: true}, domain.CauseOOM},
	} {
		vm := b.running(vmm.CreateVM{})
		x, err := b.StartExecution(b.ctx, b.by, vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"sleep", "1000"}}})
		must(t, err)
		sub := b.changes.Subscribe(vm.ID)
		b.node.Kill(string(vm.MachineID), tc.exit)
		for {
			changed := sub.Changed()
			now, err := b.GetVM(b.ctx, b.by, vm.ID)
			must(t, err)
			if now.Observed == domain.Stopped {
				if now.Tombstone == nil || now.Tombstone.Cause != tc.cause || now.Desired != domain.WantStopped {
					t.Errorf("%s: %+v", name, now.Tombstone)
				}
				break
			}
			<-changed
		}
		sub.Done()
		// Either the agent still told that the command was killed, or it is lost.
		if end := b.ended(x.ID); end.LostReason == "" && end.Signal == 0 {
			t.Errorf("%s: %+v", name, end)
		}
		// Its disk is kept: it starts again, in a new epoch.
		_, err = b.StartVM(b.ctx, b.by, vm.ID)
		must(t, err)
		again, err := b.WaitVM(b.ctx, b.by, vm.ID)
		if err != nil || again.Epoch != vm.Epoch+1 || again.Tombstone != nil {
			t.Errorf("%s: %v, %+v", name, err, again)
		}
	}
}

// The worker ends and comes back while a command writes: the VM is taken up in
// its epoch, and the output has every byte once.
func TestRestartTakesUpWhatRuns(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	x, err := b.StartExecution(b.ctx, b.by, vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{
		"sh", "-c", `i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; sleep 0.002; done; exit 9`}}})
	must(t, err)
	for range 3 {
		b.down()
		b.up()
	}
	var want strings.Builder
	for i := 1; i <= 400; i++ {
		want.WriteString(itoa(i) + "\n")
	}
	if got := b.output(x.ID); got != want.String() {
		t.Errorf("%d bytes of %d", len(got), want.Len())
	}
	if row := b.ended(x.ID); row.ExitCode == nil || *row.ExitCode != 9 {
		t.Errorf("%+v", row)
	}
	now, err := b.GetVM(b.ctx, b.by, vm.ID)
	if err != nil || now.Epoch != vm.Epoch || now.Observed != domain.Running {
		t.Errorf("%v, %+v", err, now)
	}
}

func itoa(n int) string {
	var digits []byte
	for ; n > 0; n /= 10 {
		digits = append(digits, byte('0'+n%10))
	}
	slices.Reverse(digits)
	return string(digits)
}

func TestTimeDecides(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	soon := 300 * time.Millisecond
	dying, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Timeout: &soon})
	must(t, err)
	idle := b.running(vmm.CreateVM{OnTimeout: domain.TimeoutStop})
	busy, err := b.StartExecution(b.ctx, b.by, idle.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"sleep", "0.6"}}})
	must(t, err)
	_, err = b.PatchVM(b.ctx, b.by, idle.ID, vmm.PatchVM{IdleTimeout: &soon}) // in use: its idle time has not begun
	must(t, err)
	if x := b.ended(busy.ID); x.ExitCode == nil || *x.ExitCode != 0 {
		t.Errorf("an execution was cut off: %+v", x)
	}
	await := func(id domain.ID, state domain.ObservedState) *domain.VM {
		sub := b.changes.Subscribe(id)
		defer sub.Done()
		for {
			changed := sub.Changed()
			vm, err := b.GetVM(b.ctx, b.by, id)
			must(t, err)
			if vm.Observed == state {
				return vm
			}
			select {
			case <-changed:
			case <-b.ctx.Done():
				t.Fatalf("still %s", vm.Observed)
			}
		}
	}
	if vm := await(dying.ID, domain.Deleted); vm.Tombstone.Cause != domain.CauseDeadline || vm.Tombstone.By != "worker" {
		t.Errorf("%+v", vm.Tombstone)
	}
	if vm := await(idle.ID, domain.Stopped); vm.Tombstone.Cause != domain.CauseIdle {
		t.Errorf("%+v", vm.Tombstone)
	}
}

func TestForksAreSideBySideAndLeaveNoSnapshot(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{Env: map[string]string{"FROM": "origin"}})
	b.sh(vm.ID, "echo origin > f")
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 3, vmm.CreateVM{})
	must(t, err)
	for i, f := range forks {
		_, err := b.WaitVM(b.ctx, b.by, f.ID)
		must(t, err)
		if out, _ := b.sh(f.ID, "cat f; echo $FROM; echo "+itoa(i+1)+" > f"); out != "origin\norigin\n" {
			t.Errorf("fork %d: %q", i, out)
		}
	}
	if out, _ := b.sh(vm.ID, "cat f"); out != "origin\n" {
		t.Errorf("the origin has %q", out)
	}
	must(t, b.store.View(b.ctx, func(tx storage.Tx) error {
		left, err := tx.Snapshots().List(b.ctx, storage.SnapshotFilter{IncludeEphemeral: true})
		if err == nil && len(left.Items) > 0 {
			t.Errorf("snapshots are left: %+v", left.Items[0])
		}
		return err
	}))
}

// A request that is sent again, because its answer was lost with the server,
// finds the forks that it made.
func TestAKeyYieldsTheSameForks(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	req := vmm.CreateVM{IdempotencyKey: "k", RequestDigest: "d"}
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 3, req)
	must(t, err)
	again, err := b.ForkVM(b.ctx, b.by, vm.ID, 3, req)
	must(t, err)
	seen := map[domain.ID]bool{}
	for i, f := range forks {
		seen[f.ID] = domain.IsID(string(f.ID))
		if again[i].ID != f.ID {
			t.Errorf("fork %d is %s, then %s", i, f.ID, again[i].ID)
		}
		_, err := b.WaitVM(b.ctx, b.by, f.ID)
		must(t, err)
	}
	if len(seen) != 3 {
		t.Errorf("IDs: %v", seen)
	}
	list, err := b.ListVMs(b.ctx, b.by, vmm.VMFilter{})
	must(t, err)
	if len(list.Items) != 4 {
		t.Errorf("%d VMs", len(list.Items))
	}
	for name, other := range map[string]struct {
		origin domain.ID
		count  int
		digest string
	}{"digest": {vm.ID, 3, "e"}, "count": {vm.ID, 2, "d"}, "origin": {forks[0].ID, 3, "d"}} {
		if _, err := b.ForkVM(b.ctx, b.by, other.origin, other.count, vmm.CreateVM{IdempotencyKey: "k", RequestDigest: other.digest}); !errors.HasCode(err, errors.IdempotencyMismatch) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func TestSnapshotsOutliveTheirVM(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	b.sh(vm.ID, "echo kept > f")
	snap, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "keep"})
	must(t, err)
	if _, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{Name: "keep"}); !errors.HasCode(err, errors.AlreadyExists) {
		t.Errorf("the same name again: %v", err)
	}
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	again := b.running(vmm.CreateVM{Template: "keep"})
	if out, _ := b.sh(again.ID, "cat f"); out != "kept\n" {
		t.Errorf("%q", out)
	}
	must(t, b.DeleteSnapshot(b.ctx, b.by, snap.ID))
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "keep"}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("from a deleted snapshot: %v", err)
	}
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	most := vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 5 << 30}}
	first := b.running(most)
	if _, err := b.CreateVM(b.ctx, b.by, most); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("more than there is: %v", err)
	}
	_, err := b.StopVM(b.ctx, b.by, first.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, first.ID)
	must(t, err)
	second := b.running(most)
	if _, err := b.StartVM(b.ctx, b.by, first.ID); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("starting again without room: %v", err)
	}
	_, err = b.DeleteVM(b.ctx, b.by, second.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, second.ID)
	must(t, err)
	_, err = b.StartVM(b.ctx, b.by, first.ID)
	must(t, err)
	for _, bad := range []struct {
		req  vmm.CreateVM
		code errors.Code
	}{
		{vmm.CreateVM{Driver: "nosuch"}, errors.Unsupported},
		{vmm.CreateVM{MinIsolation: domain.IsolationMicroVM}, errors.Unsupported},
		{vmm.CreateVM{Template: "nosuch"}, errors.NotFound},
		{vmm.CreateVM{Template: "base:nosuch"}, errors.NotFound},
		{vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 1}}, errors.InvalidArgument},
		{vmm.CreateVM{Name: "a/b"}, errors.InvalidArgument},
	} {
		if _, err := b.CreateVM(b.ctx, b.by, bad.req); !errors.HasCode(err, bad.code) {
			t.Errorf("%+v: %v, want %s", bad.req, err, bad.code)
		}
	}
}

func TestIdempotentCreation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	req := vmm.CreateVM{IdempotencyKey: "k", RequestDigest: "d"}
	one := b.running(req)
	two, err := b.CreateVM(b.ctx, b.by, req)
	if err != nil || two.ID != one.ID {
		t.Errorf("%v, %v", two, err)
	}
	req.RequestDigest = "other"
	if _, err := b.CreateVM(b.ctx, b.by, req); !errors.HasCode(err, errors.IdempotencyMismatch) {
		t.Errorf("%v", err)
	}
}

func TestPauseAndAutoResume(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{AutoResume: true})
	_, err := b.PauseVM(b.ctx, b.by, vm.ID, "")
	must(t, err)
	if paused, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil || paused.Observed != domain.Paused {
		t.Fatalf("%v, %v", paused, err)
	}
	if out, _ := b.sh(vm.ID, "echo awake"); out != "awake\n" {
		t.Errorf("%q", out)
	}
	if _, err := b.PauseVM(b.ctx, b.by, vm.ID, domain.PauseMemory); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("a mode that the driver lacks: %v", err)
	}
}

// What suspends a VM keeps it from being deleted by one and the same write: nobody who
// leaves or dies in between has it deleted while it is paused.
func TestSuspendedVMsAreNotDeletedByTime(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	hour := time.Hour
	for name, c := range map[string]struct {
		memory bool
		on     domain.OnTimeout
		want   domain.DesiredState
		left   bool
	}{
		"paused":                        {true, domain.TimeoutKill, domain.WantPaused, false},
		"stopped":                       {false, domain.TimeoutKill, domain.WantStopped, false},
		"paused, and by its time, too":  {true, domain.TimeoutPause, domain.WantPaused, true},
		"stopped, and by its time, too": {false, domain.TimeoutStop, domain.WantStopped, true},
	} {
		vm := b.running(vmm.CreateVM{Timeout: &hour, OnTimeout: c.on, ResumeFor: hour})
		asked, err := b.SuspendVM(b.ctx, b.by, vm.ID, c.memory)
		must(t, err)
		if asked.Desired != c.want || (asked.Deadline != nil) != c.left || asked.DeadlineGen == vm.DeadlineGen && !c.left {
			t.Errorf("%s: it is to be %s by %v", name, asked.Desired, asked.Deadline)
		}
		if now, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil || (now.Deadline != nil) != c.left || now.Desired != c.want {
			t.Errorf("%s: it is %+v, %v", name, now, err)
		}
		if on, err := b.StartVM(b.ctx, b.by, vm.ID); err != nil || on.Deadline == nil {
			t.Errorf("%s: when it goes on it has no deadline: %v", name, err)
		}
	}
	vm := b.running(vmm.CreateVM{Timeout: &hour})
	bounded := b.serve(b, b.changes, func(c *service.Config) { c.MaxTimeout = hour })
	if asked, err := bounded.SuspendVM(b.ctx, b.by, vm.ID, true); err != nil || asked.Deadline == nil {
		t.Errorf("where none may be without a deadline it has none: %v", err)
	}
}

func TestDrainStopsEverything(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vms := []*domain.VM{b.running(vmm.CreateVM{}), b.running(vmm.CreateVM{})}
	must(t, b.worker.Drain(b.ctx, "shutdown"))
	for _, vm := range vms {
		now, err := b.GetVM(b.ctx, b.by, vm.ID)
		if err != nil || now.Observed != domain.Stopped || now.Tombstone.By != "shutdown" {
			t.Errorf("%v, %+v", err, now)
		}
	}
}

func TestTasks(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	bad, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{Name: "bad", Source: domain.TemplateSource{Dir: "/missing"}})
	must(t, err)
	if done, err := b.WaitTask(b.ctx, b.by, bad.ID); err != nil || done.State != domain.TaskFailed || done.Error.Code != string(errors.NotFound) {
		t.Errorf("%+v, %v", done, err)
	}
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	task, err := b.TaskForVM(b.ctx, b.by, "create", vm.ID, nil)
	must(t, err)
	if done, err := b.WaitTask(b.ctx, b.by, task.ID); err != nil || done.State != domain.TaskSucceeded {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := b.CancelTask(b.ctx, b.by, task.ID); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("canceling an ended task: %v", err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	release := b.node.HangNext(fake.OpCreate)
	defer release()
	slow, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	if _, err := b.WaitVM(ctx, b.by, slow.ID); !errors.HasCode(err, errors.DeadlineExceeded) {
		t.Errorf("a wait that is over: %v", err)
	}
}

func TestEventsTellInOrder(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	b.sh(vm.ID, "true")
	must(t, b.worker.FlushExecutions(b.ctx))
	_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	list, err := b.ListEvents(b.ctx, b.by, 0, 1000)
	must(t, err)
	var kinds []string
	last := int64(0)
	for _, ev := range list {
		if ev.Seq <= last {
			t.Errorf("cursor %d after %d", ev.Seq, last)
		}
		last = ev.Seq
		if ev.VMID == vm.ID {
			kinds = append(kinds, ev.Type)
		}
	}
	want := []string{"vm.created", "vm.running", "execution.started", "execution.exited", "vm.updated", "vm.deleted"}
	if !slices.Equal(kinds, want) {
		t.Errorf("%v", kinds)
	}
}
