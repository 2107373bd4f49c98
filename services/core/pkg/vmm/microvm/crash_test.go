package microvm_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// The environment of a process that is to be killed in the middle of its work.
const (
	victimEnv = "AETHERIUM_TEST_VICTIM" // the lab's directory
	pointEnv  = "AETHERIUM_TEST_POINT"  // at which call it dies
	// everyEnv tries every point instead of some.
	everyEnv = "AETHERIUM_TEST_EVERY_POINT"
	// keepsEnv has it keep memories of booted machines.
	keepsEnv = "AETHERIUM_TEST_KEEPS"
	// standsEnv has it keep monitors for paused machines.
	standsEnv = "AETHERIUM_TEST_STANDS"
)

// bomb kills the process at a given call. The methods it stands before and
// behind are where the driver changes the host.
type bomb struct{ point, calls atomic.Int64 }

func (b *bomb) tick() {
	if b.calls.Add(1) == b.point.Load() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it comes
	}
}

func (b *bomb) around(f func() error) error {
	b.tick()
	defer b.tick()
	return f()
}

type bombedVolumes struct {
	microvm.Volumes
	*bomb
}

func (v bombedVolumes) Create(ctx context.Context, id string, limit int64) error {
	return v.around(func() error { return v.Volumes.Create(ctx, id, limit) })
}

func (v bombedVolumes) Clone(ctx context.Context, src, dst string, limit int64) error {
	return v.around(func() error { return v.Volumes.Clone(ctx, src, dst, limit) })
}

func (v bombedVolumes) Delete(ctx context.Context, id string) error {
	return v.around(func() error { return v.Volumes.Delete(ctx, id) })
}

func (v bombedVolumes) Path(id string) string {
	v.tick()
	return v.Volumes.Path(id)
}

type bombedNetwork struct {
	microvm.Network
	*bomb
}

func (n bombedNetwork) Acquire(ctx context.Context, id string, mode domain.NetworkMode, hostname string) (att network.Attachment, err error) {
	err = n.around(func() error {
		att, err = n.Network.Acquire(ctx, id, mode, hostname)
		return err
	})
	return att, err
}

func (n bombedNetwork) Release(ctx context.Context, id string) error {
	return n.around(func() error { return n.Network.Release(ctx, id) })
}

type bombedEngine struct {
	microvm.Engine
	*bomb
}

func (e bombedEngine) Boot(ctx context.Context, g microvm.Guest) (pid int, err error) {
	err = e.around(func() error {
		pid, err = e.Engine.Boot(ctx, g)
		return err
	})
	return pid, err
}

func (e bombedEngine) Restore(ctx context.Context, g microvm.Guest, from microvm.Memory) (pid int, err error) {
	err = e.around(func() error {
		pid, err = e.Engine.Restore(ctx, g, from)
		return err
	})
	return pid, err
}

func (e bombedEngine) Freeze(ctx context.Context, g microvm.Guest) error {
	return e.around(func() error { return e.Engine.Freeze(ctx, g) })
}

func (e bombedEngine) Thaw(ctx context.Context, g microvm.Guest) error {
	return e.around(func() error { return e.Engine.Thaw(ctx, g) })
}

func (e bombedEngine) Save(ctx context.Context, g microvm.Guest, to microvm.Memory, last bool, disk func(context.Context) error) (stood time.Duration, err error) {
	err = e.around(func() error {
		stood, err = e.Engine.Save(ctx, g, to, last, func(ctx context.Context) error {
			return e.around(func() error { return disk(ctx) })
		})
		return err
	})
	return stood, err
}

func (e bombedEngine) Dial(ctx context.Context, g microvm.Guest) (net.Conn, error) {
	e.tick()
	return e.Engine.Dial(ctx, g)
}

func (e bombedEngine) Clean(ctx context.Context, g microvm.Guest) error {
	return e.around(func() error { return e.Engine.Clean(ctx, g) })
}

