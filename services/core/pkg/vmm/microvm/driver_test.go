package microvm_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// hooked is an engine that does something else when it is told to.
type hooked struct {
	microvm.Engine
	freeze   func() error
	saved    func(dir string) error
	restore  func(context.Context) error
	restored func()
}

func (e *hooked) Restore(ctx context.Context, g microvm.Guest, from microvm.Memory) (int, error) {
	if e.restore != nil {
		if err := e.restore(ctx); err != nil {
			return 0, err
		}
	}
	pid, err := e.Engine.Restore(ctx, g, from)
	if e.restored != nil {
		e.restored()
	}
	return pid, err
}

func (e *hooked) Freeze(ctx context.Context, g microvm.Guest) error {
	if err := e.Engine.Freeze(ctx, g); err != nil || e.freeze == nil {
		return err
	}
	return e.freeze()
}

func (e *hooked) Save(ctx context.Context, g microvm.Guest, to microvm.Memory, last bool, disk func(context.Context) error) (time.Duration, error) {
	stood, err := e.Engine.Save(ctx, g, to, last, disk)
	if err == nil && e.saved != nil {
		err = e.saved(to.Dir)
	}
	return stood, err
}

func newHookedLab(t *testing.T, options ...func(*microvm.Config)) (*lab, *hooked) {
	t.Helper()
	e := &hooked{}
	return newLab(t, append(options, func(c *microvm.Config) { e.Engine, c.Engine = c.Engine, e })...), e
}

func code(t *testing.T, err error, want errors.Code) {
	t.Helper()
	if !errors.HasCode(err, want) {
		t.Errorf("%v, not %s", err, want)
	}
}

// What stands still is let go on to hear that it is to end.
func TestStopOfAFrozenMachine(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	must(t, l.Pause(t.Context(), "one", domain.PauseFreeze))
	must(t, l.Stop(t.Context(), "one", time.Minute))
	if told := l.lines("ledger"); !contains(told, "asked one") {
		t.Errorf("it was not asked: %q", told)
	}
}

// However little time its programs have, a machine is told, and has the time
// that it takes to write its disk.
func TestStopWithoutTimeForPrograms(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	must(t, l.Stop(t.Context(), "one", time.Nanosecond))
	if told := l.lines("ledger"); !contains(told, "asked one") {
		t.Errorf("it was not asked: %q", told)
	}
}

// A monitor that ends before its guest is heard is said to have, and nothing of
// it is left.
func TestMonitorEndsWhileItBoots(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := spec("dies")
	s.RootFS = l.dir + "/rootfs"
	_, err := l.Create(t.Context(), s)
	must(t, err)
	err = l.Start(t.Context(), "dies")
	code(t, err, errors.GuestFault)
	if !strings.Contains(errors.Public(err).Message, "ended before its agent answered") {
		t.Errorf("the error is %v", err)
	}
	if got := l.status("dies"); got != vmm.StatusCreated {
		t.Errorf("it is %s", got)
	}
	for _, pattern := range []string{"/run/g/*", "/run/e/.*"} {
		if left, _ := filepath.Glob(l.dir + pattern); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
}

// A machine whose agent does not take up its life again is ended: its memory is
// used up. Its disk is not.
func TestMachineThatIsNotResumed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	l.boot(spec("one"))
	must(t, l.Pause(ctx, "one", domain.PauseMemory))
	refuses := l.dir + "/ledger." + nameRefuses
	must(t, os.WriteFile(refuses, nil, 0o600))
	err := l.Resume(ctx, "one")
	code(t, err, errors.GuestFault)
	if errors.Public(err).Hint == "" {
		t.Error("nothing is said of what to do")
	}
	if got := l.status("one"); got != vmm.StatusCreated {
		t.Errorf("it is %s", got)
	}
	must(t, os.Remove(refuses))
	code(t, l.Resume(ctx, "one"), errors.Conflict)
	must(t, l.Start(ctx, "one"))
	if n := l.used(); n != 1 {
		t.Errorf("its memory was used %d times", n)
	}
}

