package cli_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/internal/cli/apifake"
)

// onTerminal is the command line on a terminal of its own.
type onTerminal struct {
	t        *testing.T
	cmd      *exec.Cmd
	master   *os.File
	terminal *os.File // the side that the command line has
	before   unix.Termios

	mu   sync.Mutex
	out  []byte
	more chan struct{}
	eof  chan struct{}
}

// checkingHost makes a directory with a server's program that finds one thing about its host.
func checkingHost(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const script = "#!/bin/sh\n" + `echo '{"findings":[{"what":"cgroup","ok":true,"detail":"v2"}]}'` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "aetherium-standalone"), []byte(script), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return dir
}

func terminal(t *testing.T, fake *apifake.Server, args ...string) *onTerminal {
	t.Helper()
	return terminalWith(t, fake, nil, args...)
}

func terminalWith(t *testing.T, fake *apifake.Server, env []string, args ...string) *onTerminal {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Cols: 91, Rows: 33}); err != nil {
		t.Fatal(err)
	}
	o := &onTerminal{t: t, master: master, terminal: tty, more: make(chan struct{}, 1), eof: make(chan struct{})}
	o.before = o.modes()
	o.cmd = exec.Command("aetherium", args...)
	o.cmd.Env = append(append(os.Environ(), env...), "AETHERIUM_URL="+fake.URL(), "AETHERIUM_API_KEY="+apifake.Key, "TERM=xterm", "PATH="+checkingHost(t)+":"+os.Getenv("PATH"))
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = tty, tty, tty
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(o.eof)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			o.mu.Lock()
			o.out = append(o.out, buf[:n]...)
			o.mu.Unlock()
			select {
			case o.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill()
		_ = tty.Close()
		_ = master.Close()
	})
	return o
}

func (o *onTerminal) modes() unix.Termios {
	o.t.Helper()
	m, err := unix.IoctlGetTermios(int(o.terminal.Fd()), unix.TCGETS)
	if err != nil {
		o.t.Fatal(err)
	}
	return *m
}

func (o *onTerminal) typed(keys string) {
	o.t.Helper()
	if _, err := io.WriteString(o.master, keys); err != nil {
		o.t.Fatal(err)
	}
}

// sees waits until the screen shows a text.
func (o *onTerminal) sees(text string) {
	o.t.Helper()
	for {
		o.mu.Lock()
		found := bytes.Contains(o.out, []byte(text))
		screen := string(o.out)
		o.mu.Unlock()
		if found {
			return
		}
		select {
		case <-o.more:
		case <-o.eof:
			o.t.Fatalf("the terminal is closed and %q never came; it shows %q", text, screen)
		case <-o.t.Context().Done():
			o.t.Fatalf("%q never came; the terminal shows %q", text, screen)
		}
	}
}

// ends waits for the end, with the exit code and the terminal as it was.
func (o *onTerminal) ends(code int) {
	o.t.Helper()
	err := o.cmd.Wait()
	if got := o.cmd.ProcessState.ExitCode(); got != code {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.t.Errorf("exit code %d (%v), want %d; the terminal shows %q", got, err, code, o.out)
	}
	if o.modes() != o.before {
		o.t.Error("the terminal's modes are not restored")
	}
}

func TestShellOnATerminal(t *testing.T) {
	t.Parallel()
	o := terminal(t, apifake.New(t), "exec", "-it", "web", "--", "bash", "--norc", "-c", `stty size; echo "$TERM"; read x; echo "got $x"; exit 6`)
	o.sees("33 91")
	o.sees("xterm")
	if o.modes() == o.before {
		t.Error("the terminal is not in raw mode")
	}
	o.typed("words\r")
	o.sees("got words")
	o.ends(6)
}

func TestControlCGoesToTheCommand(t *testing.T) {
	t.Parallel()
	o := terminal(t, apifake.New(t), "exec", "-it", "web", "--", "bash", "--norc", "-c", `trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.02; done`)
	o.sees("ready")
	o.typed("\x03")
	o.sees("caught")
	o.ends(7)
}

