package worker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// told lists the states that events told of a worker, oldest first.
func (b *bed) told(worker domain.ID) (out []string) {
	b.t.Helper()
	must(b.t, b.store.View(b.ctx, func(tx storage.Tx) error {
		all, err := tx.Outbox().List(b.ctx, storage.EventFilter{Limit: storage.MaxPage})
		for _, e := range all {
			if e.Subject == worker {
				out = append(out, e.Type)
			}
		}
		return err
	}))
	return out
}

func (b *bed) vm(id domain.ID) *domain.VM {
	b.t.Helper()
	vm, err := b.GetVM(b.ctx, b.by, id)
	must(b.t, err)
	return vm
}

// onEach makes a VM on each worker of a fleet.
func (f *fleet) onEach(req vmm.CreateVM) (one, other *domain.VM) {
	f.one.t.Helper()
	one = f.one.running(vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 2 << 30}})
	f.one.template("second", "/")
	req.Template = "second"
	other = f.other.running(req)
	if one.WorkerID != f.one.worker.ID() || other.WorkerID != f.other.worker.ID() {
		f.one.t.Fatalf("VMs on %s and %s", one.WorkerID, other.WorkerID)
	}
	return one, other
}

// A worker that dies takes nothing with it but the way to its VMs, and finds
// all that was asked of it when it is back.
func TestAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	here, lost := f.onEach(vmm.CreateVM{})
	doomed := other.running(vmm.CreateVM{Template: "second"})
	resting := other.running(vmm.CreateVM{Template: "second"})
	for _, vm := range []*domain.VM{lost, resting} {
		_, x := one.sh(vm.ID, "true")
		if all := one.executions(vm.ID); len(all) != 1 || all[0].ID != x.ID {
			t.Errorf("%+v", all)
		}
	}
	_, err := f.StopVM(one.ctx, one.by, resting.ID)
	must(t, err)
	_, err = f.WaitVM(one.ctx, one.by, resting.ID)
	must(t, err)

	f.silent(one, other)
	id := f.crash(other)
	// Accepted for a worker that is not known to be away.
	early, err := f.CreateVM(one.ctx, one.by, vmm.CreateVM{Template: "second"})
	must(t, err)
	waited := make(chan error, 1)
	go func() {
		_, err := f.WaitVM(one.ctx, one.by, early.ID)
		waited <- err
	}()
	f.silent(one)
	f.silent(one)
	refused(t, <-waited, errors.Unavailable)

	for _, vm := range []*domain.VM{lost, doomed, early} {
		if got := one.vm(vm.ID); got.State() != domain.Unreachable || got.UnreachableSince == nil || got.WorkerID != id || got.MachineID != vm.MachineID {
			t.Errorf("%s since %v on %s", got.State(), got.UnreachableSince, got.WorkerID)
		}
	}
	if got := one.vm(resting.ID); got.State() != domain.Stopped || got.UnreachableSince == nil {
		t.Errorf("what rests is %s", got.State())
	}
	// What is written of their executions is told, and whether that is all.
	for vm, all := range map[*domain.VM]bool{lost: false, resting: true} {
		l, err := f.ListExecutions(one.ctx, one.by, vm.ID, vmm.Page{})
		must(t, err)
		if len(l.Items) != 1 || (l.Away == nil) != all || !all && !errors.HasCode(l.Away, errors.Unavailable) {
			t.Errorf("%d executions of %s, away: %v", len(l.Items), vm.ID, l.Away)
		}
	}
	list, err := f.ListVMs(one.ctx, one.by, vmm.VMFilter{States: []domain.ObservedState{domain.Running}})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].ID != here.ID {
		t.Errorf("%d VMs run", len(list.Items))
	}
	_, err = f.StartExecution(one.ctx, one.by, lost.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"true"}}})
	refused(t, err, errors.Unavailable)
	if errors.Public(err).RetryAfter == 0 {
		t.Error("not told when to ask again")
	}
	_, err = f.CreateVM(one.ctx, one.by, vmm.CreateVM{Template: "second"})
	refused(t, err, errors.Unavailable)
	one.template("third", "/")
	third, err := f.GetTemplate(one.ctx, one.by, "third")
	must(t, err)
	if third.Builds[0].WorkerID != one.worker.ID() {
		t.Errorf("work for %s", third.Builds[0].WorkerID)
	}
	if out, _ := one.sh(here.ID, "echo here"); out != "here\n" {
		t.Errorf("%q", out)
	}
	_, err = f.DeleteVM(one.ctx, one.by, doomed.ID)
	must(t, err)
	if got := one.vm(doomed.ID); got.Observed == domain.Deleted {
		t.Error("deleted by nobody")
	}

	f.again(other)
	if other.worker.ID() != id {
		t.Fatal("another worker is back")
	}
	for _, vm := range []*domain.VM{lost, early} {
		if got, err := f.WaitVM(one.ctx, one.by, vm.ID); err != nil || got.State() != domain.Running {
			t.Errorf("%v, %v", got, err)
		}
		if l, err := f.ListExecutions(one.ctx, one.by, vm.ID, vmm.Page{}); err != nil || l.Away != nil {
			t.Errorf("%v, %v", l.Away, err)
		}
		if out, _ := one.sh(vm.ID, "echo back"); out != "back\n" {
			t.Errorf("%q", out)
		}
	}
	if got := one.vm(lost.ID); got.MachineID != lost.MachineID || got.Epoch != lost.Epoch {
		t.Errorf("another machine: %+v", got)
	}
	if got, err := f.WaitVM(one.ctx, one.by, doomed.ID); err != nil || got.Observed != domain.Deleted {
		t.Errorf("%v, %v", got, err)
	}
	want := []string{events.WorkerJoined, events.WorkerReady, events.WorkerAway, events.WorkerReady}
	if got := one.told(id); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	// So it is told of each VM, but of none for which nothing has changed.
	reach := func(vm domain.ID) []string {
		return slices.DeleteFunc(one.told(vm), func(kind string) bool { return kind != events.VMUnreachable && kind != events.VMReachable })
	}
	want = []string{events.VMUnreachable, events.VMReachable}
	for _, vm := range []*domain.VM{lost, early} {
		if got := reach(vm.ID); !slices.Equal(got, want) {
			t.Errorf("told of a VM is %v", got)
		}
	}
	for _, vm := range []*domain.VM{resting, here} {
		if got := reach(vm.ID); len(got) != 0 {
			t.Errorf("told of a VM that rests, or is elsewhere, is %v", got)
		}
	}
}

