package microvm_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// decision is what became of a memory that was to be kept, and why it is not.
type decision struct{ what, why string }

// decisions hears what becomes of memories that are to be kept.
type decisions struct {
	slog.Handler
	made chan decision
}

func (h decisions) Enabled(context.Context, slog.Level) bool { return true }

func (h decisions) Handle(_ context.Context, r slog.Record) error {
	what, found := strings.CutPrefix(r.Message, "the memory of a booted machine is ")
	if !found {
		return nil
	}
	d := decision{what: what}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			d.why = a.Value.String()
		}
		return true
	})
	h.made <- d
	return nil
}

// keeping has a driver keep memories; what is decided of each is told.
func keeping(most int, made chan decision) func(*microvm.Config) {
	return func(c *microvm.Config) {
		c.Booted, c.Logger = microvm.Booted{Max: most, Bytes: 1 << 30}, slog.New(decisions{slog.DiscardHandler, made})
	}
}

// keepingLab is a lab whose driver keeps memories of booted machines; await
// waits until it is decided whether one is.
func keepingLab(t *testing.T, most int, options ...func(*microvm.Config)) (l *lab, await func(want string)) {
	t.Helper()
	made := make(chan decision, 16)
	l = newLab(t, append([]func(*microvm.Config){keeping(most, made)}, options...)...)
	return l, func(want string) {
		t.Helper()
		select {
		case got := <-made:
			if got.what != want {
				t.Fatalf("the memory is %s: %s", got.what, got.why)
			}
		case <-time.After(5 * time.Minute):
			t.Fatal("nothing was decided")
		}
	}
}

func (l *lab) counts() vmm.BootedCounts {
	l.t.Helper()
	c, err := l.Booted(l.t.Context())
	must(l.t, err)
	return c
}

// restored reports whether a machine's start was not a boot, by its trace.
func (l *lab) restored(id string) bool {
	l.t.Helper()
	phases, err := l.Trace(l.t.Context(), id)
	must(l.t, err)
	return slices.ContainsFunc(phases, func(p vmm.Phase) bool { return p.Name == "restore" })
}

// twice boots two machines of a shape, and removes them.
func (l *lab) twice(s vmm.Spec) {
	l.t.Helper()
	for i := range 2 {
		s.MachineID = fmt.Sprintf("boots%d", i)
		l.boot(s)
		if l.restored(s.MachineID) {
			l.t.Errorf("%s did not boot", s.MachineID)
		}
		must(l.t, l.Delete(l.t.Context(), s.MachineID))
	}
}

// The third machine of a shape goes on from a memory that is nobody's, is told
// that it is a fork, and later starts from its own disk. So does one after a
// restart of the driver. One of another shape boots.
func TestBootedMachinesAreKept(t *testing.T) {
	t.Parallel()
	l, await := keepingLab(t, 4)
	ctx := t.Context()
	l.twice(spec("x"))
	await("kept")
	if c := l.counts(); c.Made != 1 || c.Kept != 1 || c.Missed != 2 || c.Bytes <= 0 {
		t.Errorf("%+v", c)
	}
	states, err := l.List(ctx)
	must(t, err)
	if len(states) > 0 {
		t.Errorf("left %v", states)
	}
	if snapshots, err := l.ListSnapshots(ctx); err != nil || len(snapshots) > 0 {
		t.Errorf("it is shown as a snapshot: %v, %v", snapshots, err)
	}
	more := spec("two") // told to the machine, and not of its memory
	more.Resources.MilliCPU, more.Resources.PIDs = 500, 100
	l.boot(spec("one"))
	l.boot(more)
	for _, id := range []string{"one", "two"} {
		if told := l.lines("ledger"); !l.restored(id) || !contains(told, "told "+id+" "+id+"-host fork=true") {
			t.Errorf("%s does not go on from the memory as a fork: %q", id, told)
		}
	}
	for _, line := range l.lines("ledger") {
		if strings.HasPrefix(line, "told booting-") {
			t.Errorf("the machine that is nobody's was told who it is: %s", line)
		}
	}
	l.reopen()
	l.boot(spec("three"))
	if !l.restored("three") {
		t.Error("nothing is kept after a restart")
	}
	must(t, l.Stop(ctx, "three", time.Minute))
	must(t, l.Start(ctx, "three"))
	if l.restored("three") {
		t.Error("its second start was not from its disk")
	}
	for name, change := range map[string]func(*vmm.Spec){
		"template":  func(s *vmm.Spec) { s.BuildID = "other" },
		"memory":    func(s *vmm.Spec) { s.Resources.MemoryBytes += mib },
		"processor": func(s *vmm.Spec) { s.Resources.MilliCPU = 2000 },
		"disk":      func(s *vmm.Spec) { s.Resources.DiskBytes *= 2 },
		"network":   func(s *vmm.Spec) { s.Network = domain.NetworkNAT },
		"mounts": func(s *vmm.Spec) {
			s.Mounts = []vmm.HostMount{{Source: l.dir + "/rootfs", Target: "/more", ReadOnly: true}}
		},
	} {
		other := spec("other")
		change(&other)
		l.boot(other)
		if l.restored("other") {
			t.Errorf("one with another %s goes on from it", name)
		}
		must(t, l.Delete(ctx, "other"))
	}
	l.noTorn()
}

