package worker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// mortal is a store that is gone after some transactions.
type mortal struct {
	storage.Store
	left int
}

func (s *mortal) Update(ctx context.Context, f func(storage.Tx) error) error {
	if s.left--; s.left < 0 {
		return errors.New(errors.Unavailable, "the database is gone")
	}
	return s.Store.Update(ctx, f)
}

// dying is a gateway that dies after so many transactions.
func (f *fleet) dying(after int) *service.Service {
	b := &bed{t: f.one.t, ctx: f.one.ctx, store: &mortal{f.one.store, after}, sealer: f.one.sealer, by: f.one.by}
	return b.serve(f, new(watch.Hub[domain.ID]))
}

// accepted inserts VMs that a worker has accepted and not made.
func (b *bed) accepted(worker domain.ID, n int) {
	b.t.Helper()
	must(b.t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		var errs []error
		for range n {
			errs = append(errs, tx.VMs().Insert(b.ctx, &domain.VM{
				ID: domain.NewID(), ProjectID: b.by.ProjectID, WorkerID: worker, Desired: domain.WantRunning, Observed: domain.Pending,
				Spec: domain.VMSpec{Driver: "fake", Resources: b.config.Capacity}, CreatedAt: b.now().UTC(), UpdatedAt: b.now().UTC(),
			}))
		}
		return errors.Join(errs...)
	}))
}

