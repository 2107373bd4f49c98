package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// outputStore is storage for output whose calls can fail or not come back.
type outputStore struct {
	*depot.Output
	sent, fetched   atomic.Int32
	away            atomic.Bool // it does not answer
	missing         atomic.Int64
	holdSend, holdR atomic.Pointer[held] // before the object is there, and after
	cutFetch        atomic.Int64         // bytes after which reading fails, once
}

func (o *outputStore) Send(ctx context.Context, key []byte, place string, pack func(io.Writer) error) (domain.Packed, error) {
	if o.away.Load() {
		return domain.Packed{}, errors.New(errors.Unavailable, "the storage is away")
	}
	if h := o.holdSend.Swap(nil); h != nil {
		h.wait(ctx)
		return domain.Packed{}, ctx.Err()
	}
	p, err := o.Output.Send(ctx, key, place, pack)
	o.sent.Add(1)
	o.holdR.Swap(nil).wait(ctx)
	return p, err
}

func (o *outputStore) Fetch(ctx context.Context, p domain.Packed, key []byte, place string, unpack func(io.Reader) error) error {
	if o.away.Load() {
		return errors.New(errors.Unavailable, "the storage is away")
	}
	o.fetched.Add(1)
	cut := o.cutFetch.Swap(0)
	return o.Output.Fetch(ctx, p, key, place, func(r io.Reader) error {
		if cut > 0 {
			r = io.MultiReader(io.LimitReader(r, cut), failing{})
		}
		return unpack(r)
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New(errors.Unavailable, "the disk went") }

func (o *outputStore) Missing() (int64, error) { return o.missing.Load(), nil }

// keepers is two workers over one storage for output, and a VM on one of them.
type keepers struct {
	*fleet
	t         *testing.T
	dir       string
	of        map[*bed]*outputStore
	near, far *bed
	vm        *domain.VM
}

func newKeepers(t *testing.T) *keepers {
	t.Helper()
	f := newFleet(t)
	k := &keepers{fleet: f, t: t, dir: filepath.Join(t.TempDir(), "shared-output"), of: map[*bed]*outputStore{}}
	for _, b := range []*bed{f.one, f.other} {
		blobs, err := blob.OpenDir(k.dir)
		must(t, err)
		main, err := blob.OpenDir(strings.TrimSuffix(k.dir, "-output"))
		must(t, err)
		k.of[b] = &outputStore{Output: depot.NewOutput(blobs, t.TempDir())}
		f.cut(b)
		b.down()
		before, fetched := b.deps, (*journal.Store)(nil)
		b.deps = func(deps *worker.Deps) {
			before(deps)
			dir := filepath.Join(b.config.DataDir, "fetched")
			if fetched != nil {
				must(t, fetched.Close())
			}
			must(t, os.RemoveAll(dir))
			var err error
			fetched, err = journal.OpenStore(dir, journal.Options{MaxBytes: worker.MaxFetchedJournal})
			must(t, err)
			deps.Depot, deps.Stored, deps.Fetched = depot.New(main, &packing{images: b.images}, t.TempDir()), k.of[b], fetched
		}
		f.again(b)
	}
	k.vm = f.one.running(vmm.CreateVM{})
	k.near, k.far = f.one, f.other
	if k.vm.WorkerID != f.one.worker.ID() {
		k.near, k.far = f.other, f.one
	}
	return k
}

// objects counts those in the storage, and their bytes.
func (k *keepers) objects() (n int, size int64) {
	k.t.Helper()
	must(k.t, filepath.WalkDir(k.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			i, err := e.Info()
			if err != nil {
				return err
			}
			n, size = n+1, size+i.Size()
		}
		return err
	}))
	return n, size
}

func (k *keepers) expect(objects int) {
	k.t.Helper()
	if n, _ := k.objects(); n != objects {
		k.t.Fatalf("%d objects are in the storage, not %d", n, objects)
	}
}

func (k *keepers) row(id domain.ID) (x *domain.Execution) {
	k.t.Helper()
	must(k.t, k.one.store.View(k.one.ctx, func(tx storage.Tx) (err error) {
		x, err = tx.Executions().Get(k.one.ctx, k.one.by.ProjectID, id)
		return err
	}))
	return x
}

