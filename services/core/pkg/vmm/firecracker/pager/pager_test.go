package pager

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestServesWithoutRights starts a page server as the engine does. It has started
// its monitor and is nobody then, whichever of its threads one looks at, in an
// empty root; nobody of the same ID can look into it; it ends with its monitor.
func TestServesWithoutRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start a page server")
	}
	const uid = 4211
	dir := t.TempDir()
	memory, _ := saved(t)
	held, err := os.Open(memory)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	touched, err := OpenTouched(filepath.Join(dir, "touched"), testPages*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer touched.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "listener"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listener, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	root, end := filepath.Join(dir, "root"), filepath.Join(dir, "end")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(end, 0o600); err != nil {
		t.Fatal(err)
	}

	program := filepath.Join(dir, "fc-pager")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../../../cmd/fc-pager")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // in its root is no loader
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building it: %v\n%s", err, out)
	}
	server := exec.CommandContext(t.Context(), program, "--uid", fmt.Sprint(uid), "--root", root, "--",
		"/bin/sh", "-c", `echo $(id -u) $(readlink /proc/self/fd/*); read line <"$0"`, end)
	server.ExtraFiles = []*os.File{listener, held, touched}
	server.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(said, "0 ") || strings.Contains(said, memory) || strings.Contains(said, "touched") || strings.Count(said, "socket:") > 0 {
		t.Errorf("the monitor has not all rights, or descriptors that are not its own: %s", said)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()

	proc := fmt.Sprintf("/proc/%d/", server.Process.Pid)
	until(t, ended, "it is executed anew", func() bool {
		args, err := os.ReadFile(proc + "cmdline")
		return err == nil && strings.HasSuffix(string(args), "\x00--serve\x00")
	})
	threads, err := filepath.Glob(proc + "task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		for _, line := range []string{
			"Uid:\t4211\t4211\t4211\t4211", "Gid:\t4211\t4211\t4211\t4211", "Groups:\t ",
			"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000",
		} {
			if !strings.Contains(string(status), "\n"+line+"\n") {
				t.Errorf("a thread of the page server is without %q:\n%s", line, status)
			}
		}
	}
	if got, err := os.Readlink(proc + "root"); err != nil || got != root {
		t.Errorf("its root is %q (%v)", got, err)
	}
	until(t, ended, "nobody of its ID can look into it", func() bool {
		info, err := os.Stat(proc + "mem") // proc_pid_status(5): root's, where PR_SET_DUMPABLE is 0
		return err == nil && info.Sys().(*syscall.Stat_t).Uid == 0
	})

	if err := os.WriteFile(end, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("it ends with its monitor: %v", err)
	}
}

// until waits for what comes to be so while the server is there.
func until(t *testing.T, ended <-chan error, what string, so func() bool) {
	t.Helper()
	for !so() {
		select {
		case err := <-ended:
			t.Fatalf("the server ended (%v) before %s", err, what)
		case <-time.After(time.Millisecond):
		}
	}
}