func (l *lab) noTorn() {
	l.t.Helper()
	for _, line := range l.lines("ledger") {
		if strings.HasPrefix(line, "torn") {
			l.t.Error(line)
		}
	}
}

// A memory that cannot be gone on from is removed, and its machine boots.
func TestKeptMemoryOfNoUse(t *testing.T) {
	t.Parallel()
	l, await := keepingLab(t, 4)
	l.twice(spec("x"))
	await("kept")
	files, err := filepath.Glob(l.pool.Path("standin-w-*") + "/memory/*")
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	must(t, os.WriteFile(files[0], []byte("junk"), 0o600))
	l.boot(spec("one"))
	if phases, err := l.Trace(t.Context(), "one"); err != nil || l.restored("one") || phases[0].Name != "restore-failed" && phases[1].Name != "restore-failed" {
		t.Errorf("%v, %v", phases, err)
	}
	if c := l.counts(); c.Kept != 0 || c.Failed != 1 || c.Used != 0 {
		t.Errorf("%+v", c)
	}
	l.noTorn()
}

// One that was removed between a machine's creation and its start is not missed;
// one whose start was cut short has the memory's disk again.
func TestKeptMemoryThatGoesMeanwhile(t *testing.T) {
	t.Parallel()
	l, await := keepingLab(t, 1)
	ctx := t.Context()
	l.twice(spec("x"))
	await("kept")
	s := spec("one")
	s.RootFS = l.dir + "/rootfs"
	_, err := l.Create(ctx, s)
	must(t, err)
	other := spec("x")
	other.BuildID = "other"
	l.twice(other)
	await("kept")
	if c := l.counts(); c.Kept != 1 || c.Made != 2 {
		t.Errorf("more than one is kept: %+v", c)
	}
	must(t, l.Start(ctx, "one"))
	if l.restored("one") {
		t.Error("it goes on from what is not there")
	}
	l.noTorn()
}

// A template with hooks, a shape whose memory cannot be saved, and one that is
// asked for once cost nothing; a driver of another version uses nothing, and one
// that is to keep nothing has nothing.
func TestWhatIsNotKept(t *testing.T) {
	t.Parallel()
	e, version := &hooked{}, "1"
	l, await := keepingLab(t, 4, func(c *microvm.Config) {
		c.Engine.(*standIn).version = version
		e.Engine, c.Engine = c.Engine, e
	})
	e.saved = func(string) error { return errors.New(errors.NoSpace, "full") }
	l.twice(spec("x"))
	await("not kept")
	e.saved = nil
	l.twice(spec("x")) // it rests
	hooks := spec("x")
	hooks.BuildID = "hooks"
	must(t, os.MkdirAll(l.dir+"/rootfs/etc/aetherium/resume.d", 0o755))
	must(t, os.WriteFile(l.dir+"/rootfs/etc/aetherium/resume.d/hook", nil, 0o755))
	l.twice(hooks)
	must(t, os.RemoveAll(l.dir+"/rootfs/etc/aetherium"))
	other := spec("x")
	other.BuildID = "other"
	l.twice(other)
	await("kept")
	if c := l.counts(); c.Made != 1 || c.Kept != 1 || c.Failed != 1 {
		t.Errorf("%+v", c)
	}
	version = "2"
	l.reopen()
	other.MachineID = "one"
	l.boot(other)
	if l.restored("one") {
		t.Error("it goes on from another version's memory")
	}
}