// A fork that was not told who it is begins again with the disk that its memory
// knows, and is told that it is a fork.
func TestForkThatBeginsAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	l.boot(spec("one"))
	_, err := l.Snapshot(ctx, "one", "snap", domain.SnapshotMemory)
	must(t, err)
	fork := spec("fork")
	fork.RootFS, fork.DiskFrom, fork.Memory = l.dir+"/rootfs", "snap", true
	_, err = l.Create(ctx, fork)
	must(t, err)
	refuses := l.dir + "/ledger." + nameRefuses
	must(t, os.WriteFile(refuses, nil, 0o600))
	if err := l.Start(ctx, "fork"); err == nil {
		t.Fatal("it started")
	}
	must(t, os.Remove(refuses))
	must(t, l.Start(ctx, "fork"))
	if l.life("fork") != l.life("one") {
		t.Error("it does not go on from the memory")
	}
	told := l.lines("ledger")
	if !contains(told, "told fork fork-host fork=true") {
		t.Errorf("it was told %q", told)
	}
	for _, line := range told {
		if strings.HasPrefix(line, "torn") {
			t.Error(line)
		}
	}
}

// A memory is not given to another engine than the one that saved it.
func TestMemoryOfAnotherVersion(t *testing.T) {
	t.Parallel()
	version := "1"
	l := newLab(t, func(c *microvm.Config) { c.Engine.(*standIn).version = version })
	ctx := t.Context()
	l.boot(spec("one"))
	must(t, l.Pause(ctx, "one", domain.PauseMemory))
	version = "2"
	l.reopen()
	err := l.Resume(ctx, "one")
	code(t, err, errors.Conflict)
	if errors.Public(err).Hint == "" {
		t.Error("nothing is said of what to do")
	}
	if got := l.status("one"); got != vmm.StatusPaused {
		t.Errorf("it is %s", got)
	}
	version = "1"
	l.reopen()
	must(t, l.Resume(ctx, "one"))
}

// A saving that fails, and a monitor that leaves a link to a file of the host
// for a memory, leave a machine that runs, and the host as it was.
func TestMemoryThatIsNotSaved(t *testing.T) {
	t.Parallel()
	l, e := newHookedLab(t)
	ctx := t.Context()
	l.boot(spec("one"))
	life := l.life("one")
	secret := l.dir + "/secret"
	must(t, os.WriteFile(secret, nil, 0o600))
	for name, saved := range map[string]func(dir string) error{
		"an error": func(string) error { return errors.New(errors.NoSpace, "full") },
		"a link":   func(dir string) error { return os.Symlink(secret, dir+"/link") },
		"another file's name": func(dir string) error {
			must(t, os.WriteFile(filepath.Dir(dir)+"/other", nil, 0o600))
			return os.Link(filepath.Dir(dir)+"/other", dir+"/name")
		},
		"a directory": func(dir string) error { return os.Mkdir(dir+"/dir", 0o700) },
	} {
		e.saved = saved
		if err := l.Pause(ctx, "one", domain.PauseMemory); err == nil {
			t.Errorf("%s: it is paused", name)
		}
		if got := l.status("one"); got != vmm.StatusRunning {
			t.Errorf("%s: it is %s", name, got)
		}
		if l.life("one") != life {
			t.Errorf("%s: it does not go on", name)
		}
		if _, err := l.Snapshot(ctx, "one", "snap", domain.SnapshotMemory); err == nil {
			t.Errorf("%s: its memory is kept", name)
		}
		if l.life("one") != life {
			t.Errorf("%s: it does not go on", name)
		}
	}
	volumes, err := l.pool.List(ctx)
	must(t, err)
	for _, v := range volumes {
		if v != "standin-m-one" && !strings.HasPrefix(v, "standin-b-") {
			t.Errorf("left the volume %s", v)
		}
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the host's file is %v, %v", info, err)
	}
}