func (k *keepers) packs() (all []*domain.OutputPack) {
	k.t.Helper()
	must(k.t, k.one.store.View(k.one.ctx, func(tx storage.Tx) error {
		list, err := tx.OutputPacks().List(k.one.ctx, storage.Page{})
		all = list.Items
		return err
	}))
	return all
}

// events are all that is to be read of an execution's output from an offset on.
func (k *keepers) events(id domain.ID, from int64) ([]domain.OutputEvent, error) {
	k.t.Helper()
	r, err := k.Output(k.one.ctx, k.one.by, id, from, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	var all []domain.OutputEvent
	for {
		e, err := r.Next(k.one.ctx)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		e.Data = bytes.Clone(e.Data)
		all = append(all, e)
		if e.End != nil {
			return all, nil
		}
	}
}

func sameEvents(a, b []domain.OutputEvent) bool {
	return slices.EqualFunc(a, b, func(x, y domain.OutputEvent) bool {
		return x.Offset == y.Offset && x.Stream == y.Stream && bytes.Equal(x.Data, y.Data) && (x.Gap == nil) == (y.Gap == nil) && (x.Gap == nil || *x.Gap == *y.Gap) &&
			(x.End == nil) == (y.End == nil) && (x.End == nil || *x.End == *y.End)
	})
}

// gone has the near worker's process die and be taken for away.
func (k *keepers) gone() {
	k.t.Helper()
	k.crash(k.near)
	k.silent(k.far)
}

// Output of what has ended is read byte for byte while its worker is away: from any
// offset, with the same errors, and is fetched once with all that is beside it.
func TestOutputOfAWorkerThatIsAway(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	ctx, by := k.one.ctx, k.one.by
	lines := []string{
		"true", "exit 3", "echo out; echo err >&2", `printf '\000\377\n'`, "head -c 300000 /dev/urandom", "kill -9 $$",
	}
	var all []domain.ID
	for _, line := range lines {
		_, x := k.near.sh(k.vm.ID, line)
		all = append(all, x.ID)
	}
	running, err := k.StartExecution(ctx, by, k.vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"sh", "-c", "echo begun; sleep 1000"}}})
	must(t, err)
	must(t, k.near.worker.StoreOutput(ctx))
	must(t, k.near.worker.StoreOutput(ctx)) // which has nothing to do
	k.expect(1)
	_, late := k.near.sh(k.vm.ID, "echo late")
	type at struct {
		id   domain.ID
		from int64
	}
	before, codes := map[at][]domain.OutputEvent{}, map[at]errors.Code{}
	for _, id := range all {
		n := k.row(id).OutputBytes
		for _, from := range []int64{0, 1, n / 2, n - 1, n, n + 1} {
			e, err := k.events(id, from)
			before[at{id, from}], codes[at{id, from}] = e, errors.CodeOf(err)
		}
		if k.row(id).PackID == "" {
			t.Errorf("%s is not said to be in the storage", id)
		}
	}
	k.gone()
	for a, want := range before {
		got, err := k.events(a.id, a.from)
		if errors.CodeOf(err) != codes[a] || !sameEvents(got, want) {
			t.Errorf("%s from %d: %d events, %v, not %d, %s", a.id, a.from, len(got), err, len(want), codes[a])
		}
	}
	if n := k.of[k.far].fetched.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	for _, id := range all {
		if x, err := k.GetExecution(ctx, by, id); err != nil || !x.State.Ended() {
			t.Errorf("%+v, %v", x, err)
		}
	}
	// What was not stored, and what may run, wait for their worker.
	for _, id := range []domain.ID{late.ID, running.ID} {
		_, err := k.events(id, 0)
		refused(t, err, errors.Unavailable)
	}
	_, err = k.GetExecution(ctx, by, running.ID)
	refused(t, err, errors.Unavailable)
	// Another project has none of it.
	_, err = k.Output(ctx, vmm.Caller{ProjectID: domain.NewID()}, all[2], 0, false)
	refused(t, err, errors.NotFound)

	k.again(k.near)
	fetched := k.of[k.near].fetched.Load()
	for a, want := range before {
		if got, _ := k.events(a.id, a.from); !sameEvents(got, want) {
			t.Errorf("%s from %d is another when its worker is back", a.id, a.from)
		}
	}
	if n := k.of[k.near].fetched.Load(); n != fetched {
		t.Error("it was fetched where it is")
	}
	must(t, k.near.worker.StoreOutput(ctx))
	k.expect(2)
}

