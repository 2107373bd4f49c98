// Package dockertest starts Docker engines for tests: each with directories, a
// containerd and a socket of its own, no network, and nothing left of it at the end.
package dockertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// Engine is one that runs.
type Engine struct {
	Socket string

	t      testing.TB
	dir    string
	parent string // control group of its containers
	args   []string
	cmd    *exec.Cmd
}

// Start starts an engine without a network; it ends with the test. The test is
// skipped where there is none installed.
func Start(t testing.TB) *Engine {
	t.Helper()
	return start(t, "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
}

// StartBridged is Start with Docker's own networks, in the network namespace of the
// test, which should be one that ends with it.
func StartBridged(t testing.TB) *Engine {
	t.Helper()
	return start(t)
}

func start(t testing.TB, args ...string) *Engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a Docker engine needs root")
	}
	for _, tool := range []string{"dockerd", "containerd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	// Sockets want a short path, which t.TempDir has not.
	dir, err := os.MkdirTemp("/tmp", "dockertest-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	e := &Engine{t: t, dir: dir, Socket: filepath.Join(dir, "sock"), parent: "/" + filepath.Base(dir)}
	t.Cleanup(e.clean)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o711); err != nil {
		t.Fatal(err)
	}
	e.args = append([]string{
		"--host=unix://" + e.Socket, "--data-root=" + data, "--exec-root=" + filepath.Join(dir, "run"), "--pidfile=" + filepath.Join(dir, "pid"),
		"--cgroup-parent=" + e.parent, "--config-file=" + filepath.Join(dir, "config.json"), "--log-level=warn",
	}, args...)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Run()
	return e
}

// Run starts the engine, again after Stop or Kill, and returns when it answers.
func (e *Engine) Run() {
	e.t.Helper()
	log, err := os.OpenFile(e.dir+"/log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	e.cmd = exec.CommandContext(context.WithoutCancel(e.t.Context()), "dockerd", e.args...) // ended by Stop
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- e.cmd.Wait() }()
	c, err := client.New(client.WithHost("unix://" + e.Socket))
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for { // it tells nobody when it listens
		if _, err = c.Ping(ctx, client.PingOptions{}); err == nil {
			return
		}
		select {
		case err := <-gone:
			e.t.Fatalf("dockerd ended: %v\n%s", err, e.Log())
		case <-ctx.Done():
			e.t.Fatalf("dockerd does not answer: %v\n%s", err, e.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Log is what the engine has said.
func (e *Engine) Log() string {
	raw, _ := os.ReadFile(e.dir + "/log")
	return string(raw[max(0, len(raw)-8<<10):])
}

// Stop ends the engine as a service manager does.
func (e *Engine) Stop() {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Signal(unix.SIGTERM)
	for alive(e.cmd.Process.Pid) {
		time.Sleep(20 * time.Millisecond)
	}
	e.cmd = nil
}

func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(raw, []byte(") Z "))
}

// clean ends what is left of the engine and removes its files.
func (e *Engine) clean() {
	e.Stop()
	// Shims and containerd, should the engine have left them, name its directory.
	entries, _ := os.ReadDir("/proc")
	for _, p := range entries {
		raw, err := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if err == nil && bytes.Contains(raw, []byte(e.dir+"/")) && !bytes.HasPrefix(raw, []byte(os.Args[0])) {
			var pid int
			if _, err := fmt.Sscan(p.Name(), &pid); err == nil {
				e.t.Errorf("the engine left a process: %s", bytes.ReplaceAll(raw, []byte{0}, []byte{' '}))
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	for _, mount := range e.Mounts() {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
	if left := e.Mounts(); len(left) > 0 {
		e.t.Errorf("still mounted: %v", left)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + e.parent, "/sys/fs/cgroup" + e.parent} {
		groups, _ := filepath.Glob(pattern)
		for _, g := range groups {
			_ = os.Remove(g)
		}
	}
	if err := os.RemoveAll(e.dir); err != nil {
		e.t.Errorf("the engine's directory: %v", err)
	}
}

// Mounts lists what is mounted below the engine's directory, the last first.
func (e *Engine) Mounts() []string {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		e.t.Error(err)
	}
	var all []string
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], e.dir+"/") {
			all = append([]string{fields[1]}, all...)
		}
	}
	return all
}

// Groups lists the control groups of containers.
func (e *Engine) Groups() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/*" + e.parent + "/*/cgroup.procs", "/sys/fs/cgroup" + e.parent + "/*/cgroup.procs"} {
		groups, _ := filepath.Glob(pattern)
		all = append(all, groups...)
	}
	return all
}

// Client speaks with the engine.
func (e *Engine) Client() *client.Client {
	e.t.Helper()
	c, err := client.New(client.WithHost("unix://" + e.Socket))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = c.Close() })
	return c
}