func TestWindowSizeFollows(t *testing.T) {
	t.Parallel()
	o := terminal(t, apifake.New(t), "shell", "web")
	o.typed(`trap 'echo now $(stty size)' WINCH; echo rea''dy` + "\r")
	o.sees("ready")
	if err := pty.Setsize(o.master, &pty.Winsize{Cols: 120, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	o.typed("\r")
	o.sees("now 40 120")
	o.typed("exit 0\r")
	o.ends(0)
}

func TestDetachAndAttach(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	o := terminal(t, fake, "exec", "-it", "web", "--", "bash", "--norc", "-c", `echo ready; read x; echo "got $x"; exit 8`)
	o.sees("ready")
	o.typed("\x10") // half of the sequence is held back, not lost
	o.typed("\x11")
	o.sees("detached; the command goes on: aetherium attach ")
	o.ends(0)
	o.mu.Lock()
	_, rest, _ := strings.Cut(string(o.out), "aetherium attach ")
	o.mu.Unlock()
	again := terminal(t, fake, append([]string{"attach"}, strings.Fields(rest)...)...)
	again.typed("later\r")
	again.sees("got later")
	again.ends(8)
	again.mu.Lock()
	defer again.mu.Unlock()
	if bytes.Contains(again.out, []byte("ready")) {
		t.Error("output from before the offset came again")
	}
}

func TestDetachedRunKeepsItsVM(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	o := terminal(t, fake, "run", "--timeout", "1h", "-it", "--", "bash", "--norc", "-c", "echo ready; read x")
	o.sees("ready")
	o.typed("\x10\x11")
	o.sees("the VM is kept: ")
	o.ends(0)
	if n := fake.VMCount(); n != 2 {
		t.Errorf("%d VMs are left, want the kept one and web", n)
	}
	out, err := program(fake, "vm", "ls", "-o", "json").Output()
	if err != nil || bytes.Contains(out, []byte("deadline")) || bytes.Contains(out, []byte("idle_timeout_ms")) {
		t.Errorf("%v; a VM that is to stay has an end: %s", err, out)
	}
}

func TestTerminalIsRestoredWhateverEndsUs(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		code int
		do   func(*apifake.Server, *onTerminal)
	}{
		"a signal that the command dies of": {128 + 15, func(_ *apifake.Server, o *onTerminal) { _ = o.cmd.Process.Signal(syscall.SIGTERM) }},
		"hanging up":                        {128 + 1, func(_ *apifake.Server, o *onTerminal) { _ = o.cmd.Process.Signal(syscall.SIGHUP) }},
		"a server that stays away":          {125, func(s *apifake.Server, _ *onTerminal) { s.Kill() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := apifake.New(t)
			o := terminal(t, fake, "--patience", "300ms", "exec", "-it", "web", "--", "sh", "-c", "echo ready; exec sleep 1000")
			o.sees("ready")
			end.do(fake, o)
			o.ends(end.code)
		})
	}
}

func TestThirdInterruptGivesUp(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	o := terminal(t, fake, "run", "-t", "--", "sh", "-c", `n=0; trap 'n=$((n+1)); echo no $n' INT; echo ready; while :; do sleep 0.02; done`)
	o.sees("ready")
	// One at a time: of a signal that is pending already there is no second.
	for _, seen := range []string{"no 1", "no 2"} {
		if err := o.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		o.sees(seen)
	}
	if err := o.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	o.ends(130)
	if n := fake.VMCount(); n != 1 {
		t.Errorf("%d VMs are left, want web alone", n)
	}
}

func TestTablesOnATerminal(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	for name, want := range map[string]string{
		"vm ls -a": `
ID                    NAME  STATE    TEMPLATE  CPU  MEMORY   NETWORK  AGE  ENDS
gone0000000000000000  -     deleted  base      1.5  512 MiB  nat      5h   -
web00000000000000000  web   running  base      1.5  512 MiB  nat      5h   never
`,
		"template ls": `
NAME  TAGS       STATE  SOURCE           CPU  MEMORY   SIZE     UPDATED
base  12,latest  ready  Debian packages  1.5  512 MiB  260 MiB  5h
`,
		"snapshot ls": `
ID                    NAME    VM                    KIND  STATE  SIZE   AGE
snap0000000000000000  before  web00000000000000000  disk  ready  3 MiB  5h
`,
		"vm get gone0000000000000000": `
ID:           gone0000000000000000
State:        deleted
Template:     base
Driver:       oci
Isolation:    container
Platform:     linux/amd64
Resources:    1.5 CPU, 512 MiB memory, 10 GiB disk
Network:      nat
Hostname:     web
Created:      5h ago
Metadata:     team=blue
Ended:        4h ago
Cause:        oom by worker
Detail:       memory
Last output:  boom\x1b[2Jbang
              last
`,
		"doctor": `
Server:          http://127.0.0.1:7070, version 1.2.3
Data directory:  /var/lib/aetherium
cgroup:          ok: v2

DRIVER       USABLE  ISOLATION  VERSION     CAPABILITIES, OR WHY NOT
oci          yes     container  runc 1.1.5  pause:freeze, fork
firecracker  no      microvm    -           there is no /dev/kvm
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := terminalWith(t, fake, []string{frozenClock + "=" + fake.Made.Format(time.RFC3339Nano)}, strings.Fields(name)...)
			o.ends(0)
			_ = o.terminal.Close() // the last holder of that side: the reader sees the end
			<-o.eof
			if got := strings.ReplaceAll(string(o.out), "\r\n", "\n"); got != want[1:] {
				t.Errorf("got\n%s\nwant\n%s", got, want[1:])
			}
		})
	}
}

func TestTopRefreshes(t *testing.T) {
	t.Parallel()
	o := terminal(t, apifake.New(t), "top", "--interval", "100ms")
	o.sees("CPU%")
	o.sees("0.0") // a second sample
	o.typed("\x03")
	o.ends(0)
}

func TestASecretIsTypedUnseen(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	o := terminal(t, fake, "secret", "set", "TOKEN")
	o.sees("value of TOKEN: ")
	o.typed("hunter3\x7f2\r") // a correction is one here too
	o.ends(0)
	if got := fake.Secret("TOKEN"); got != "hunter2" {
		t.Errorf("stored %q", got)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if bytes.Contains(o.out, []byte("hunter")) {
		t.Errorf("the value shows: %q", o.out)
	}
}

func TestASecretThatIsNotTyped(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		code int
		do   func(*onTerminal)
	}{
		"control c":   {1, func(o *onTerminal) { o.typed("hun\x03") }},
		"end of file": {1, func(o *onTerminal) { o.typed("\x04") }},
		"nothing":     {2, func(o *onTerminal) { o.typed("\r") }},
		"a signal":    {128 + 15, func(o *onTerminal) { _ = o.cmd.Process.Signal(syscall.SIGTERM) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := apifake.New(t)
			o := terminal(t, fake, "secret", "set", "TOKEN")
			o.sees("value of TOKEN: ")
			end.do(o)
			o.ends(end.code)
			if len(fake.Requests()) != 0 {
				t.Errorf("something was sent: %+v", fake.Requests())
			}
		})
	}
}