// What is kept is bounded by what it takes, too: what was used least recently goes
// first. One that is too large by itself, or for which there is no room, is not
// kept; only the latter costs the others their place.
func TestKeptMemoriesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	limit := int64(1 << 30)
	e := &hooked{saved: func(dir string) error { return os.WriteFile(dir+"/more", make([]byte, 8*mib), 0o600) }}
	l, await := keepingLab(t, 4, func(c *microvm.Config) { e.Engine, c.Engine, c.Booted.Bytes = c.Engine, e, limit })
	kind := func(build string) vmm.Spec {
		s := spec("one")
		s.BuildID = build
		return s
	}
	bounded := func(bytes int64) {
		t.Helper()
		limit = bytes
		l.reopen()
	}
	// goesOn reports whether a machine of a kind goes on from a kept memory.
	goesOn := func(build string) bool {
		t.Helper()
		l.boot(kind(build))
		defer func() { must(t, l.Delete(t.Context(), "one")) }()
		return l.restored("one")
	}
	keep := func(build, want string) {
		t.Helper()
		l.twice(kind(build))
		await(want)
	}
	keep("a", "kept")
	one := l.counts().Bytes
	if one < 8*mib {
		t.Fatalf("a memory of 8 MiB takes %d bytes", one)
	}
	bounded(one * 3 / 2)
	keep("b", "kept")
	if c := l.counts(); c.Kept != 1 || c.Bytes > limit {
		t.Errorf("of two there is room for one: %+v", c)
	}
	if !goesOn("b") || goesOn("a") {
		t.Error("not the older one was removed")
	}
	bounded(one * 5 / 2)
	keep("c", "kept")
	if !goesOn("b") { // c is now the one that was not used for longest
		t.Error("there is room for two")
	}
	keep("d", "kept")
	if c := l.counts(); c.Kept != 2 || c.Bytes > limit {
		t.Errorf("of three there is room for two: %+v", c)
	}
	if !goesOn("b") || !goesOn("d") || goesOn("c") {
		t.Error("not the one was removed that was not used for longest")
	}
	e.saved = func(dir string) error { return os.WriteFile(dir+"/more", make([]byte, 32*mib), 0o600) }
	keep("e", "not kept")
	if c := l.counts(); c.Kept != 2 || !goesOn("b") || !goesOn("d") {
		t.Errorf("others went for one that is too large by itself: %+v", c)
	}
	e.saved = func(string) error { return errors.New(errors.NoSpace, "full") }
	keep("f", "not kept")
	if c := l.counts(); c.Kept != 0 {
		t.Errorf("there is no room, and memories are kept: %+v", c)
	}
}

