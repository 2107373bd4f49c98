package oci_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/disk"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest/attack"
)

const mib = 1 << 20

// shared is what the tests of one run have in common: made once, because a
// template takes its time.
var shared struct {
	agent    string
	template string
	skip     string
}

func TestMain(m *testing.M) {
	attack.RunNetd()
	if dir := os.Getenv(victimEnv); dir != "" {
		os.Exit(victim(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "oci-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// ociRuntime is the OCI runtime under test: AETHERIUM_TEST_RUNTIME, or crun.
func ociRuntime() string { return cmp.Or(os.Getenv(runtimeEnv), "crun") }

// diskBackend keeps the volumes: AETHERIUM_TEST_DISK, or btrfs.
func diskBackend() string { return cmp.Or(os.Getenv(diskEnv), disk.BackendBtrfs) }

// prepare builds the stand-in agent and a template. Where there is no Go, the
// agent is in AETHERIUM_TEST_AGENT; a template of one's own is in AETHERIUM_TEST_ROOTFS.
func prepare(dir string) error {
	if os.Geteuid() != 0 {
		shared.skip = "machines need root"
		return nil
	}
	for _, tool := range []string{ociRuntime(), "mkfs." + diskBackend()} {
		if _, err := exec.LookPath(tool); err != nil {
			shared.skip = tool + " is not installed"
			return nil //nolint:nilerr // the tests are skipped
		}
	}
	if shared.agent = os.Getenv(agentEnv); shared.agent == "" {
		shared.agent = filepath.Join(dir, "agent")
		build := exec.Command("go", "build", "-o", shared.agent, "./testdata/agent")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building the stand-in agent: %w\n%s", err, out)
		}
	}
	if shared.template = os.Getenv("AETHERIUM_TEST_ROOTFS"); shared.template != "" {
		return nil
	}
	shared.template = filepath.Join(dir, "rootfs")
	return makeTemplate(shared.template)
}

// makeTemplate makes a root filesystem of the host's shell and tools with the
// libraries they need.
func makeTemplate(root string) error {
	for _, d := range []string{"etc", "tmp", "root", "home/user", "usr/bin", "usr/sbin", "var/lib/dir", "mnt"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"bin": "usr/bin", "sbin": "usr/sbin"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			return err
		}
	}
	for _, tool := range []string{
		"sh", "cat", "ls", "id", "stat", "rm", "mv", "mkdir", "chown", "chmod", "dd", "sleep", "hostname", "ln",
		"touch", "grep", "wc", "mknod", "mount", "test", "true", "sync", "readlink",
	} {
		path, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		if err := install(root, path, "/usr/bin/"+tool); err != nil {
			return err
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
	return errors.Join(
		os.WriteFile(root+"/etc/passwd", []byte(passwd), 0o644),
		os.WriteFile(root+"/etc/group", []byte("root:x:0:\nuser:x:1000:\n"), 0o644),
		os.WriteFile(root+"/var/lib/dir/file", []byte("template\n"), 0o644),
		os.Chown(root+"/home/user", 1000, 1000), os.Chmod(root+"/tmp", 0o1777),
	)
}

// install copies a program and, as ldd(1) tells, its libraries.
func install(root, program, to string) error {
	copyFile := func(from, to string) error {
		dst := filepath.Join(root, to)
		if _, err := os.Stat(dst); err == nil {
			return nil
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		return os.WriteFile(dst, content, 0o755)
	}
	if err := copyFile(program, to); err != nil {
		return err
	}
	out, _ := exec.Command("ldd", program).Output() // fails for what is static
	for field := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(field, "/") {
			if err := copyFile(field, field); err != nil {
				return err
			}
		}
	}
	return nil
}

// lab is a host of its own for a test: state, volumes, network and driver.
type lab struct {
	*oci.Driver
	t       testing.TB
	dir     string
	pool    *disk.Pool
	net     *network.Manager
	options []func(*oci.Config)
}

var instances atomic.Int64

func newLab(t testing.TB, options ...func(*oci.Config)) *lab {
	t.Helper()
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	// Sockets want a short path, which t.TempDir has not.
	dir, err := os.MkdirTemp("/tmp", "oci-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	must(t, os.WriteFile(dir+"/instance", fmt.Appendf(nil, "t%d-%d", os.Getpid(), instances.Add(1)), 0o600))
	l := &lab{t: t, dir: dir, options: options}
	t.Cleanup(l.demolish)
	l.open()
	return l
}

func (l *lab) open() {
	l.t.Helper()
	var err error
	l.pool, l.net, l.Driver, err = openHost(l.t.Context(), l.dir, l.options...)
	must(l.t, err)
}

// openHost opens what a worker process would.
func openHost(ctx context.Context, dir string, options ...func(*oci.Config)) (*disk.Pool, *network.Manager, *oci.Driver, error) {
	instance, err := os.ReadFile(dir + "/instance")
	if err != nil {
		return nil, nil, nil, err
	}
	pool, err := disk.Open(ctx, disk.Config{Dir: dir + "/data", Backend: diskBackend(), Size: 4 << 30})
	if err != nil {
		return nil, nil, nil, err
	}
	manager, err := network.Open(ctx, network.Config{
		Instance: string(instance), RuntimeDir: dir + "/net", PoolNAT: -1, PoolNone: 2,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := oci.Config{
		Instance: string(instance), StateDir: dir + "/state", RuntimeDir: dir + "/run", Runtime: ociRuntime(),
		AgentPath: shared.agent, Network: manager, Volumes: pool,
	}
	for _, o := range options {
		o(&cfg)
	}
	driver, err := oci.New(ctx, cfg)
	return pool, manager, driver, err
}

// reopen does what a restart of the worker does.
func (l *lab) reopen() {
	l.t.Helper()
	must(l.t, errors.Join(l.Close(), l.net.Close(), l.pool.Close()))
	l.open()
}

// demolish removes everything, and fails the test for what is then still there.
func (l *lab) demolish() {
	ctx := context.Background()
	if l.Driver != nil {
		states, err := l.List(ctx)
		for _, s := range states {
			err = errors.Join(err, l.Delete(ctx, s.MachineID))
		}
		if err = errors.Join(err, l.Teardown(ctx), l.Close()); err != nil {
			l.t.Error(err)
		}
	}
	if l.net != nil {
		if err := errors.Join(l.net.Teardown(ctx), l.net.Close()); err != nil {
			l.t.Error(err)
		}
	}
	if l.pool != nil {
		if err := errors.Join(l.pool.Close(), l.pool.Unmount(ctx)); err != nil {
			l.t.Error(err)
		}
	}
	l.noLeaks()
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Error(err)
	}
}

// noLeaks looks through the host for anything with the lab's name on it.
func (l *lab) noLeaks() {
	l.t.Helper()
	instance, err := os.ReadFile(l.dir + "/instance")
	must(l.t, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(l.t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.dir+"/") {
			l.t.Errorf("still mounted: %s", line)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/aetherium-" + string(instance))
	must(l.t, err)
	flat, err := filepath.Glob("/sys/fs/cgroup/aetherium-" + string(instance))
	must(l.t, err)
	if groups = append(groups, flat...); len(groups) > 0 {
		l.t.Errorf("control groups left: %v", groups)
	}
}

func spec(id string) vmm.Spec {
	return vmm.Spec{
		MachineID: id, RootFS: shared.template, BuildID: "build1", Network: domain.NetworkNone, Hostname: id + "-host",
		Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 256 * mib, DiskBytes: 128 * mib, PIDs: 256},
	}
}

// boot creates and starts a machine.
func (l *lab) boot(s vmm.Spec) {
	l.t.Helper()
	_, err := l.Create(l.t.Context(), s)
	must(l.t, err)
	must(l.t, l.Start(l.t.Context(), s.MachineID))
}

// post makes a request of the stand-in agent.
func (l *lab) post(id, path, body string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return l.Dial(ctx, id, vmm.AgentPort)
		},
	}}
	resp, err := client.Post("http://machine"+path, "text/plain", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return string(out), err
}

// sh runs a script in a machine as its root and returns what it printed.
func (l *lab) sh(id, script string) string {
	l.t.Helper()
	out, err := l.post(id, "/sh", script)
	must(l.t, err)
	return strings.TrimSpace(out)
}

// as runs a script in a machine as another of its users.
func (l *lab) as(id string, uid int, script string) string {
	l.t.Helper()
	out, err := l.post(id, fmt.Sprintf("/sh?uid=%d", uid), script)
	must(l.t, err)
	return strings.TrimSpace(out)
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
