package oci_test

import (
	"context"
	"fmt"
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
	"github.com/aetherium/aetherium/services/core/internal/executable"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
)

// The environment of a process that is to be killed in the middle of its work.
const (
	victimEnv   = "AETHERIUM_TEST_VICTIM"  // the lab's directory
	pointEnv    = "AETHERIUM_TEST_POINT"   // at which call it dies
	runtimeEnv  = "AETHERIUM_TEST_RUNTIME" // also of all tests
	diskEnv     = "AETHERIUM_TEST_DISK"
	agentEnv    = "AETHERIUM_TEST_AGENT"
	templateEnv = "AETHERIUM_TEST_TEMPLATE"
	// everyEnv tries every point instead of some.
	everyEnv = "AETHERIUM_TEST_EVERY_POINT"
)

// bomb kills the process at a given call. The methods it stands before are
// where the driver changes the host, apart from the runtime.
type bomb struct {
	point, calls atomic.Int64
}

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
	oci.Volumes
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
	oci.Network
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

// victim leads machines through their lives until it is killed. Its exit code
// is 0 when it came to the end.
func victim(dir string) int {
	shared.agent, shared.template = os.Getenv(agentEnv), os.Getenv(templateEnv)
	ctx := context.Background()
	b := &bomb{}
	_, _, d, err := openHost(ctx, dir, func(c *oci.Config) {
		c.Volumes, c.Network = bombedVolumes{c.Volumes, b}, bombedNetwork{c.Network, b}
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	point, _ := strconv.ParseInt(os.Getenv(pointEnv), 10, 64)
	b.calls.Store(0)
	b.point.Store(point)
	one, fork := withVolume("one", sharedDir(dir)), withVolume("fork", sharedDir(dir))
	fork.DiskFrom = "snap"
	if err := live(ctx, d, one, fork); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// sharedDir is what both machines of a victim have mounted.
func sharedDir(dir string) string { return dir + "/shared" }

// share makes what a victim's machines have mounted.
func (l *lab) share() {
	l.t.Helper()
	must(l.t, os.Mkdir(sharedDir(l.dir), 0o777))
	must(l.t, os.WriteFile(sharedDir(l.dir)+"/kept", []byte("kept"), 0o600))
}

func live(ctx context.Context, d *oci.Driver, one, fork vmm.Spec) error {
	steps := []func() error{
		func() error { _, err := d.Create(ctx, one); return err },
		func() error { return d.Start(ctx, "one") },
		func() error { _, err := d.Snapshot(ctx, "one", "snap", domain.SnapshotDisk); return err },
		func() error { _, err := d.Create(ctx, fork); return err },
		func() error { return d.Start(ctx, "fork") },
		func() error { return d.Stop(ctx, "one", time.Second) },
		func() error { return d.Start(ctx, "one") },
		func() error { return d.Delete(ctx, "one") },
		func() error { return d.Delete(ctx, "fork") },
		func() error { return d.DeleteSnapshot(ctx, "snap") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// dieAt runs a victim and reports whether it was killed.
func (l *lab) dieAt(point int, runtime string) bool {
	l.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+l.dir, pointEnv+"="+strconv.Itoa(point), runtimeEnv+"="+runtime,
		agentEnv+"="+shared.agent, templateEnv+"="+shared.template)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	l.t.Fatalf("the victim failed: %v\n%s", err, out)
	return false
}

// sweep deletes what there is, as a worker does with machines it does not
// know, and looks that nothing is left.
func (l *lab) sweep(when string) {
	l.t.Helper()
	ctx := l.t.Context()
	l.open()
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
	machines, err := l.net.List(ctx)
	must(l.t, err)
	if len(volumes)+len(machines) > 0 {
		l.t.Errorf("%s: left volumes %v, network %v", when, volumes, machines)
	}
	for _, pattern := range []string{"/run/[bemprs]/*", "/state/machines/*", "/state/machines/.*"} {
		if files, _ := filepath.Glob(l.dir + pattern); len(files) > 0 {
			l.t.Errorf("%s: left %v", when, files)
		}
	}
	if text, err := os.ReadFile(sharedDir(l.dir) + "/kept"); err != nil || string(text) != "kept" {
		l.t.Errorf("%s: what was mounted has %q, %v", when, text, err)
	}
	l.noMounts()
	must(l.t, errors.Join(l.Close(), l.net.Close(), l.pool.Close()))
}

// noMounts looks that nothing is mounted on the host for a machine.
func (l *lab) noMounts() {
	l.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(l.t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.dir+"/run/m/") || strings.Contains(line, sharedDir(l.dir)) {
			l.t.Errorf("still mounted: %s", line)
		}
	}
}

func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.share()
	must(t, errors.Join(l.Close(), l.net.Close(), l.pool.Close()))
	step := 7
	if os.Getenv(everyEnv) != "" {
		step = 1
	}
	point := 1
	for ; l.dieAt(point, ociRuntime()); point += step {
		l.sweep(fmt.Sprintf("killed at call %d", point))
	}
	if point < 40 {
		t.Errorf("the victim made only %d calls", point)
	}
	l.open()
}

// While the runtime works, the process that called it dies: before, in the
// middle, and just after.
func TestKilledDuringStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.share()
	must(t, errors.Join(l.Close(), l.net.Close(), l.pool.Close()))
	runtime := ociRuntime()
	for name, what := range map[string]string{
		"before": `kill -9 $PPID; exec RUNTIME "$@"`,
		"5ms":    `(sleep 0.005; kill -9 $PPID) & exec RUNTIME "$@"`,
		"10ms":   `(sleep 0.01; kill -9 $PPID) & exec RUNTIME "$@"`,
		"20ms":   `(sleep 0.02; kill -9 $PPID) & exec RUNTIME "$@"`,
		"30ms":   `(sleep 0.03; kill -9 $PPID) & exec RUNTIME "$@"`,
		"after":  `RUNTIME "$@"; kill -9 $PPID`,
	} {
		script := filepath.Join(l.dir, runtime+"-"+name)
		text := "#!/bin/sh\ncase \"$*\" in *' run '*) ;; *) exec RUNTIME \"$@\";; esac\n" + what + "\n"
		must(t, executable.Install(strings.NewReader(strings.ReplaceAll(text, "RUNTIME", runtime)), script, time.Time{}))
		if !l.dieAt(0, script) {
			t.Errorf("%s: the victim lived", name)
		}
		l.sweep(name)
	}
	l.open()
}

// A record whose writer was killed before it had its name is found and removed
// like everything else of a machine.
func TestRecordsCutShort(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	left := []string{l.dir + "/state/machines/.one.json", l.dir + "/run/p/.two", l.dir + "/run/e/.three"}
	for _, file := range left {
		must(t, os.WriteFile(file, []byte(`{"versi`), 0o600))
	}
	l.reopen()
	for _, id := range []string{"one", "two", "three"} {
		if got := l.status(id); got != vmm.StatusBroken {
			t.Errorf("%s is %s", id, got)
		}
		must(t, l.Delete(t.Context(), id))
	}
	for _, file := range left {
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("%s: %v", file, err)
		}
	}
	if states, err := l.List(t.Context()); err != nil || len(states) > 0 {
		t.Errorf("%v, %v", states, err)
	}
}