// has reports whether an execution's journal is on a worker.
func (b *bed) has(x *domain.Execution) bool {
	_, err := b.journals.Tail(journal.Key{VM: x.VMID, Epoch: x.Epoch, Execution: x.ID}, 1)
	return err == nil
}

// relieved waits until the near worker, whose disk is short, has removed a journal:
// the last who read it may not have let go of it yet.
func (k *keepers) relieved(x *domain.Execution) {
	k.t.Helper()
	for k.near.has(x) {
		must(k.t, k.one.ctx.Err())
		k.near.worker.Sweep(k.one.ctx)
	}
}

// A worker whose disk is lost, or short, reads its own from the storage; and what is
// nowhere else stays.
func TestOutputMakesRoom(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	ctx := k.one.ctx
	out, x := k.near.sh(k.vm.ID, "echo stored; head -c 100000 /dev/zero | tr '\\0' x")
	must(t, k.near.worker.StoreOutput(ctx))
	kept, y := k.near.sh(k.vm.ID, "echo kept")
	k.near.worker.Sweep(ctx)
	if !k.near.has(x) || !k.near.has(y) {
		t.Fatal("a journal went though there is room")
	}
	k.of[k.near].missing.Store(1 << 40)
	k.relieved(x)
	if !k.near.has(y) {
		t.Fatal("what is not stored is to stay")
	}
	if got := k.near.output(x.ID); got != out {
		t.Errorf("%d bytes", len(got))
	}
	if got := k.near.output(y.ID); got != kept {
		t.Errorf("%q", got)
	}
	if n := k.of[k.near].fetched.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	// It is kept for a while, and fetched again then.
	k.near.skip(2 * time.Hour)
	k.near.worker.Sweep(ctx)
	if got := k.near.output(x.ID); got != out || k.of[k.near].fetched.Load() != 2 {
		t.Errorf("%d bytes, fetched %d times", len(got), k.of[k.near].fetched.Load())
	}
}

// Whoever reads at once has it fetched once.
func TestOutputIsFetchedOnce(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	out, x := k.near.sh(k.vm.ID, "head -c 300000 /dev/zero | tr '\\0' x")
	must(t, k.near.worker.StoreOutput(k.one.ctx))
	k.gone()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			events, err := k.events(x.ID, 0)
			n := 0
			for _, e := range events {
				n += len(e.Data)
			}
			if err != nil || n != len(out) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	all.Wait()
	if n := k.of[k.far].fetched.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
}

// A process that dies at any moment of storing loses nothing and doubles nothing;
// what it leaves in the storage goes after a day.
func TestDyingWhileOutputIsStored(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	store := k.of[k.near]
	for what, die := range map[string]struct {
		hold *atomic.Pointer[held]
		left int // objects that no row tells of
	}{
		"before the object is there": {&store.holdSend, 0},
		"before the row says so":     {&store.holdR, 1},
	} {
		objects, _ := k.objects()
		packs := len(k.packs())
		out, x := k.near.sh(k.vm.ID, "echo '"+what+"'")
		ctx, cancel := context.WithCancel(k.one.ctx)
		begun, ended := hold(die.hold), make(chan error, 1)
		go func() { ended <- k.near.worker.StoreOutput(ctx) }()
		<-begun
		cancel()
		if err := <-ended; err == nil {
			t.Errorf("%s: it did not die", what)
		}
		k.crash(k.near)
		if k.row(x.ID).PackID != "" {
			t.Errorf("%s: the row tells of it", what)
		}
		k.again(k.near)
		if got := k.near.output(x.ID); got != out {
			t.Errorf("%s: %q", what, got)
		}
		for range 2 {
			must(t, k.near.worker.StoreOutput(k.one.ctx))
		}
		k.expect(objects + die.left + 1)
		if n := len(k.packs()); n != packs+1 || k.row(x.ID).PackID == "" {
			t.Errorf("%s: there are %d packs", what, n)
		}
	}
	// After the row says so.
	_, x := k.near.sh(k.vm.ID, "echo after")
	must(t, k.near.worker.StoreOutput(k.one.ctx))
	n, _ := k.objects()
	k.crash(k.near)
	k.again(k.near)
	must(t, k.near.worker.StoreOutput(k.one.ctx))
	k.expect(n)

	k.far.skip(2 * time.Hour)
	k.far.worker.Sweep(k.one.ctx)
	k.expect(n)
	k.far.skip(25 * time.Hour)
	k.far.worker.Sweep(k.one.ctx)
	k.expect(len(k.packs()))
	k.gone()
	if got := k.far.output(x.ID); got != "after\n" {
		t.Errorf("%q", got)
	}
}