// A worker that is lost with its host is removed: what it had ends or is gone, and
// says why; what is in the storage stays; and gateways that die over it leave nothing
// that the next one does not end.
func TestALostWorkerIsRemoved(t *testing.T) {
	t.Parallel()
	d := newDepots(t)
	ctx, by, origin, far := d.one.ctx, d.one.by, d.origin, d.far
	id := origin.worker.ID()
	stored, alone := d.kept("stored"), d.kept("alone")
	d.stored(origin, stored)
	d.stored(origin, alone)
	runs := origin.running(vmm.CreateVM{Template: "shared", Name: "runs", Env: map[string]string{"SECRET": "s"}})
	x, err := d.StartExecution(ctx, by, runs.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"sleep", "1000"}}})
	must(t, err)
	_, over := origin.sh(runs.ID, "echo over")
	rests := origin.running(vmm.CreateVM{Template: "shared"})
	_, err = d.StopVM(ctx, by, rests.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, rests.ID)
	must(t, err)
	doomed := origin.running(vmm.CreateVM{Template: "shared"})
	_, err = d.RemoveWorker(ctx, by, id.String(), true)
	refused(t, err, errors.Conflict) // it is there
	d.lost()
	_, err = d.DeleteVM(ctx, by, doomed.ID)
	must(t, err)
	task, err := d.TaskForVM(ctx, by, "delete", doomed.ID, nil)
	must(t, err)
	// A build that it was at.
	now := d.one.now().UTC()
	begun := &domain.Build{ID: domain.NewID(), ProjectID: by.ProjectID, WorkerID: id, State: domain.BuildBuilding, CreatedAt: now}
	build := &domain.Task{
		ID: domain.NewID(), ProjectID: by.ProjectID, Kind: service.TaskBuild, Subject: begun.ID, WorkerID: id, State: domain.TaskRunning,
		CreatedAt: now, UpdatedAt: now, RunAt: now,
	}
	ready := &domain.Build{ID: domain.NewID(), ProjectID: by.ProjectID, WorkerID: id, State: domain.BuildReady, CreatedAt: now}
	volume := &domain.Volume{ID: domain.NewID(), ProjectID: by.ProjectID, Name: "data", WorkerID: id, TokenSealed: []byte("sealed"), CreatedAt: now}
	must(t, d.one.store.Update(ctx, func(tx storage.Tx) error {
		// What was not stored yet, and a memory.
		s, err := tx.Snapshots().Get(ctx, by.ProjectID, alone.ID)
		if err != nil {
			return err
		}
		s.Packed = nil
		m, err := tx.Snapshots().Get(ctx, by.ProjectID, stored.ID)
		if err != nil {
			return err
		}
		m.Kind = domain.SnapshotMemory
		shared, err := tx.Templates().ByName(ctx, by.ProjectID, "shared")
		if err != nil {
			return err
		}
		ready.TemplateID, begun.TemplateID = shared.ID, shared.ID
		return errors.Join(tx.Snapshots().Update(ctx, s), tx.Snapshots().Update(ctx, m), tx.Builds().Insert(ctx, ready), tx.Builds().Insert(ctx, begun),
			tx.Tasks().Insert(ctx, build), tx.Volumes().Insert(ctx, volume))
	}))
	origin.accepted(id, 150) // more than one transaction ends

	_, err = d.RemoveWorker(ctx, by, id.String(), false)
	refused(t, err, errors.Conflict)
	if e := errors.Public(err); !strings.Contains(e.Message, "VMs") || !strings.Contains(e.Message, "volumes") || !strings.Contains(e.Hint, "fenced") {
		t.Errorf("%s; %s", e.Message, e.Hint)
	}
	deaths := 0
	for ; ; deaths++ {
		_, err := d.dying(deaths).RemoveWorker(ctx, by, id.String(), true)
		if err == nil {
			break
		}
		refused(t, err, errors.Unavailable)
	}
	if deaths < 7 {
		t.Errorf("removed in %d transactions", deaths)
	}
	_, err = d.RemoveWorker(ctx, by, id.String(), true)
	refused(t, err, errors.NotFound)

	for _, id := range []domain.ID{runs.ID, rests.ID, doomed.ID} {
		vm := d.one.vm(id)
		if vm.State() != domain.Deleted || vm.EndedAt == nil || vm.WorkerID != "" || vm.MachineID != "" || len(vm.EnvSealed)+len(vm.TokenSealed) > 0 {
			t.Errorf("%+v", vm)
		}
		want := domain.CauseHostLost
		if id == doomed.ID {
			want = domain.CauseRequested
		}
		if vm.Tombstone == nil || vm.Tombstone.Cause != want || want == domain.CauseHostLost && !strings.Contains(vm.Tombstone.Detail, "was lost") {
			t.Errorf("%+v", vm.Tombstone)
		}
		ended := 0
		for _, kind := range d.one.told(id) {
			if kind == events.VMDeleted {
				ended++
			}
		}
		if ended != 1 {
			t.Errorf("its end was told %d times", ended)
		}
	}
	if got, err := d.GetExecution(ctx, by, x.ID); err != nil || got.State != domain.ExecutionLost || !strings.Contains(got.LostReason, "was lost") {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := d.GetExecution(ctx, by, over.ID); err != nil || got.State != domain.ExecutionExited {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = d.Output(ctx, by, over.ID, 0, false)
	refused(t, err, errors.Gone)
	if got, err := d.GetTask(ctx, by, task.ID); err != nil || got.State != domain.TaskSucceeded {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := d.GetTask(ctx, by, build.ID); err != nil || got.State != domain.TaskFailed || !strings.Contains(got.Error.Message, "was lost") {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, d.one.store.View(ctx, func(tx storage.Tx) error {
		for _, id := range []domain.ID{build.Subject, ready.ID} {
			if b, err := tx.Builds().Get(ctx, by.ProjectID, id); err != nil || b.State != domain.BuildError || !strings.Contains(b.Reason, "was lost") {
				t.Errorf("%+v, %v", b, err)
			}
		}
		if used, err := tx.VMs().Count(ctx, by.ProjectID); err != nil || len(used) != 0 {
			t.Errorf("VMs: %v, %v", used, err)
		}
		if all, err := tx.Machines().OnWorker(ctx, id); err != nil || len(all) != 0 {
			t.Errorf("machines: %v, %v", all, err)
		}
		_, err := tx.Settings().Get(ctx, storage.SettingRemoved(id))
		refused(t, err, errors.NotFound)
		return nil
	}))
	_, err = d.GetVolume(ctx, by, "data")
	refused(t, err, errors.NotFound)
	_, err = d.GetSnapshot(ctx, by, alone.ID)
	refused(t, err, errors.NotFound)
	if told := d.one.told(id); told[len(told)-1] != events.WorkerRemoved {
		t.Errorf("%v", told)
	}

	// What is in the storage is of use without it.
	d.has(far, far.running(vmm.CreateVM{Template: "stored"}), "stored")
	again := far.running(vmm.CreateVM{Template: "shared", Name: "runs"})
	_, err = d.DeleteVM(ctx, by, again.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, again.ID)
	must(t, err)
	must(t, d.DeleteTemplate(ctx, by, "shared")) // it sweeps builds that nobody else does
	must(t, d.one.store.View(ctx, func(tx storage.Tx) error {
		_, err := tx.Builds().Get(ctx, by.ProjectID, ready.ID)
		refused(t, err, errors.NotFound)
		return nil
	}))
}

// What holds nothing is removed without more. Its name is free.
func TestAnEmptyWorkerIsRemoved(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, other := f.one, f.other
	_, err := f.RemoveWorker(one.ctx, one.by, "nobody", true)
	refused(t, err, errors.NotFound)
	f.silent(one, other)
	id := f.crash(other)
	f.silent(one)
	w, err := f.RemoveWorker(one.ctx, one.by, "other", false)
	if err != nil || w.ID != id {
		t.Fatalf("%+v, %v", w, err)
	}
	f.again(other)
	if other.worker.ID() == id {
		t.Error("it is what it was")
	}
}

// One that is removed and runs on, for it was cut off alone, or the word was not true,
// does nothing that counts, and learns of it.
func TestARemovedWorkerThatReturns(t *testing.T) {
	t.Parallel()
	f := newFleet(t, silentByItself)
	one, other := f.one, f.other
	_, vm := f.onEach(vmm.CreateVM{OnTimeout: domain.TimeoutStop})
	id := other.worker.ID()
	_, err := f.CordonWorker(one.ctx, one.by, one.worker.ID().String())
	must(t, err)
	held := other.images.hold("/slow")
	build, err := f.BuildTemplate(one.ctx, one.by, vmm.BuildTemplate{Name: "slow", Source: domain.TemplateSource{Dir: "/slow"}})
	must(t, err)
	<-held
	f.silent(one)

	// In the middle of its removal.
	_, err = f.dying(1).RemoveWorker(one.ctx, one.by, "other", true)
	refused(t, err, errors.Unavailable)
	_, err = other.worker.Heartbeat(one.ctx)
	refused(t, err, errors.NotFound)
	if w, err := f.GetWorker(one.ctx, one.by, "other"); err != nil || w.State != domain.WorkerAway {
		t.Errorf("%+v, %v", w, err)
	}
	select {
	case <-other.worker.Removed():
	default:
		t.Error("it does not know")
	}
	_, err = f.RemoveWorker(one.ctx, one.by, "other", true)
	must(t, err)
	_, err = other.worker.Heartbeat(one.ctx)
	refused(t, err, errors.NotFound)

	before := one.vm(vm.ID)
	close(held) // the build comes to its end
	other.node.Kill(string(vm.MachineID), vmm.Exit{At: time.Now()})
	time.Sleep(50 * time.Millisecond)
	if after := one.vm(vm.ID); after.Revision != before.Revision || after.State() != domain.Deleted {
		t.Errorf("%+v", after)
	}
	if got, err := f.GetTask(one.ctx, one.by, build.ID); err != nil || got.State != domain.TaskFailed {
		t.Errorf("%+v, %v", got, err)
	}
	// As a new process with the identity of before.
	f.crash(other)
	other.config.ID = id
	refused(t, other.begin(), errors.NotFound)
	other.link.cut()
	must(t, other.journals.Close())
	other.worker = nil // it did not start
}

// VMs that rest in the storage are looked after by others when the worker that did is
// removed, also where it was about to start them.
func TestVMsInTheStorageOutliveTheirKeeper(t *testing.T) {
	t.Parallel()
	d := newDrained(t)
	ctx, by, origin, far := d.one.ctx, d.one.by, d.origin, d.far
	rests, _ := d.made("rests", vmm.CreateVM{})
	begun, _ := d.made("begun", vmm.CreateVM{})
	doomed, _ := d.made("doomed", vmm.CreateVM{})
	last, _ := d.made("last", vmm.CreateVM{})
	d.drain()
	for _, vm := range []*domain.VM{rests, begun, doomed, last} {
		d.left(vm.ID)
	}
	at, _ := far.node.StopNext(fake.OpCreate)
	_, err := d.StartVM(ctx, by, begun.ID)
	must(t, err)
	<-at
	d.crash(far)
	d.silent(origin)
	_, err = d.DeleteVM(ctx, by, doomed.ID)
	must(t, err)
	_, err = d.RemoveWorker(ctx, by, far.config.Name, true)
	must(t, err)
	// Nobody takes what is new: they have no keeper.
	for _, vm := range []*domain.VM{rests, begun, last} {
		if row := d.one.vm(vm.ID); row.WorkerID != "" || !row.InStorage() || row.Observed != domain.Stopped {
			t.Errorf("%+v", row)
		}
	}
	if row := d.one.vm(doomed.ID); row.State() != domain.Deleted || row.Tombstone.Cause != domain.CauseRequested {
		t.Errorf("%+v", row)
	}
	_, err = d.DeleteVM(ctx, by, last.ID)
	refused(t, err, errors.Unavailable)
	_, err = d.UncordonWorker(ctx, by, origin.worker.ID().String())
	must(t, err)
	d.beat()
	_, err = d.DeleteVM(ctx, by, last.ID)
	must(t, err)
	_, err = d.WaitVM(ctx, by, last.ID)
	must(t, err)
	d.start(origin, rests.ID, "rests")
	d.start(origin, begun.ID, "begun")
}