// Where the disk has no room for what a VM needs, what is kept to be faster makes room
// for it: for a machine that is created, one that is paused, and one that is kept.
func TestKeptMemoriesMakeRoom(t *testing.T) {
	t.Parallel()
	const (
		pool   = 1280 * mib
		margin = pool / 8 // what volumes need free around them
		kept   = 200 * mib
	)
	e := &hooked{}
	l, await := keepingLab(t, 4, func(c *microvm.Config) { e.Engine, c.Engine = c.Engine, e })
	around := l.onDisk(1700*mib, pool)
	// Less than the margin is left, and more as soon as the memory is gone.
	fill := func(build string) {
		t.Helper()
		e.saved = func(dir string) error {
			return exec.Command("dd", "if=/dev/zero", "of="+dir+"/more", "bs=1M", fmt.Sprint("count=", kept/mib), "conv=fsync").Run()
		}
		other := spec("x")
		other.BuildID = build
		l.twice(other)
		await("kept")
		e.saved = nil
		leave(t, around, margin-kept/2)
	}
	// Each is the first of its shape: of two, a memory would be made beside the others.
	boot := func(build string) {
		t.Helper()
		one := spec("one")
		one.BuildID = "one-" + build
		l.boot(one)
	}
	for build, need := range map[string]func() error{
		"created": func() error {
			boot("created")
			return nil
		},
		"paused": func() error { return l.Pause(t.Context(), "one", domain.PauseMemory) },
		"snapshot": func() error {
			_, err := l.Snapshot(t.Context(), "one", "snap", domain.SnapshotMemory)
			return err
		},
		"disk": func() error {
			_, err := l.Snapshot(t.Context(), "one", "disk", domain.SnapshotDisk)
			return err
		},
	} {
		leave(t, around, -1)
		must(t, l.pool.Reclaim(t.Context())) // the guard has seen it then, too
		if build != "created" {
			boot(build)
		}
		fill(build)
		if err := need(); err != nil {
			t.Errorf("%s: %v", build, err)
		}
		if c := l.counts(); c.Kept != 0 {
			t.Errorf("%s: still kept: %+v", build, c)
		}
		// Where there is nothing to give up it is said.
		leave(t, around, margin/2)
		if _, err := l.Snapshot(t.Context(), "one", "full", domain.SnapshotDisk); !errors.HasCode(err, errors.NoSpace) {
			t.Errorf("%s: on a full disk: %v", build, err)
		}
		must(t, errors.Join(l.Delete(t.Context(), "one"), l.DeleteSnapshot(t.Context(), "snap"), l.DeleteSnapshot(t.Context(), "disk")))
	}
	l.noTorn()
}