// What was not fetched to its end is fetched again, and nothing of it is read before.
func TestDyingWhileOutputIsFetched(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	_, first := k.near.sh(k.vm.ID, "echo first")
	out, x := k.near.sh(k.vm.ID, "head -c 300000 /dev/zero | tr '\\0' x")
	must(t, k.near.worker.StoreOutput(k.one.ctx))
	k.gone()
	for _, cut := range []int64{1, 200, 100_000} {
		k.of[k.far].cutFetch.Store(cut)
		_, err := k.events(x.ID, 0)
		refused(t, err, errors.Unavailable)
	}
	if got := k.far.output(first.ID); got != "first\n" {
		t.Errorf("%q", got)
	}
	if got := k.far.output(x.ID); got != out {
		t.Errorf("%d bytes", len(got))
	}
	if n := k.of[k.far].fetched.Load(); n != 4 {
		t.Errorf("it was fetched %d times", n)
	}
	k.crash(k.far)
	k.again(k.far)
	k.silent(k.far)
	if got := k.far.output(x.ID); got != out {
		t.Errorf("%d bytes after a restart", len(got))
	}
}

// While the storage is away output stays where it is; nobody waits, and it is
// stored when the storage is back.
func TestTheOutputStorageIsAway(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	ctx := k.one.ctx
	store := k.of[k.near]
	store.away.Store(true)
	out, x := k.near.sh(k.vm.ID, "echo here")
	refused(t, k.near.worker.StoreOutput(ctx), errors.Unavailable)
	if got := k.near.output(x.ID); got != out {
		t.Errorf("%q", got)
	}
	store.missing.Store(1 << 40)
	k.near.worker.Sweep(ctx)
	if got := k.near.output(x.ID); got != out {
		t.Errorf("%q", got)
	}
	store.away.Store(false)
	must(t, k.near.worker.StoreOutput(ctx))
	k.relieved(x)
	store.away.Store(true)
	k.of[k.far].away.Store(true)
	_, err := k.events(x.ID, 0)
	refused(t, err, errors.Unavailable)
	k.of[k.far].away.Store(false)
	if got := k.near.output(x.ID); got != out { // another worker has a way there
		t.Errorf("%q", got)
	}
	if store.fetched.Load() != 0 || k.of[k.far].fetched.Load() != 1 {
		t.Error("it was fetched by the wrong worker")
	}
	store.away.Store(false)
	if got := k.near.output(x.ID); got != out || store.fetched.Load() != 1 {
		t.Errorf("%q", got)
	}
}

// What is not what was stored is not read.
func TestOutputThatWasChangedInTheStorage(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	_, x := k.near.sh(k.vm.ID, "echo secret")
	must(t, k.near.worker.StoreOutput(k.one.ctx))
	must(t, filepath.WalkDir(k.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte("secret")) || bytes.Contains(b, []byte(x.ID)) {
			t.Error("it is there in clear")
		}
		b[len(b)/2] ^= 1
		return os.WriteFile(name, b, 0o600)
	}))
	k.gone()
	_, err := k.events(x.ID, 0)
	refused(t, err, errors.PreconditionFailed)
}