// A machine that could not be frozen runs.
func TestFreezeThatFails(t *testing.T) {
	t.Parallel()
	l, e := newHookedLab(t)
	l.boot(spec("one"))
	e.freeze = func() error { return errors.New(errors.Internal, "it says nothing") }
	code(t, l.Pause(t.Context(), "one", domain.PauseFreeze), errors.Internal)
	if _, err := l.Snapshot(t.Context(), "one", "snap", domain.SnapshotDisk); err == nil {
		t.Error("its disk is kept")
	}
	if got := l.status("one"); got != vmm.StatusRunning {
		t.Errorf("it is %s", got)
	}
	l.life("one") // it answers
}

// Who waits for a machine waits over its pauses, also for one of an earlier driver.
func TestWaitOverPauses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	l.boot(spec("one"))
	must(t, l.Pause(ctx, "one", domain.PauseMemory))
	l.reopen()
	ended := make(chan error, 1)
	go func() {
		_, err := l.Wait(ctx, "one")
		ended <- err
	}()
	must(t, l.Resume(ctx, "one"))
	must(t, l.Pause(ctx, "one", domain.PauseMemory))
	must(t, l.Resume(ctx, "one"))
	select {
	case err := <-ended:
		t.Fatalf("it was said to have ended: %v", err)
	default:
	}
	must(t, l.Stop(ctx, "one", time.Minute))
	must(t, <-ended)
}

