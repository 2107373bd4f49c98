package worker_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// waitFor is a start command that may be used once a file of the host is there.
func waitFor(file string) domain.WarmUp {
	return domain.WarmUp{Start: "until test -e " + file + "; do sleep 0.01; done; touch ready; exec sleep 1000", Ready: "echo looked; test -e ready"}
}

// creating asks for a VM and waits until its start command runs.
func (b *bed) creating(req vmm.CreateVM) domain.ID {
	b.t.Helper()
	vm, err := b.CreateVM(b.ctx, b.by, req)
	must(b.t, err)
	poll := time.NewTicker(10 * time.Millisecond) // executions are told of by no change of the VM
	defer poll.Stop()
	for len(b.executions(vm.ID)) < 2 {
		select {
		case <-poll.C:
		case <-b.ctx.Done():
			b.t.Fatal("nothing was started in it")
		}
	}
	return vm.ID
}

// Who waits from the beginning is not told that a VM runs before it is ready, whatever
// else changes meanwhile.
func TestWhoWaitsIsToldWhenItIsReady(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	signal := filepath.Join(t.TempDir(), "go")
	b.build(vmm.BuildTemplate{Name: "slow", Warm: waitFor(signal)})
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "slow"})
	must(t, err)
	told := make(chan *domain.VM, 1)
	go func() {
		now, err := b.WaitVM(b.ctx, b.by, vm.ID)
		if err != nil {
			t.Error(err)
		}
		told <- now
	}()
	for len(b.executions(vm.ID)) < 2 { // until its start command runs
		b.changes.Notify(vm.ID)
		time.Sleep(time.Millisecond)
	}
	if row, live := b.worker.Live(vm.ID); live && row.Revision != 0 {
		t.Errorf("a row that is not written has the revision %d", row.Revision)
	}
	for range 20 {
		b.changes.Notify(vm.ID)
		select {
		case now := <-told:
			t.Fatalf("it is told to be %s before it is ready", now.Observed)
		case <-time.After(time.Millisecond):
		}
	}
	must(t, os.WriteFile(signal, nil, 0o600))
	if now := <-told; now.Observed != domain.Running {
		t.Errorf("it is %s", now.Observed)
	}
}

// A VM is told to run once its template's ready command has succeeded; until
// then a worker that dies, or ends, is gone on from by the next.
func TestVMsRunOnceTheyAreReady(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	signal := filepath.Join(t.TempDir(), "go")
	b.build(vmm.BuildTemplate{Name: "slow", Warm: waitFor(signal)})
	id := b.creating(vmm.CreateVM{Template: "slow"})
	for _, end := range []func(){b.crash, b.down} {
		vm, err := b.GetVM(b.ctx, b.by, id)
		must(t, err)
		if vm.Observed == domain.Running {
			t.Fatal("it runs before it is ready")
		}
		end()
		b.up()
	}
	must(t, os.WriteFile(signal, nil, 0o600))
	vm, err := b.WaitVM(b.ctx, b.by, id)
	must(t, err)
	if vm.Observed != domain.Running || vm.Epoch != 1 {
		t.Fatalf("%+v", vm)
	}
	list := b.executions(id)
	if len(list) != 2 || list[0].State != domain.ExecutionExited || list[1].State != domain.ExecutionRunning {
		t.Fatalf("%+v", list)
	}
	if out := b.output(list[0].ID); !strings.HasPrefix(out, "looked\n") {
		t.Errorf("the ready command wrote %q", out)
	}
}

// Machines of the pool have nothing started in them: whose VM one becomes waits, too.
func TestPooledVMsRunOnceTheyAreReady(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *worker.Config) { c.Pool = worker.PoolConfig{Size: 1, Kinds: 2} })
	b.build(vmm.BuildTemplate{Name: "quick", Warm: domain.WarmUp{Start: starter, Ready: "test -e ready"}})
	b.running(vmm.CreateVM{Template: "quick"})
	_, err := b.worker.PoolReady(b.ctx)
	must(t, err)
	vm := b.running(vmm.CreateVM{Template: "quick"})
	phases, err := b.VMTrace(b.ctx, b.by, vm.ID)
	must(t, err)
	if phases[0].Name != "claim" {
		t.Errorf("it was not from the pool: %v", phases)
	}
	if out, x := b.sh(vm.ID, "test -e ready && echo ready"); out != "ready\n" {
		t.Errorf("%q, %+v", out, x)
	}
}