// Objects go with the last row that has its output in them: by age, with their VM and
// with their project.
func TestOutputGoesWithItsRows(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	ctx, by := k.one.ctx, k.one.by
	_, x := k.near.sh(k.vm.ID, "echo first")
	must(t, k.near.worker.StoreOutput(ctx))
	k.near.skip(8 * 24 * time.Hour)
	_, y := k.near.sh(k.vm.ID, "echo second")
	must(t, k.near.worker.StoreOutput(ctx))
	k.expect(2)
	k.near.worker.Sweep(ctx)
	k.expect(1)
	if _, err := k.events(x.ID, 0); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("%v", err)
	}
	if got := k.near.output(y.ID); got != "second\n" {
		t.Errorf("%q", got)
	}
	_, err := k.DeleteVM(ctx, by, k.vm.ID)
	must(t, err)
	_, err = k.WaitVM(ctx, by, k.vm.ID)
	must(t, err)
	if got := k.near.output(y.ID); got != "second\n" { // as a tombstone has it
		t.Errorf("%q", got)
	}
	k.near.skip(17 * 24 * time.Hour)
	k.near.worker.Sweep(ctx)
	k.expect(0)
	if n := len(k.packs()); n != 0 {
		t.Errorf("%d packs are left", n)
	}

	vm := k.near.running(vmm.CreateVM{})
	b := k.near
	if vm.WorkerID != b.worker.ID() {
		b = k.far
	}
	b.sh(vm.ID, "echo third")
	must(t, b.worker.StoreOutput(ctx))
	k.expect(1)
	_, err = k.DeleteVM(ctx, by, vm.ID)
	must(t, err)
	_, err = k.WaitVM(ctx, by, vm.ID)
	must(t, err)
	must(t, k.EmptyProject(ctx, by.ProjectID))
	k.expect(0)
}

// What rows were deleted of while nobody could remove it goes by the sweep: packs that
// nobody uses at once, objects that are none after a day.
func TestOutputLeftBehind(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	ctx := k.one.ctx
	_, x := k.near.sh(k.vm.ID, "echo first")
	_, y := k.near.sh(k.vm.ID, "echo second")
	must(t, k.near.worker.StoreOutput(ctx))
	remove := func(id domain.ID) {
		must(t, k.one.store.Update(ctx, func(tx storage.Tx) error {
			_, err := tx.Executions().Delete(ctx, k.one.by.ProjectID, id)
			return err
		}))
		k.far.skip(2 * time.Hour)
		k.far.worker.Sweep(ctx)
	}
	remove(x.ID)
	k.expect(1)
	if got := k.near.output(y.ID); got != "second\n" {
		t.Errorf("%q", got)
	}
	remove(y.ID)
	k.expect(0)
	if n := len(k.packs()); n != 0 {
		t.Errorf("%d packs are left", n)
	}
}

// What ends together goes together: objects by projects, not by executions. An
// orderly end stores what there is.
func TestOutputGoesTogether(t *testing.T) {
	t.Parallel()
	k := newKeepers(t)
	ctx := k.one.ctx
	const many = 60
	var raw int64
	want := map[domain.ID]string{}
	for i := range many {
		out, x := k.near.sh(k.vm.ID, fmt.Sprintf("seq %d %d", i, i+200))
		want[x.ID], raw = out, raw+int64(len(out))
	}
	k.cut(k.near)
	k.near.down()
	k.expect(1)
	_, size := k.objects()
	t.Logf("%d executions with %d bytes are one object of %d", many, raw, size)
	if size > raw/2 {
		t.Errorf("an object of %d bytes for %d of output", size, raw)
	}
	k.silent(k.far)
	for id, out := range want {
		if got := k.far.output(id); got != out {
			t.Errorf("%q, not %q", got, out)
		}
	}
	if n := k.of[k.far].fetched.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	must(t, ctx.Err())
	k.again(k.near)
}

// Whoever has read an execution's output to its end finds that it has ended.
func TestTheEndThatWasReadIsKnown(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	for range 300 {
		x, err := b.StartExecution(b.ctx, b.by, vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"sh", "-c", "exit 7"}}})
		must(t, err)
		b.output(x.ID)
		if x, err = b.GetExecution(b.ctx, b.by, x.ID); err != nil || x.ExitCode == nil || *x.ExitCode != 7 {
			t.Fatalf("%+v, %v", x, err)
		}
	}
}
