// Package cgroup2 tests the product on a host with cgroup v2 alone, in the
// machine that run.sh boots: it needs busybox, and a data directory on the
// file system under test.
package cgroup2

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/tests/internal/server"
	"golang.org/x/sys/unix"
)

const (
	dataEnv    = "AETHERIUM_TEST_DATA"    // the data directory
	runtimeEnv = "AETHERIUM_TEST_RUNTIME" // the OCI runtime
	fsEnv      = "AETHERIUM_TEST_FS"      // the file system that the volumes are to be on
)

// product is one server with a template of busybox.
type product struct {
	*server.Server
	t *testing.T
}

func start(t *testing.T) *product {
	t.Helper()
	data := os.Getenv(dataEnv)
	if data == "" {
		t.Skip("runs in the machine that run.sh boots")
	}
	s, err := server.New(data, "AETHERIUM_BASE_SKIP=true", "AETHERIUM_LOG_LEVEL=debug", "AETHERIUM_NETWORK_POOL=1", "AETHERIUM_POOL_SIZE=0",
		"AETHERIUM_OCI_RUNTIME="+os.Getenv(runtimeEnv), "AETHERIUM_DISK_SIZE=2GiB", "AETHERIUM_VM_DISK=256MiB")
	must(t, err)
	p := &product{Server: s, t: t}
	t.Cleanup(p.end)
	must(t, p.Start(t.Context()))
	root := t.TempDir()
	plant(t, root)
	p.cli("template", "build", "base", "--dir", root)
	return p
}

// end takes the server down and looks that nothing of it is left.
func (p *product) end() {
	ctx := context.Background()
	if p.t.Failed() {
		p.t.Log(p.Log())
	}
	if err := p.Down(ctx, "--purge"); err != nil {
		p.t.Error(err)
	}
	if p.Instance() == "" {
		return // it was never up: there are no names to look for
	}
	if left := p.Footprint(ctx); len(left) > 0 {
		p.t.Errorf("down left something behind: %v", left)
	}
	if _, err := os.Stat(p.DataDir); !os.IsNotExist(err) {
		p.t.Errorf("the data directory is still there: %v", err)
	}
}

// plant makes a root filesystem of busybox alone.
func plant(t *testing.T, root string) {
	t.Helper()
	must(t, os.Chmod(root, 0o755))
	for _, d := range []string{"bin", "etc", "tmp", "root", "home/user", "usr/bin", "var", "proc", "sys", "dev"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	program, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(root+"/bin/busybox", program, 0o755))
	applets, err := exec.Command(busybox, "--list").Output()
	must(t, err)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			must(t, os.Symlink("busybox", root+"/bin/"+name))
		}
	}
	must(t, os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(root+"/etc/group", []byte("root:x:0:\nuser:x:1000:\n"), 0o644))
	must(t, errors.Join(os.Chown(root+"/home/user", 1000, 1000), os.Chmod(root+"/tmp", 0o1777)))
}

// cli runs the command line, which is to succeed.
func (p *product) cli(args ...string) string {
	p.t.Helper()
	out, err := p.CLI(p.t.Context(), args...)
	must(p.t, err)
	return strings.TrimSpace(out)
}

// sh runs a shell line in a VM and returns its output and exit code.
func (p *product) sh(vm, line string) (string, int) {
	p.t.Helper()
	cmd := p.Command(p.t.Context(), "exec", vm, "--", "sh", "-c", line)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
}