// victim leads machines through their lives until it is killed. Its exit code
// is 0 when it came to the end.
func victim(dir string) int {
	ctx := context.Background()
	b := &bomb{}
	bombed := func(c *microvm.Config) {
		c.Volumes, c.Network, c.Engine = bombedVolumes{c.Volumes, b}, bombedNetwork{c.Network, b}, bombedEngine{c.Engine, b}
	}
	var err error
	kernel := os.Getenv(onQEMUEnv)
	if kernel != "" {
		bombed, err = victimOnQEMU(b, kernel)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	options, made := []func(*microvm.Config){bombed}, chan decision(nil)
	if os.Getenv(keepsEnv) != "" {
		made = make(chan decision, 16)
		options = append(options, keeping(1, made))
	}
	if os.Getenv(standsEnv) != "" {
		options = append(options, standing(1))
	}
	_, _, d, err := openHost(ctx, dir, options...)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	todo := steps(ctx, d, dir+"/rootfs")
	if made != nil {
		todo = keeps(ctx, d, dir+"/rootfs", made)
	}
	if kernel != "" {
		todo = sleeps(ctx, d, dir)
	}
	point, _ := strconv.ParseInt(os.Getenv(pointEnv), 10, 64)
	b.calls.Store(0)
	b.point.Store(point)
	for _, s := range todo {
		if err := s.do(); err != nil {
			fmt.Println(s.name, err)
			return 1
		}
		if err := note(dir+"/done", s.name); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// step is one that has happened once its name is noted.
type step struct {
	name string
	do   func() error
}

func steps(ctx context.Context, d *microvm.Driver, rootfs string) []step {
	one, fork := spec("one"), spec("fork")
	one.RootFS, fork.RootFS = rootfs, rootfs
	fork.DiskFrom, fork.Memory = "snap", true
	stand := step{"stand by", func() error { d.Settle(); return nil }} // where it is to
	return []step{
		{"create", func() error { _, err := d.Create(ctx, one); return err }},
		{"start", func() error { return d.Start(ctx, "one") }},
		{"freeze", func() error { return d.Pause(ctx, "one", domain.PauseFreeze) }},
		{"thaw", func() error { return d.Resume(ctx, "one") }},
		{"pause", func() error { return d.Pause(ctx, "one", domain.PauseMemory) }},
		stand,
		{"resume", func() error { return d.Resume(ctx, "one") }},
		{"snapshot", func() error { _, err := d.Snapshot(ctx, "one", "snap", domain.SnapshotMemory); return err }},
		{"disk", func() error { _, err := d.Snapshot(ctx, "one", "disk", domain.SnapshotDisk); return err }},
		{"create fork", func() error { _, err := d.Create(ctx, fork); return err }},
		{"start fork", func() error { return d.Start(ctx, "fork") }},
		{"pause again", func() error { return d.Pause(ctx, "one", domain.PauseMemory) }},
		stand,
		{"snapshot of paused", func() error { _, err := d.Snapshot(ctx, "one", "asleep", domain.SnapshotMemory); return err }},
		{"resume again", func() error { return d.Resume(ctx, "one") }},
		{"stop", func() error { return d.Stop(ctx, "one", time.Minute) }},
		{"start again", func() error { return d.Start(ctx, "one") }},
		{"delete", func() error { return d.Delete(ctx, "one") }},
		{"delete fork", func() error { return d.Delete(ctx, "fork") }},
		{"delete snapshots", func() error {
			return errors.Join(d.DeleteSnapshot(ctx, "snap"), d.DeleteSnapshot(ctx, "disk"), d.DeleteSnapshot(ctx, "asleep"))
		}},
	}
}

// dieAt runs a victim and gives the steps that it had done when it was killed;
// ok is false when it came to the end.
func (l *lab) dieAt(point int, env ...string) (done map[string]bool, ok bool) {
	l.t.Helper()
	must(l.t, os.WriteFile(l.dir+"/done", nil, 0o600))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+l.dir, pointEnv+"="+strconv.Itoa(point))
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !killed {
		l.t.Fatalf("the victim of point %d failed: %v\n%s", point, err, out)
	}
	done = map[string]bool{}
	for _, name := range l.lines("done") {
		done[name] = true
	}
	return done, killed
}

// kept checks that what was done is so, and that it goes on from there.
func (l *lab) kept(when string, done map[string]bool) {
	l.t.Helper()
	ctx := l.t.Context()
	status := l.status("one")
	if done["start"] && !done["resume again"] {
		if paused := done["pause"] && !done["resume"] || done["pause again"] && !done["resume again"]; paused && status == vmm.StatusCreated {
			l.t.Errorf("%s: the paused machine has lost its memory", when)
		}
		switch status {
		case vmm.StatusPaused:
			must(l.t, l.Resume(ctx, "one"))
		case vmm.StatusRunning:
		default:
			l.t.Fatalf("%s: the machine is %s", when, status)
		}
		if born := l.born("one"); l.life("one") != born {
			l.t.Errorf("%s: the machine lives another life than that of its boot", when)
		}
	}
	if done["create fork"] && !done["delete"] {
		if status := l.status("fork"); status == vmm.StatusCreated {
			if done["start fork"] {
				l.t.Errorf("%s: the fork does not run", when)
			}
			must(l.t, l.Start(ctx, "fork"))
		} else if status != vmm.StatusRunning {
			l.t.Fatalf("%s: the fork is %s", when, status)
		}
		if born := l.born("one"); l.life("fork") != born {
			l.t.Errorf("%s: the fork does not go on from its origin's memory", when)
		}
		if told := l.lines("ledger"); !contains(told, "told fork fork-host fork=true") {
			l.t.Errorf("%s: the fork was not told that it is one: %q", when, told)
		}
	}
	used := map[string]int{}
	for _, line := range l.lines("ledger") {
		word := strings.Fields(line)
		switch {
		case word[0] == "torn":
			l.t.Errorf("%s: %s", when, line)
		case word[0] == "used" && strings.Contains(line, "standin-p-"):
			if used[word[1]]++; used[word[1]] > 1 {
				l.t.Errorf("%s: a machine went on twice from the same memory", when)
			}
		}
	}
}

// sweep deletes what there is, as a worker does with machines it does not
// know, and looks that nothing is left.
func (l *lab) sweep(when string) {
	l.t.Helper()
	ctx := l.t.Context()
	states, err := l.List(ctx)
	must(l.t, err)
	for _, s := range states {
		must(l.t, l.Delete(ctx, s.MachineID))
	}
	snapshots, err := l.ListSnapshots(ctx)
	must(l.t, err)
	for _, s := range snapshots {
		must(l.t, l.DeleteSnapshot(ctx, s))
	}
	left, err := l.List(ctx)
	must(l.t, err)
	if len(left) > 0 {
		l.t.Errorf("%s: List after Delete: %v", when, left)
	}
	volumes, err := l.pool.List(ctx)
	must(l.t, err)
	for _, v := range volumes {
		if !strings.HasPrefix(v, "standin-b-") { // empty disks are kept
			l.t.Errorf("%s: left the volume %s", when, v)
		}
	}
	machines, err := l.net.List(ctx)
	must(l.t, err)
	if len(machines) > 0 {
		l.t.Errorf("%s: left the network of %v", when, machines)
	}
	for _, pattern := range []string{
		l.dir + "/run/[egp]/*", l.dir + "/run/[egp]/.[a-z]*", l.dir + "/state/machines/*", l.dir + "/state/machines/.[a-z]*",
		l.dir + "/state/images/.[a-z]*",
		"/sys/fs/cgroup/*/aetherium-" + l.instance() + ".*/*/cgroup.procs", "/sys/fs/cgroup/aetherium-" + l.instance() + ".*/*/cgroup.procs",
	} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			l.t.Errorf("%s: left %v", when, files)
		}
	}
	must(l.t, os.Truncate(l.dir+"/ledger", 0))
}

// A driver that is killed at any call leaves what its next life takes up: what
// was done is so, a memory is gone on from once, and all of it can be removed.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{"": nil, "standing by": {standsEnv + "=1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killedAnywhere(t, env...)
		})
	}
}

func killedAnywhere(t *testing.T, env ...string) {
	t.Helper()
	l := newLab(t)
	must(t, note(l.dir+"/ledger", "begin"))
	l.close()
	stride := 13
	if os.Getenv(everyEnv) != "" {
		stride = 1
	}
	point := 1
	for ; ; point += stride {
		done, killed := l.dieAt(point, env...)
		l.open()
		if !killed {
			break
		}
		when := fmt.Sprintf("killed at call %d", point)
		l.kept(when, done)
		l.sweep(when)
		l.close()
	}
	if point < 150 {
		t.Errorf("the victim made only %d calls", point)
	}
}