// A worker whose signs of life do not come through is away, works on, and is
// back by the next one.
func TestAwayAndAlive(t *testing.T) {
	t.Parallel()
	f := newFleet(t, silentByItself)
	one, other := f.one, f.other
	_, lost := f.onEach(vmm.CreateVM{})
	f.silent(one)
	if got := one.vm(lost.ID); got.State() != domain.Unreachable {
		t.Fatalf("%s", got.State())
	}
	_, err := f.DeleteVM(one.ctx, one.by, lost.ID)
	must(t, err)
	f.silent(one, other)
	if got, err := f.WaitVM(one.ctx, one.by, lost.ID); err != nil || got.Observed != domain.Deleted {
		t.Errorf("%v, %v", got, err)
	}

	// An orderly end is told at once.
	id := other.worker.ID()
	f.cut(other)
	other.down()
	w, err := f.GetWorker(one.ctx, one.by, "other")
	must(t, err)
	if w.ID != id || w.State != domain.WorkerAway {
		t.Errorf("%+v", w)
	}
	must(t, f.Review(one.ctx))
	want := []string{events.WorkerJoined, events.WorkerReady, events.WorkerAway, events.WorkerReady, events.WorkerAway}
	if got := one.told(id); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// A cordoned worker takes nothing new and keeps what it has, and is so after it
// was away.
func TestCordon(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	_, vm := f.onEach(vmm.CreateVM{})
	for range 2 {
		w, err := f.CordonWorker(one.ctx, one.by, "other")
		must(t, err)
		if w.State != domain.WorkerCordoned || !w.Cordoned {
			t.Errorf("%+v", w)
		}
	}
	id := other.worker.ID()
	_, err := f.CreateVM(one.ctx, one.by, vmm.CreateVM{Template: "second"})
	refused(t, err, errors.CapacityExhausted)
	if errors.Public(err).RetryAfter == 0 {
		t.Error("not told when to ask again")
	}
	if out, _ := one.sh(vm.ID, "echo here"); out != "here\n" {
		t.Errorf("%q", out)
	}
	_, err = f.StopVM(one.ctx, one.by, vm.ID)
	must(t, err)
	_, err = f.WaitVM(one.ctx, one.by, vm.ID)
	must(t, err)
	_, err = f.StartVM(one.ctx, one.by, vm.ID)
	must(t, err)
	if got, err := f.WaitVM(one.ctx, one.by, vm.ID); err != nil || got.Observed != domain.Running {
		t.Errorf("%v, %v", got, err)
	}

	f.crash(other)
	f.silent(one)
	f.again(other)
	if w, err := f.GetWorker(one.ctx, one.by, id.String()); err != nil || w.State != domain.WorkerCordoned {
		t.Errorf("%+v, %v", w, err)
	}
	_, err = f.CordonWorker(one.ctx, one.by, "node")
	must(t, err)
	_, err = f.InstallTools(one.ctx, one.by, []string{"go@1"})
	refused(t, err, errors.CapacityExhausted)
	for range 2 {
		w, err := f.UncordonWorker(one.ctx, one.by, "other")
		must(t, err)
		if w.State != domain.WorkerReady {
			t.Errorf("%+v", w)
		}
	}
	one.running(vmm.CreateVM{Template: "second"})
	_, err = f.CordonWorker(one.ctx, one.by, "nobody")
	refused(t, err, errors.NotFound)
	want := []string{
		events.WorkerJoined, events.WorkerReady, events.WorkerCordoned, events.WorkerAway, events.WorkerCordoned, events.WorkerReady,
	}
	if got := one.told(id); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// The VMs of a drained worker end by themselves or, at its time, as their
// timeout would have them.
func TestDrainedWorker(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	_, killed := f.onEach(vmm.CreateVM{})
	stopped := other.running(vmm.CreateVM{Template: "second", OnTimeout: domain.TimeoutStop})
	resting := other.running(vmm.CreateVM{Template: "second"})
	_, err := f.StopVM(one.ctx, one.by, resting.ID)
	must(t, err)
	_, err = f.WaitVM(one.ctx, one.by, resting.ID)
	must(t, err)

	_, err = f.DrainWorker(one.ctx, one.by, "other", vmm.DrainWorker{Within: domain.MaxDrain + 1})
	refused(t, err, errors.InvalidArgument)
	first, err := f.DrainWorker(one.ctx, one.by, "other", vmm.DrainWorker{Within: time.Hour})
	must(t, err)
	w, err := f.DrainWorker(one.ctx, one.by, "other", vmm.DrainWorker{Within: 2 * time.Hour})
	must(t, err)
	if w.State != domain.WorkerCordoned || w.DrainAt == nil || !w.DrainAt.Equal(*first.DrainAt) || w.VMs != 3 || w.Active != 2 {
		t.Errorf("%+v", w)
	}
	_, err = f.StartVM(one.ctx, one.by, resting.ID)
	refused(t, err, errors.CapacityExhausted)
	f.silent(one, other)
	if got := one.vm(killed.ID); got.Desired != domain.WantRunning {
		t.Errorf("ended before its time: %+v", got)
	}

	// Its time has come, and nobody but the worker is there to see it.
	one.late.Add(int64(time.Hour))
	for range 2 {
		left, err := other.worker.Heartbeat(one.ctx)
		must(t, err)
		if left == nil || *left > 0 {
			t.Errorf("%v", left)
		}
	}
	for vm, want := range map[*domain.VM]domain.ObservedState{killed: domain.Deleted, stopped: domain.Stopped, resting: domain.Stopped} {
		got, err := f.WaitVM(one.ctx, one.by, vm.ID)
		must(t, err)
		if got.Observed != want {
			t.Errorf("it is %s", got.Observed)
		}
		if vm != resting && (got.Tombstone == nil || got.Tombstone.Cause != domain.CauseDrained) {
			t.Errorf("%+v", got.Tombstone)
		}
	}
	if w, err = f.GetWorker(one.ctx, one.by, "other"); err != nil || w.Active != 0 || w.VMs != 2 {
		t.Errorf("%+v, %v", w, err)
	}

	w, err = f.UncordonWorker(one.ctx, one.by, "other")
	must(t, err)
	if w.State != domain.WorkerReady || w.DrainAt != nil {
		t.Errorf("%+v", w)
	}
	_, err = f.StartVM(one.ctx, one.by, resting.ID)
	must(t, err)
	one.running(vmm.CreateVM{Template: "second"})
}

// A build that a drained worker has begun comes to its end, and is counted until then.
func TestDrainedWorkerEndsItsBuilds(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	first, err := f.CordonWorker(one.ctx, one.by, one.worker.ID().String())
	must(t, err)
	tasks := func() int {
		t.Helper()
		w, err := f.GetWorker(one.ctx, one.by, "other")
		must(t, err)
		all, err := f.ListWorkers(one.ctx, one.by)
		must(t, err)
		for _, listed := range all {
			if listed.ID == w.ID && listed.Tasks != w.Tasks || listed.ID == first.ID && listed.Tasks != 0 {
				t.Errorf("listed with %d tasks, not %d", listed.Tasks, w.Tasks)
			}
		}
		return w.Tasks
	}
	for dir, state := range map[string]domain.TaskState{"/slow": domain.TaskSucceeded, "/missing": domain.TaskFailed} {
		_, err = f.UncordonWorker(one.ctx, one.by, "other")
		must(t, err)
		held := other.images.hold(dir)
		build, err := f.BuildTemplate(one.ctx, one.by, vmm.BuildTemplate{Name: "built", Source: domain.TemplateSource{Dir: dir}})
		must(t, err)
		<-held
		_, err = f.DrainWorker(one.ctx, one.by, "other", vmm.DrainWorker{})
		must(t, err)
		_, err = other.worker.Heartbeat(one.ctx)
		must(t, err)
		if n := tasks(); n != 1 {
			t.Errorf("%d tasks under way", n)
		}
		close(held)
		if build, err = f.WaitTask(one.ctx, one.by, build.ID); err != nil || build.State != state || (build.Error == nil) != (state == domain.TaskSucceeded) {
			t.Errorf("%s: %+v, %v", dir, build, err)
		}
		if n := tasks(); n != 0 {
			t.Errorf("%d tasks under way at the end", n)
		}
	}
}

// A cordoned worker keeps no warm machines, and has them again after.
func TestCordonEmptiesThePool(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 1)
	b.running(vmm.CreateVM{})
	b.ready(2)
	_, err := b.CordonWorker(b.ctx, b.by, "node")
	must(t, err)
	_, err = b.worker.Heartbeat(b.ctx)
	must(t, err)
	b.ready(0)
	b.down()
	b.up()
	b.ready(0)
	_, err = b.UncordonWorker(b.ctx, b.by, "node")
	must(t, err)
	_, err = b.worker.Heartbeat(b.ctx)
	must(t, err)
	b.ready(2)
}

// Several who look find a worker away once.
func TestReviewTogether(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	id := f.crash(f.other)
	f.one.late.Add(int64(time.Minute))
	_, err := f.one.worker.Heartbeat(f.one.ctx)
	must(t, err)
	looks := make(chan error)
	for range 4 {
		s := f.one.serve(f, f.one.changes)
		go func(s *service.Service) { looks <- s.Review(f.one.ctx) }(s)
	}
	for range 4 {
		must(t, <-looks)
	}
	want := []string{events.WorkerJoined, events.WorkerReady, events.WorkerAway}
	if got := f.one.told(id); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