// setting reads a file of the only control group whose memory limit is the given one.
func (p *product) setting(memory int64, file string) string {
	p.t.Helper()
	groups, err := filepath.Glob("/sys/fs/cgroup/aetherium-" + p.Instance() + "/*")
	must(p.t, err)
	for _, g := range groups {
		if limit, err := os.ReadFile(g + "/memory.max"); err == nil && strings.TrimSpace(string(limit)) == strconv.FormatInt(memory, 10) {
			value, err := os.ReadFile(filepath.Join(g, file))
			must(p.t, err)
			return strings.TrimSpace(string(value))
		}
	}
	p.t.Fatalf("no control group of %v has a memory limit of %d", groups, memory)
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestProduct(t *testing.T) {
	p := start(t)
	var null unix.Stat_t
	must(t, unix.Stat("/dev/null", &null))
	h, err := cgroup.Detect()
	must(t, err)
	if !h.Unified() {
		t.Error("this is not cgroup v2")
	}
	p.volumes()
	p.run()
	vm := p.cli("vm", "create", "--quiet", "--network", "none", "--memory", "96MiB", "--disk", "48MiB", "--cpus", "0.5", "--pids", "40")
	p.settings()
	p.disk(vm)
	p.memory(vm)
	p.processes(vm)
	p.pause(vm)
	p.fork(vm)
	p.killNine(vm)
	p.restart(vm)
	var after unix.Stat_t
	must(t, unix.Stat("/dev/null", &after))
	if after.Uid != null.Uid || after.Mode != null.Mode {
		t.Errorf("the host's /dev/null changed hands: %d %o", after.Uid, after.Mode)
	}
}

// The volumes are on the file system that was meant, and not in a file there.
func (p *product) volumes() {
	var st unix.Statfs_t
	must(p.t, unix.Statfs(p.DataDir+"/vmdata", &st))
	magic := map[string]int64{"xfs": unix.XFS_SUPER_MAGIC, "btrfs": unix.BTRFS_SUPER_MAGIC}
	_, err := os.Stat(p.DataDir + "/vmdata.img")
	want, file := strings.CutSuffix(os.Getenv(fsEnv), "-file")
	if st.Type != magic[want] || (err == nil) != file {
		p.t.Errorf("the volumes are on %x, in a file: %v; want %s", st.Type, err == nil, os.Getenv(fsEnv))
	}
}

func (p *product) run() {
	for _, tc := range []struct {
		line, out string
		code      int
	}{
		{"id -un; pwd; hostname | cut -c1-3", "user\n/home/user\nvm-\n", 0},
		{"cat /proc/self/cgroup; ls /sys/fs/cgroup | grep -c cgroup.procs", "0::/\n1\n", 0}, // a namespace of its own
		{"echo 1 > /sys/fs/cgroup/cgroup.freeze", "", 1},                                    // read only
		{"exit 7", "", 7},
	} {
		cmd := p.Command(p.t.Context(), "run", "--network", "none", "--", "sh", "-c", tc.line)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		if stdout.String() != tc.out || cmd.ProcessState.ExitCode() != tc.code {
			p.t.Errorf("%s: %q %q, code %d", tc.line, stdout.String(), stderr.String(), cmd.ProcessState.ExitCode())
		}
	}
	if out := p.cli("run", "--", "ip", "-4", "-o", "addr", "show", "scope", "global"); !strings.Contains(out, "inet 10.") {
		p.t.Errorf("a VM with a network: %q", out)
	}
}

// The limits asked for are the kernel's.
func (p *product) settings() {
	const memory = 96 << 20
	for file, want := range map[string]string{
		"memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "40", "memory.oom.group": "0", "cgroup.freeze": "0",
	} {
		if got := p.setting(memory, file); got != want {
			p.t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

func (p *product) disk(vm string) {
	out, code := p.sh(vm, "dd if=/dev/zero of=big bs=1M count=100; df -m / | tail -n 1; ls -l big")
	if !strings.Contains(out, "No space left") && !strings.Contains(out, "quota exceeded") {
		p.t.Errorf("100 MiB on a disk of 48: %d %s", code, out)
	}
	p.t.Log(out)
	if out, code = p.sh(vm, "rm big && dd if=/dev/zero of=again bs=1M count=20 && rm again"); code != 0 {
		p.t.Errorf("room was not given back: %s", out)
	}
}

func (p *product) memory(vm string) {
	if out, code := p.sh(vm, "dd if=/dev/zero of=/dev/null bs=300M count=1"); code == 0 {
		p.t.Errorf("300 MiB of 96 were there: %s", out)
	}
	if out, _ := p.sh(vm, "echo alive"); out != "alive" {
		p.t.Errorf("after running out of memory: %q", out)
	}
	if events := p.setting(96<<20, "memory.events"); !strings.Contains(events, "oom_kill ") || strings.Contains(events, "oom_kill 0") {
		p.t.Errorf("nobody was killed: %s", events)
	}
}

func (p *product) processes(vm string) {
	// They last until they are ended, all but the shell, however long it takes to
	// start them.
	if out, _ := p.sh(vm, "(for i in $(seq 60); do sleep 1000 & done) 2>&1; kill -9 -1"); !strings.Contains(out, "fork") {
		p.t.Errorf("60 processes of 40: %q", out)
	}
	// Until the agent is alone again; the test's limit ends it.
	for strings.Contains(p.setting(96<<20, "cgroup.procs"), "\n") { //nolint:revive // there is nothing to do meanwhile
	}
	if out, _ := p.sh(vm, "echo alive"); out != "alive" {
		p.t.Errorf("after running out of processes: %q", out)
	}
}

func (p *product) pause(vm string) {
	p.cli("exec", "--detach", vm, "--", "sh", "-c", "echo $$ > pid; i=0; while :; do i=$((i+1)); echo $i > n; done")
	p.cli("vm", "pause", vm)
	if events := p.setting(96<<20, "cgroup.events"); !strings.Contains(events, "frozen 1") {
		p.t.Errorf("paused: %s", events)
	}
	p.cli("vm", "resume", vm)
	if events := p.setting(96<<20, "cgroup.events"); !strings.Contains(events, "frozen 0") {
		p.t.Errorf("resumed: %s", events)
	}
	if out, _ := p.sh(vm, "kill $(cat pid) && echo there"); out != "there" {
		p.t.Errorf("the process did not survive: %q", out)
	}
}

func (p *product) fork(vm string) {
	if out, code := p.sh(vm, "echo one > f"); code != 0 {
		p.t.Error(out)
	}
	fork := p.cli("vm", "fork", "--quiet", vm)
	if out, _ := p.sh(fork, "cat f; echo two > f; cat f"); out != "one\ntwo" {
		p.t.Errorf("the fork: %q", out)
	}
	if out, _ := p.sh(vm, "cat f"); out != "one" {
		p.t.Errorf("the original: %q", out)
	}
	out, _ := p.sh(fork, "dd if=/dev/zero of=big bs=1M count=100")
	if !strings.Contains(out, "No space left") && !strings.Contains(out, "quota exceeded") {
		p.t.Errorf("the fork's disk has no limit: %s", out)
	}
	p.cli("vm", "rm", fork)
}

// The server is killed, and its successor finds everything as it was.
func (p *product) killNine(vm string) {
	const lines = 200
	cmd := p.Command(p.t.Context(), "exec", vm, "--", "sh", "-c", fmt.Sprintf("for i in $(seq %d); do echo line $i; sleep 0.02; done; exit 9", lines))
	pipe, err := cmd.StdoutPipe()
	must(p.t, err)
	must(p.t, cmd.Start())
	out := bufio.NewScanner(pipe)
	for n := 1; n <= lines; n++ {
		if want := fmt.Sprintf("line %d", n); !out.Scan() || out.Text() != want {
			p.t.Errorf("got %q, want %q", out.Text(), want)
			break
		}
		if n == 20 {
			must(p.t, p.Kill())
			must(p.t, p.Start(p.t.Context()))
		}
	}
	if out.Scan() {
		p.t.Errorf("more than was written: %q", out.Text())
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		p.t.Errorf("code %d", cmd.ProcessState.ExitCode())
	}
}

func (p *product) restart(vm string) {
	p.cli("vm", "stop", vm)
	p.cli("vm", "start", vm)
	if out, _ := p.sh(vm, "cat f"); out != "one" {
		p.t.Errorf("after a restart: %q", out)
	}
}