// onDisk moves the lab's volumes to a disk of a size, before it has any. They are
// promised pool bytes of it.
func (l *lab) onDisk(size, pool int64) (around string) {
	l.t.Helper()
	ctx := context.WithoutCancel(l.t.Context())
	image, around := l.dir+"/around", l.dir+"/data"
	must(l.t, errors.Join(l.Close(), l.net.Close(), l.pool.Close(), l.pool.Unmount(ctx), os.RemoveAll(around), os.Mkdir(around, 0o711),
		os.WriteFile(l.dir+"/size", strconv.AppendInt(nil, pool, 10), 0o600)))
	l.Driver = nil
	for _, args := range [][]string{
		{"truncate", "-s", strconv.FormatInt(size, 10), image},
		{"mkfs.ext4", "-q", "-m", "0", image},
		{"mount", "-o", "loop,discard", image, around},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			l.t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	l.t.Cleanup(func() {
		states, err := l.List(ctx)
		for _, s := range states {
			err = errors.Join(err, l.Delete(ctx, s.MachineID))
		}
		err = errors.Join(err, l.Teardown(ctx), l.Close(), l.net.Close(), l.pool.Close(), l.pool.Unmount(ctx))
		l.Driver = nil
		// Detached: other processes' mount namespaces may hold it a while.
		if err := errors.Join(err, unix.Unmount(around, unix.MNT_DETACH)); err != nil {
			l.t.Error(err)
		}
	})
	l.open()
	return around
}

// leave takes a disk's room but for some bytes; less than none: gives it back.
func leave(t *testing.T, dir string, bytes int64) {
	t.Helper()
	path := dir + "/filler"
	if bytes < 0 {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // Bsize differs by architecture
	if free < bytes {
		t.Fatalf("%d MiB are free, less than the %d MiB that there were to be", free/mib, bytes/mib)
	}
	must(t, unix.Fallocate(int(f.Fd()), 0, info.Size(), free-bytes))
}

// What is being made ends with the driver, and leaves nothing.
func TestKeepingThatIsInterrupted(t *testing.T) {
	t.Parallel()
	e := &hooked{}
	began, goOn := make(chan struct{}), make(chan struct{})
	l, await := keepingLab(t, 4, func(c *microvm.Config) { e.Engine, c.Engine = c.Engine, e })
	e.saved = func(string) error {
		close(began)
		<-goOn
		return errors.New(errors.Internal, "it was interrupted")
	}
	l.twice(spec("x"))
	select {
	case <-began:
	case <-time.After(5 * time.Minute):
		t.Fatal("nothing is made")
	}
	l.boot(spec("meanwhile")) // nobody waits for it
	if l.restored("meanwhile") {
		t.Error("it goes on from what is not whole")
	}
	must(t, l.Delete(t.Context(), "meanwhile"))
	close(goOn)
	await("not kept")
	l.sweep("interrupted")
}

// keeps are the steps of a driver that keeps a memory and goes on from it.
func keeps(ctx context.Context, d *microvm.Driver, rootfs string, made <-chan decision) []step {
	begin := func(id string) func() error {
		return func() error {
			s := spec(id)
			s.RootFS = rootfs
			if _, err := d.Create(ctx, s); err != nil {
				return err
			}
			return d.Start(ctx, id)
		}
	}
	return []step{
		{"first", begin("first")},
		{"second", begin("second")},
		{"made", func() error {
			if got := <-made; got.what != "kept" {
				return errors.New(errors.Internal, "the memory is %s: %s", got.what, got.why)
			}
			return nil
		}},
		{"third", begin("third")},
		{"delete", func() error { return d.Delete(ctx, "third") }},
	}
}

// Killed at any call of its making and of its use, a memory is kept whole or not
// at all, machines start, and nothing else is left.
func TestKilledWhileKeeping(t *testing.T) {
	t.Parallel()
	l, _ := keepingLab(t, 1)
	must(t, note(l.dir+"/ledger", "begin"))
	l.close()
	stride := 11
	if os.Getenv(everyEnv) != "" {
		stride = 1
	}
	point := 1
	for ; ; point += stride {
		done, killed := l.dieAt(point, keepsEnv+"=1")
		l.open()
		if !killed {
			break
		}
		when := fmt.Sprintf("killed at call %d", point)
		states, err := l.List(t.Context())
		must(t, err)
		for _, s := range states {
			if strings.HasPrefix(s.MachineID, "booting-") {
				t.Errorf("%s: the machine that is nobody's is left: %v", when, s)
			}
			if s.Status == vmm.StatusCreated && s.MachineID == "third" {
				_, err := l.Create(t.Context(), l.at(spec("third"))) // as who was not answered does
				must(t, errors.Join(err, l.Start(t.Context(), "third")))
			}
		}
		l.wholeOnes(when, done["made"])
		l.noTorn()
		l.sweep(when)
		l.close()
	}
	if point < 60 {
		t.Errorf("the victim made only %d calls", point)
	}
}

func (l *lab) at(s vmm.Spec) vmm.Spec {
	s.RootFS = l.dir + "/rootfs"
	return s
}

// wholeOnes checks that what is kept is whole, and removes it.
func (l *lab) wholeOnes(when string, made bool) {
	l.t.Helper()
	if kept := l.counts().Kept; made && kept != 1 {
		l.t.Errorf("%s: %d memories are kept", when, kept)
	}
	volumes, err := l.pool.List(l.t.Context())
	must(l.t, err)
	for _, v := range volumes {
		key, ok := strings.CutPrefix(v, "standin-k-")
		if !ok {
			key, ok = strings.CutPrefix(v, "standin-w-")
		}
		if !ok {
			continue
		}
		for _, file := range []string{l.pool.Path("standin-k-"+key) + "/disk.ext4", l.pool.Path("standin-w-"+key) + "/kept.json"} {
			if _, err := os.Stat(file); err != nil {
				l.t.Errorf("%s: what is kept is not whole: %v", when, err)
			}
		}
	}
	for _, v := range volumes {
		if strings.HasPrefix(v, "standin-k-") || strings.HasPrefix(v, "standin-w-") {
			must(l.t, l.pool.Delete(l.t.Context(), v))
		}
	}
}
