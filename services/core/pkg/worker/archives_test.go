package worker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// withArchives keeps archives, and sweeps when it is told to alone.
func withArchives(c *worker.Config) { c.KeepArchives, c.SweepEvery = 90*24*time.Hour, time.Hour }

// archived reads all archives of the bed's project, by the records' IDs, which are
// those of nothing else.
func (b *bed) archived() (archives []*domain.Archive, records map[string]api.ArchivedRecord) {
	b.t.Helper()
	list, err := b.ListArchives(b.ctx, b.by, vmm.Page{})
	must(b.t, err)
	records = map[string]api.ArchivedRecord{}
	for _, a := range list.Items {
		whole, r, err := b.ReadArchive(b.ctx, b.by, a.ID)
		must(b.t, err)
		n := 0
		for lines := bufio.NewScanner(r); lines.Scan(); n++ {
			var rec api.ArchivedRecord
			must(b.t, json.Unmarshal(lines.Bytes(), &rec))
			var id string
			switch rec.Kind {
			case api.ArchivedVM:
				id = rec.VM.ID
			case api.ArchivedExecution:
				id = rec.Execution.ID
			case api.ArchivedTask:
				id = rec.Task.ID
			}
			if _, twice := records[id]; twice || id == "" {
				b.t.Errorf("the record %q of %s is there twice or of nothing", id, rec.Kind)
			}
			records[id] = rec
		}
		must(b.t, r.Close())
		if n != whole.Records() || whole.Records() != a.Records() {
			b.t.Errorf("an archive of %d records has %d", a.Records(), n)
		}
	}
	return list.Items, records
}

// age has what has ended by now be kept no longer.
func (b *bed) age() {
	b.t.Helper()
	must(b.t, b.worker.FlushExecutions(b.ctx))
	b.skip(8 * 24 * time.Hour)
	b.worker.Sweep(b.ctx)
}

// endedTask is the row of a task that ended just now.
func (b *bed) endedTask(result string) *domain.Task {
	b.t.Helper()
	now := b.now().UTC().Truncate(time.Microsecond)
	task := &domain.Task{
		ID: domain.NewID(), ProjectID: b.by.ProjectID, Kind: "run", State: domain.TaskSucceeded, Name: "nightly", Result: json.RawMessage(result),
		SpecSealed: []byte("sealed"), Attempts: 2, MaxAttempts: 3, CreatedAt: now, UpdatedAt: now, RunAt: now, EndedAt: &now,
	}
	must(b.t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Tasks().Insert(b.ctx, task) }))
	return task
}