// What is in an image is its name, so that builds with the same files have one, which
// is made once whoever wants it; what a crash left of one goes, and so does what
// nobody has any more.
func TestImages(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	images := l.dir + "/state/images/"
	// As a driver left it that named images by their builds.
	must(t, os.WriteFile(images+"build-before.erofs", nil, 0o644))
	var wg sync.WaitGroup
	for id, build := range map[string]string{"one": "build", "two": "build", "three": "twin", "four": "before"} {
		s := spec(id)
		s.RootFS, s.BuildID = l.dir+"/rootfs", build
		wg.Go(func() {
			if _, err := l.Create(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	left := func() map[string]string {
		entries, err := os.ReadDir(images)
		must(t, err)
		names := map[string]string{}
		for _, e := range entries {
			to, _ := os.Readlink(images + e.Name())
			names[e.Name()] = to
		}
		return names
	}
	made := left()
	one := made["build-build.erofs"]
	whole := regexp.MustCompile(`^sha256-[0-9a-f]{64}\.erofs$`)
	if _, ok := made[one]; !ok || !whole.MatchString(one) || made["build-twin.erofs"] != one || len(made) != 4 {
		t.Errorf("made %v", made)
	}
	must(t, os.WriteFile(images+".half.erofs-1", nil, 0o600))
	must(t, os.WriteFile(images+"sha256-old.erofs", nil, 0o600))
	must(t, os.Symlink("sha256-old.erofs", images+"build-old.erofs"))
	long := time.Now().AddDate(0, -1, 0)
	for _, name := range []string{"sha256-old.erofs", "build-before.erofs", one} {
		must(t, os.Chtimes(images+name, long, long))
	}
	l.reopen()
	if now := left(); !maps.Equal(now, made) {
		t.Errorf("left %v of %v", now, made)
	}
	for _, id := range []string{"one", "two", "three"} {
		must(t, l.Delete(t.Context(), id))
	}
	l.reopen()
	if now := left(); len(now) != 1 || now["build-before.erofs"] != "" {
		t.Errorf("left of what nobody has: %v", now)
	}
	s := spec("five")
	s.BuildID, s.RootFS = "other", l.dir+"/nothing"
	_, err := l.Create(t.Context(), s)
	code(t, err, errors.NotFound)
	must(t, l.Delete(t.Context(), "five"))
}

func TestBadSpecs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("origin"))
	for snapshot, kind := range map[string]domain.SnapshotKind{"snap": domain.SnapshotMemory, "disk": domain.SnapshotDisk} {
		_, err := l.Snapshot(t.Context(), "origin", snapshot, kind)
		must(t, err)
	}
	for name, tc := range map[string]struct {
		change func(*vmm.Spec)
		code   errors.Code
	}{
		"an ID with a path":        {func(s *vmm.Spec) { s.MachineID = "../x" }, errors.InvalidArgument},
		"a build with a path":      {func(s *vmm.Spec) { s.BuildID = "a/b" }, errors.InvalidArgument},
		"a snapshot with a path":   {func(s *vmm.Spec) { s.DiskFrom = ".." }, errors.InvalidArgument},
		"memory of nothing":        {func(s *vmm.Spec) { s.Memory = true }, errors.InvalidArgument},
		"a relative root":          {func(s *vmm.Spec) { s.RootFS = "rootfs" }, errors.InvalidArgument},
		"a hostname with a line":   {func(s *vmm.Spec) { s.Hostname = "a\nb" }, errors.InvalidArgument},
		"no processor":             {func(s *vmm.Spec) { s.Resources.MilliCPU = 0 }, errors.InvalidArgument},
		"hardly any memory":        {func(s *vmm.Spec) { s.Resources.MemoryBytes = mib }, errors.InvalidArgument},
		"another network":          {func(s *vmm.Spec) { s.Network = "host" }, errors.InvalidArgument},
		"another platform":         {func(s *vmm.Spec) { s.Platform = "linux/riscv64" }, errors.Unsupported},
		"a mount of the root":      {func(s *vmm.Spec) { s.Mounts = []vmm.HostMount{{Source: "/etc", Target: "/", ReadOnly: true}} }, errors.InvalidArgument},
		"a mount out of it":        {func(s *vmm.Spec) { s.Mounts = []vmm.HostMount{{Source: "/etc", Target: "/a/../b", ReadOnly: true}} }, errors.InvalidArgument},
		"a mount to write to":      {func(s *vmm.Spec) { s.Mounts = []vmm.HostMount{{Source: "/etc", Target: "/a"}} }, errors.Unsupported},
		"a snapshot of nobody":     {func(s *vmm.Spec) { s.DiskFrom = "nobody" }, errors.NotFound},
		"the memory of a disk":     {func(s *vmm.Spec) { s.DiskFrom, s.Memory = "disk", true }, errors.NotFound},
		"a memory of another size": {func(s *vmm.Spec) { s.DiskFrom, s.Memory, s.Resources.MemoryBytes = "snap", true, 256*mib }, errors.InvalidArgument},
		"a memory of other mounts": {func(s *vmm.Spec) {
			s.DiskFrom, s.Memory, s.Mounts = "snap", true, []vmm.HostMount{{Source: "/etc", Target: "/a", ReadOnly: true}}
		}, errors.InvalidArgument},
		"a memory of another build": {func(s *vmm.Spec) { s.DiskFrom, s.Memory, s.BuildID = "snap", true, "other" }, errors.InvalidArgument},
	} {
		s := spec("bad")
		s.RootFS = l.dir + "/rootfs"
		tc.change(&s)
		if _, err := l.Create(t.Context(), s); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, l.Delete(t.Context(), "bad"))
	}
}

// A monitor that was upgraded is another version from then on, in the same driver.
func TestAnotherMonitor(t *testing.T) {
	t.Parallel()
	var engine *standIn
	l := newLab(t, func(c *microvm.Config) { engine = c.Engine.(*standIn) })
	for _, version := range []string{"1", "1", "2"} {
		engine.version = version
		if info := l.Info(t.Context()); !info.Usable || info.Version != version {
			t.Errorf("%+v, want version %s", info, version)
		}
	}
}

// Who asks a machine something as it is deleted leaves nothing of it in this process.
func TestAskedAsItIsDeleted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	for range 5 {
		l.boot(spec("one"))
		var asking sync.WaitGroup
		for n := range 8 {
			asking.Go(func() {
				for gone := false; !gone; {
					var err error
					if n%2 == 0 {
						_, err = l.Usage(ctx, "one")
					} else if conn, derr := l.Dial(ctx, "one", 80); derr == nil {
						_ = conn.Close()
					} else {
						err = derr
					}
					gone = errors.HasCode(err, errors.NotFound)
				}
			})
		}
		time.Sleep(20 * time.Millisecond) // they are at it
		must(t, l.Delete(ctx, "one"))
		asking.Wait()
		if n := l.Clients(); n > 0 {
			t.Fatalf("%d machines are talked to, and none is there", n)
		}
	}
}
