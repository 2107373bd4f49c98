package microvm_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

const mib = 1 << 20

func TestMain(m *testing.M) {
	if told := os.Getenv(monitorEnv); told != "" {
		os.Exit(runMonitor(told))
	}
	attack.RunNetd()
	if dir := os.Getenv(victimEnv); dir != "" {
		os.Exit(victim(dir))
	}
	os.Exit(m.Run())
}

// lab is a host of its own for a test: state, volumes, network and a driver with
// the stand-in for an engine.
type lab struct {
	*microvm.Driver
	t    testing.TB
	dir  string
	pool *disk.Pool
	net  *network.Manager
	open func()
}

var instances atomic.Int64

func newLab(t testing.TB, options ...func(*microvm.Config)) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines need root")
	}
	for _, tool := range []string{"mkfs.erofs", "mke2fs", "mkfs." + diskBackend()} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	// Sockets want a short path, which t.TempDir has not.
	dir, err := os.MkdirTemp("/tmp", "mvm-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	must(t, os.WriteFile(dir+"/instance", fmt.Appendf(nil, "m%d-%d", os.Getpid(), instances.Add(1)), 0o600))
	must(t, os.MkdirAll(dir+"/rootfs/etc", 0o755))
	must(t, os.Symlink("/proc/self/exe", filepath.Join(dir, attack.NetdName)))
	l := &lab{t: t, dir: dir}
	l.open = func() {
		t.Helper()
		var err error
		l.pool, l.net, l.Driver, err = openHost(context.WithoutCancel(t.Context()), dir, options...)
		must(t, err)
	}
	t.Cleanup(l.demolish)
	l.open()
	return l
}

// diskBackend keeps the volumes: AETHERIUM_TEST_DISK, or btrfs.
func diskBackend() string { return cmp.Or(os.Getenv("AETHERIUM_TEST_DISK"), disk.BackendBtrfs) }

// openHost opens what a worker process would.
func openHost(ctx context.Context, dir string, options ...func(*microvm.Config)) (*disk.Pool, *network.Manager, *microvm.Driver, error) {
	instance, err := os.ReadFile(dir + "/instance")
	if err != nil {
		return nil, nil, nil, err
	}
	size := int64(4 << 30)
	if text, err := os.ReadFile(dir + "/size"); err == nil {
		if size, err = strconv.ParseInt(string(text), 10, 64); err != nil {
			return nil, nil, nil, err
		}
	}
	pool, err := disk.Open(ctx, disk.Config{Dir: dir + "/data", Backend: diskBackend(), Size: size})
	if err != nil {
		return nil, nil, nil, err
	}
	// Labs lease what there is once on the host as servers do: they are on the same.
	manager, err := network.Open(ctx, network.Config{
		Instance: string(instance), RuntimeDir: dir + "/net", PoolNAT: -1, PoolNone: -1,
		NetdPath: filepath.Join(dir, attack.NetdName),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := microvm.Config{
		Instance: string(instance), StateDir: dir + "/state", RuntimeDir: dir + "/run",
		Engine: &standIn{ledger: dir + "/ledger", version: "1"}, Network: manager.For("standin"), Volumes: pool,
		Kernel: func(context.Context) (microvm.Kernel, error) { return microvm.Kernel{Version: "1"}, nil },
	}
	for _, o := range options {
		o(&cfg)
	}
	driver, err := microvm.New(ctx, cfg)
	return pool, manager, driver, err
}

func (l *lab) close() {
	l.t.Helper()
	must(l.t, errors.Join(l.Close(), l.net.Close(), l.pool.Close()))
	l.Driver = nil
}

// reopen does what a restart of the worker does.
func (l *lab) reopen() {
	l.t.Helper()
	l.close()
	l.open()
}

// demolish removes everything.
func (l *lab) demolish() {
	if l.Driver == nil {
		l.open()
	}
	ctx := context.Background()
	states, err := l.List(ctx)
	for _, s := range states {
		err = errors.Join(err, l.Delete(ctx, s.MachineID))
	}
	err = errors.Join(err, l.Teardown(ctx), l.Close(), l.net.Teardown(ctx), l.net.Close(), l.pool.Close(), l.pool.Unmount(ctx), os.RemoveAll(l.dir))
	if err != nil {
		l.t.Error(err)
	}
}

func (l *lab) instance() string {
	raw, err := os.ReadFile(l.dir + "/instance")
	must(l.t, err)
	return string(raw)
}

// lines reads one of the lab's files.
func (l *lab) lines(name string) []string {
	raw, err := os.ReadFile(filepath.Join(l.dir, name))
	must(l.t, err)
	return slices.DeleteFunc(strings.Split(string(raw), "\n"), func(s string) bool { return s == "" })
}

func contains(lines []string, line string) bool { return slices.Contains(lines, line) }

func note(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

func spec(id string) vmm.Spec {
	return vmm.Spec{
		MachineID: id, BuildID: "build", Network: domain.NetworkNone, Hostname: id + "-host",
		Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 * mib, DiskBytes: 16 * mib, PIDs: 256},
	}
}

// boot creates and starts a machine.
func (l *lab) boot(s vmm.Spec) {
	l.t.Helper()
	s.RootFS = l.dir + "/rootfs"
	_, err := l.Create(l.t.Context(), s)
	must(l.t, err)
	must(l.t, l.Start(l.t.Context(), s.MachineID))
}

// life asks a machine which life it lives.
func (l *lab) life(id string) string {
	l.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.Dial(ctx, id, vmm.AgentPort) },
	}}
	resp, err := client.Post("http://machine/life", "", nil)
	must(l.t, err)
	defer resp.Body.Close()
	var now life
	must(l.t, json.NewDecoder(resp.Body).Decode(&now))
	return now.Life
}

// born is the life of a machine's first boot that was heard of, by the ledger.
func (l *lab) born(id string) (life string) {
	for _, line := range l.lines("ledger") {
		if word := strings.Fields(line); word[0] == "born" && word[1] == id {
			life = word[2]
		}
		if line == "told "+id+" "+id+"-host fork=false" {
			return life
		}
	}
	return life
}

func (l *lab) status(id string) vmm.Status {
	l.t.Helper()
	states, err := l.List(l.t.Context())
	must(l.t, err)
	for _, s := range states {
		if s.MachineID == id {
			return s.Status
		}
	}
	return "absent"
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