// What has ended and is kept no longer is in an archive, each once, as it was told of
// last; until that is too old as well.
func TestArchives(t *testing.T) {
	t.Parallel()
	b := newBed(t, withArchives)
	gone := b.running(vmm.CreateVM{Name: "gone", Env: map[string]string{"TOKEN": "hidden"}})
	_, inGone := b.sh(gone.ID, "echo one; exit 3")
	lives := b.running(vmm.CreateVM{})
	_, inLiving := b.sh(lives.ID, "echo two")
	x, err := b.StartExecution(b.ctx, b.by, lives.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"sleep", "100"}}})
	must(t, err)
	_, err = b.DeleteVM(b.ctx, b.by, gone.ID)
	must(t, err)
	gone, err = b.WaitVM(b.ctx, b.by, gone.ID)
	must(t, err)
	task := b.endedTask(`{"output_bytes": 7}`)
	long := b.endedTask(`"` + strings.Repeat("x", domain.MaxArchivedResult) + `"`)
	b.worker.Sweep(b.ctx)
	if archives, _ := b.archived(); len(archives) != 0 {
		t.Fatalf("%d archives before anything is old", len(archives))
	}
	b.skip(time.Hour)
	_, later := b.sh(lives.ID, "echo three")
	must(t, b.worker.FlushExecutions(b.ctx))
	b.skip(7*24*time.Hour - 30*time.Minute)
	b.worker.Sweep(b.ctx)
	archives, records := b.archived()
	if len(archives) != 1 || archives[0].VMs != 1 || archives[0].Executions != 2 || archives[0].Tasks < 2 {
		t.Fatalf("%+v", archives)
	}
	gone.Tombstone.LastOutput = "" // output is not archived
	wantVM, wantExecution, wantTask := apiform.VM(gone), apiform.Execution(inGone), apiform.Task(task)
	if got := records[gone.ID.String()].VM; got == nil || !reflect.DeepEqual(*got, wantVM) {
		t.Errorf("the VM is %+v, not %+v", got, wantVM)
	}
	got := records[inGone.ID.String()].Execution
	if got != nil {
		wantExecution.EndedAt = got.EndedAt // who waits is told before the row is written
	}
	if got == nil || !reflect.DeepEqual(*got, wantExecution) {
		t.Errorf("the execution is %+v, not %+v", got, wantExecution)
	}
	if got := records[inLiving.ID.String()].Execution; got == nil || got.Args[2] != "echo two" {
		t.Errorf("the living VM's execution is %+v", got)
	}
	if got := records[task.ID.String()].Task; got == nil || string(got.Result) != `{"output_bytes":7}` || got.Name != wantTask.Name || !got.EndedAt.Equal(*wantTask.EndedAt) {
		t.Errorf("the task is %+v, not %+v", got, wantTask)
	}
	if got := records[long.ID.String()].Task; got == nil || len(got.Result) != 0 {
		t.Errorf("the task with a long result is %+v", got)
	}
	if records[x.ID.String()].Kind != "" {
		t.Error("what runs is archived")
	}
	for _, id := range []domain.ID{gone.ID, inGone.ID, inLiving.ID} {
		_, verr := b.GetVM(b.ctx, b.by, id)
		_, xerr := b.GetExecution(b.ctx, b.by, id)
		if !errors.HasCode(verr, errors.NotFound) || !errors.HasCode(xerr, errors.NotFound) {
			t.Errorf("the row of %s is left", id)
		}
	}

	// What goes later is added.
	b.skip(time.Hour)
	b.worker.Sweep(b.ctx)
	again, records := b.archived()
	if len(again) != 1 || again[0].ID != archives[0].ID || again[0].Executions != 3 || again[0].LastAt.Sub(archives[0].LastAt) < time.Hour-time.Minute || !again[0].FirstAt.Equal(archives[0].FirstAt) {
		t.Errorf("%+v, after %+v", *again[0], *archives[0])
	}
	if got := records[later.ID.String()].Execution; got == nil || got.Args[2] != "echo three" {
		t.Errorf("the later execution is %+v", got)
	}
	// Another project has none of it.
	other := vmm.Caller{ProjectID: domain.NewID()}
	if list, err := b.ListArchives(b.ctx, other, vmm.Page{}); err != nil || len(list.Items) != 0 {
		t.Errorf("another project has %d archives, %v", len(list.Items), err)
	}
	if _, _, err := b.ReadArchive(b.ctx, other, again[0].ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("another project reads it: %v", err)
	}
	b.skip(91 * 24 * time.Hour)
	b.worker.Sweep(b.ctx)
	if archives, _ := b.archived(); len(archives) != 0 {
		t.Errorf("%+v are left", archives)
	}
}

// What another project's execution of the same ID ran is not told, and a VM that ended
// with an execution on record as running goes like any other.
func TestArchivesOfOddRows(t *testing.T) {
	t.Parallel()
	b := newBed(t, withArchives)
	other, id := domain.NewID(), domain.NewID()
	now := b.now().UTC().Truncate(time.Microsecond)
	row := func(project, vm domain.ID, state domain.ExecutionState, line string) *domain.Execution {
		sealed, err := service.SealCommand(b.ctx, b.sealer, id, domain.Command{Args: []string{line}})
		must(t, err)
		x := &domain.Execution{ID: id, ProjectID: project, VMID: vm, Epoch: 1, State: state, CommandSealed: sealed, CreatedAt: now, StartedAt: &now}
		if state.Ended() {
			x.EndedAt = &now
		}
		return x
	}
	vm := b.running(vmm.CreateVM{})
	_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	foreign := *vm
	foreign.ID, foreign.ProjectID = domain.NewID(), other
	open := row(b.by.ProjectID, vm.ID, domain.ExecutionRunning, "open")
	open.ID = domain.NewID()
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		return errors.Join(
			tx.Projects().Insert(b.ctx, &domain.Project{ID: other, Name: "other", CreatedAt: now}), tx.VMs().Insert(b.ctx, &foreign),
			tx.Executions().Upsert(b.ctx, row(b.by.ProjectID, vm.ID, domain.ExecutionExited, "mine"), row(other, foreign.ID, domain.ExecutionExited, "theirs"), open),
		)
	}))
	b.age()
	for project, line := range map[domain.ID]string{b.by.ProjectID: "mine", other: "theirs"} {
		b.by.ProjectID = project
		_, records := b.archived()
		if got := records[id.String()].Execution; got == nil || got.Args[0] != line {
			t.Errorf("%s: %+v", line, got)
		}
	}
	b.by.ProjectID = vm.ProjectID
	if _, err := b.GetVM(b.ctx, b.by, vm.ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the VM is there: %v", err)
	}
}