func TestVMsThatAreNeverReady(t *testing.T) {
	t.Parallel()
	within := func(limit time.Duration) *bed {
		return newBed(t, func(c *worker.Config) { c.StartUpTimeout = limit; c.Pool = worker.PoolConfig{Size: 1, Kinds: 8} })
	}
	// Only where the time is to be up it is short.
	patient, hasty := within(0), within(time.Second)
	for name, tc := range map[string]struct {
		b    *bed
		warm domain.WarmUp
		want string
	}{
		"in time":         {hasty, domain.WarmUp{Start: "exec sleep 1000", Ready: "echo not yet; false"}, "did not succeed in 1s"},
		"as it ended":     {patient, domain.WarmUp{Start: "echo why; exit 3", Ready: "sleep 1000"}, "ended with exit code 3 before it was ready: why"},
		"nor can be":      {patient, domain.WarmUp{Start: "exec sleep 1000", Ready: "kill -9 $PPID"}, "its template's ready command ended with exit code"},
		"with a try hung": {hasty, domain.WarmUp{Start: "true", Ready: "exec sleep 1000"}, "did not succeed in 1s: it wrote nothing"},
	} {
		b := tc.b
		b.build(vmm.BuildTemplate{Name: "bad", Warm: tc.warm})
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "bad"})
		must(t, err)
		vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
		if vm == nil || vm.Observed != domain.Failed || !strings.Contains(vm.Reason, tc.want) {
			t.Fatalf("%s: %+v, %v", name, vm, err)
		}
		for _, x := range b.executions(vm.ID) {
			if !x.State.Ended() {
				t.Errorf("%s: left running: %+v", name, x)
			}
		}
		_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, vm.ID)
		must(t, err)
	}
}

// One that ran before keeps its disk.
func TestVMsThatAreNotReadyAgain(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	spoilt := filepath.Join(t.TempDir(), "spoilt")
	b.build(vmm.BuildTemplate{Name: "once", Warm: domain.WarmUp{Start: "exec sleep 1000", Ready: "! test -e " + spoilt + " || kill -9 $PPID"}})
	vm := b.running(vmm.CreateVM{Template: "once"})
	b.sh(vm.ID, "echo kept > file")
	_, err := b.StopVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	must(t, os.WriteFile(spoilt, nil, 0o600))
	_, err = b.StartVM(b.ctx, b.by, vm.ID)
	must(t, err)
	vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
	if vm == nil || vm.Observed != domain.Stopped || vm.Tombstone == nil || !strings.Contains(vm.Tombstone.Detail, "ended with exit code") {
		t.Fatalf("%+v, %v", vm, err)
	}
	must(t, os.Remove(spoilt))
	_, err = b.StartVM(b.ctx, b.by, vm.ID)
	must(t, err)
	vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if out, _ := b.sh(vm.ID, "cat file"); vm.Observed != domain.Running || out != "kept\n" {
		t.Errorf("%s: %q", vm.Observed, out)
	}
}

// A build may be asked to try what its VMs will start; then one that would not
// get ready is no template, and its log says why.
func TestBuildsThatTryWhatTheyStart(t *testing.T) {
	t.Parallel()
	b, hasty := newBed(t), newBed(t, func(c *worker.Config) { c.StartUpTimeout = time.Second })
	log := func(b *bed) string {
		t.Helper()
		info, err := b.GetTemplate(b.ctx, b.by, "tried")
		must(t, err)
		r, err := b.BuildLog(b.ctx, b.by, info.Builds[0].ID, 0, false)
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, errors.Join(err, r.Close()))
		return string(text)
	}
	for name, tc := range map[string]struct {
		b    *bed
		warm domain.WarmUp
		code errors.Code
		says string
	}{
		"it ends":                {b, domain.WarmUp{Start: "echo because; exit 3", Ready: "false"}, errors.InvalidArgument, "start: because"},
		"it ends while one asks": {b, domain.WarmUp{Start: "echo because; exit 3", Ready: "sleep 1"}, errors.InvalidArgument, "start: because"},
		// On a host that is slow not one attempt may fit into its time.
		"never": {hasty, domain.WarmUp{Start: "exec sleep 1000", Ready: "echo no such port; false"}, errors.DeadlineExceeded, ""},
	} {
		b := tc.b
		task := b.build(vmm.BuildTemplate{Name: "tried", Warm: tc.warm, TryStart: true})
		if task.State != domain.TaskFailed || task.Error.Code != string(tc.code) {
			t.Errorf("%s: %+v", name, task)
		}
		if text := log(b); !strings.Contains(text, tc.says) || !strings.Contains(text, "error: ") {
			t.Errorf("%s: the log is\n%s", name, text)
		}
		if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "tried"}); err == nil {
			t.Errorf("%s: there are VMs of it", name)
		}
	}
	task := b.build(vmm.BuildTemplate{Name: "tried", Warm: domain.WarmUp{Start: starter, Ready: "test -e ready"}, TryStart: true})
	if task.State != domain.TaskSucceeded {
		t.Fatalf("%+v: %s", task.Error, log(b))
	}
	for _, b := range []*bed{b, hasty} {
		if leaks := b.node.Leaks(); len(leaks) > 0 {
			t.Errorf("machines are left: %v", leaks)
		}
	}
	if vm := b.running(vmm.CreateVM{Template: "tried"}); vm.Spec.Memory || len(b.executions(vm.ID)) != 2 {
		t.Errorf("its commands are run in each VM, too: %+v", b.executions(vm.ID))
	}
}

// A template's VMs must fit a worker.
func TestTemplatesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{
		Name: "large", Source: domain.TemplateSource{Dir: "/"}, Shape: domain.Resources{MilliCPU: domain.MaxMilliCPU},
	})
	if !errors.HasCode(err, errors.InvalidArgument) || !strings.Contains(err.Error(), "large enough") {
		t.Errorf("%v", err)
	}
	if _, err := b.GetTemplate(b.ctx, b.by, "large"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("there is a template: %v", err)
	}
}