// Many records make many archives, none of them without end.
func TestArchivesAreBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t, withArchives)
	vm := b.running(vmm.CreateVM{})
	for range 3 {
		now := b.now().UTC().Truncate(time.Microsecond)
		xs := make([]*domain.Execution, 2500)
		for i := range xs {
			xs[i] = &domain.Execution{
				ID: domain.NewID(), ProjectID: b.by.ProjectID, VMID: vm.ID, Epoch: 1, State: domain.ExecutionExited, LostReason: seal.NewKey(), // which does not compress
				CreatedAt: now, StartedAt: &now, EndedAt: &now,
			}
		}
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Executions().Upsert(b.ctx, xs...) }))
		b.age()
	}
	archives, records := b.archived()
	if len(records) < 7500 || len(archives) < 2 {
		t.Errorf("%d records in %d archives", len(records), len(archives))
	}
	for _, a := range archives {
		if a.Bytes > 2*domain.MaxArchive {
			t.Errorf("an archive has %d bytes", a.Bytes)
		}
	}
}

// keyless is a sealer whose service of keys is away.
type keyless struct{ seal.Sealer }

func (keyless) Seal(context.Context, string, []byte) ([]byte, error) {
	return nil, errors.New(errors.Unavailable, "no key")
}

func (keyless) Open(context.Context, string, []byte) ([]byte, error) {
	return nil, errors.New(errors.Unavailable, "no key")
}

// While nothing can be archived nothing goes; and what cannot be read of an archive
// keeps nothing from going.
func TestArchivesWithoutKeys(t *testing.T) {
	t.Parallel()
	b := newBed(t, withArchives)
	vm := b.running(vmm.CreateVM{})
	_, x := b.sh(vm.ID, "echo one")
	task := b.endedTask(`{}`)
	whole := b.sealer
	b.down()
	b.deps = func(d *worker.Deps) { d.Sealer = keyless{whole} }
	b.up()
	b.age()
	_, xerr := b.GetExecution(b.ctx, b.by, x.ID)
	_, terr := b.GetTask(b.ctx, b.by, task.ID)
	if xerr != nil || terr != nil {
		t.Fatalf("what is not archived is gone: %v, %v", xerr, terr)
	}
	b.down()
	b.deps = nil
	b.up()
	b.worker.Sweep(b.ctx)
	archives, _ := b.archived()
	if len(archives) != 1 {
		t.Fatalf("%+v", archives)
	}
	damaged, _, err := b.ReadArchive(b.ctx, b.by, archives[0].ID)
	must(t, err)
	damaged.Content[len(damaged.Content)/2] ^= 1
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Archives().Extend(b.ctx, damaged, damaged.Records()) }))
	_, later := b.sh(vm.ID, "echo two")
	b.age()
	list, err := b.ListArchives(b.ctx, b.by, vmm.Page{})
	must(t, err)
	if len(list.Items) != 2 {
		t.Fatalf("%d archives, one of them damaged: %+v", len(list.Items), *list.Items[0])
	}
	_, r, err := b.ReadArchive(b.ctx, b.by, list.Items[0].ID) // the newest
	must(t, err)
	defer func() { _ = r.Close() }()
	var rec api.ArchivedRecord
	must(t, json.NewDecoder(r).Decode(&rec))
	if rec.Execution == nil || rec.Execution.ID != later.ID.String() {
		t.Errorf("%+v", rec)
	}
}

// A project that is forgotten leaves nothing in archives.
func TestForgottenProjectIsNotArchived(t *testing.T) {
	t.Parallel()
	b := newBed(t, withArchives)
	vm := b.running(vmm.CreateVM{})
	b.sh(vm.ID, "echo one")
	_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	must(t, b.worker.ForgetProject(b.ctx, b.by.ProjectID))
	if archives, _ := b.archived(); len(archives) != 0 {
		t.Errorf("%+v", archives)
	}
}
