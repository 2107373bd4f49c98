package cli_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli"
	"github.com/aetherium/aetherium/services/core/internal/cli/apifake"
)

// program makes a command that runs the command line against a fake.
func program(fake *apifake.Server, args ...string) *exec.Cmd {
	cmd := exec.Command("aetherium", args...)
	cmd.Env = append(os.Environ(), "AETHERIUM_URL="+fake.URL(), "AETHERIUM_API_KEY="+apifake.Key)
	return cmd
}

// reading starts a command and waits for its first line.
func reading(t *testing.T, cmd *exec.Cmd) (first string, rest io.Reader) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(out, b); err != nil {
			t.Fatalf("no line came: %v", err)
		}
		if b[0] == '\n' {
			return string(line), out
		}
		line = append(line, b[0])
	}
}

func exitCode(cmd *exec.Cmd) int {
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestSignalsGoToTheCommand(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		signal syscall.Signal
		name   string
	}{{syscall.SIGINT, "INT"}, {syscall.SIGTERM, "TERM"}, {syscall.SIGHUP, "HUP"}, {syscall.SIGQUIT, "QUIT"}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			fake := apifake.New(t)
			cmd := program(fake, "run", "--", "bash", "-c", "trap 'echo got "+tc.name+"; exit 9' "+tc.name+"; echo ready; while :; do sleep 0.02; done")
			_, rest := reading(t, cmd)
			if err := cmd.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(rest)
			if code := exitCode(cmd); code != 9 || string(got) != "got "+tc.name+"\n" {
				t.Errorf("exit code %d, output %q", code, got)
			}
			if n := fake.VMCount(); n != 1 {
				t.Errorf("%d VMs are left, want web alone", n)
			}
		})
	}
}

// Interrupted before the answer to the creation has come, run still removes the VM.
func TestInterruptedCreationLeavesNothing(t *testing.T) {
	t.Parallel()
	creating := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	fake := apifake.New(t, func(s *apifake.Server) {
		s.OnCreate = func() {
			close(creating)
			<-release
		}
		s.OnRepeat = func() { once.Do(func() { close(release) }) } // the server is not done when we ask again
	})
	cmd := program(fake, "run", "--", "true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-creating
	// timeout(1) sends its signal twice, to the process and to its group.
	// These two the kernel does not make one.
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	// Threads take them side by side, so either may be the first to be seen.
	if code := exitCode(cmd); code != 130 && code != 143 {
		t.Errorf("exit code %d", code)
	}
	if made, left := fake.VMsMade(), fake.VMCount(); made != 1 || left != 1 {
		t.Errorf("%d VMs were made and %d are left; want 1, and web alone", made, left)
	}
}

func TestExecSurvivesAServerRestart(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	cmd := program(fake, "exec", "-i", "web", "--", "sh", "-c", "echo ready; cat; echo end >&2; exit 4")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_, rest := reading(t, cmd)
	fake.Kill()
	if _, err := io.WriteString(in, "while it is away\n"); err != nil {
		t.Fatal(err)
	}
	fake.Start()
	_, _ = io.WriteString(in, "and after\n")
	_ = in.Close()
	got, _ := io.ReadAll(rest)
	if code := exitCode(cmd); code != 4 || string(got) != "while it is away\nand after\n" || stderr.String() != "end\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, got, stderr.String())
	}
	if fake.Started() != 1 {
		t.Errorf("the command ran %d times", fake.Started())
	}
}

// 8 MB in and out again over connections that break.
func TestBulkOverBreakingConnections(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	fake.Chop(3 << 20)
	var got []byte
	for range 10 { // the first connection may break before the server is known
		c := program(fake, "run", "-i", "--", "cat")
		c.Stdin = bytes.NewReader(want)
		out, err := c.Output()
		if got = out; err == nil {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back of %d, or others", len(got), len(want))
	}
}

func TestSecretsAreNotInTheProcessList(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	cmd := program(fake, "run", "--secret", "TOKEN", "--", "sh", "-c", `echo "$TOKEN"; sleep 1000`)
	cmd.Env = append(cmd.Env, "TOKEN=s3cret")
	first, _ := reading(t, cmd)
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	if first != "s3cret" || bytes.Contains(line, []byte("s3cret")) {
		t.Errorf("the command got %q, the process list shows %q", first, line)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if code := exitCode(cmd); code != 143 {
		t.Errorf("exit code %d", code)
	}
}

func TestRunNeedsFewRoundTrips(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	if out, err := program(fake, "run", "--", "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []string
	for _, r := range fake.Requests() {
		got = append(got, r.Method+" "+strings.TrimPrefix(r.Path, api.BasePath))
	}
	if len(got) != 3 || got[0] != "POST /vms" || !strings.HasSuffix(got[1], "/stream") || !strings.HasPrefix(got[2], "DELETE /vms/") {
		t.Errorf("requests %q", got)
	}
}

func TestFollowedEventsComeAtOnce(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	cmd := program(fake, "events", "-f", "--after", "1")
	first, _ := reading(t, cmd)
	if !strings.HasPrefix(first, "2\t") {
		t.Errorf("first line %q", first)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if code := exitCode(cmd); code != 130 {
		t.Errorf("exit code %d", code)
	}
}

// A reader of our stdout cannot tell that something is missing from it.
func TestMissingOutputIsNoSuccess(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t, func(s *apifake.Server) { s.Forgets = 4 })
	for _, tc := range []struct {
		exit, want int
	}{{0, 125}, {3, 3}} {
		for _, args := range [][]string{{"exec", "web"}, {"run"}} {
			cmd := program(fake, append(args, "--", "sh", "-c", "printf 0123456789; exit "+strconv.Itoa(tc.exit))...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, _ := cmd.Output()
			if code := cmd.ProcessState.ExitCode(); string(out) != "456789" || code != tc.want {
				t.Errorf("%s: exit code %d, output %q", args[0], code, out)
			}
			if said := stderr.String(); strings.Contains(said, "output are missing") != (tc.exit == 0) || !strings.Contains(said, "no longer kept") {
				t.Errorf("%s: it said %q", args[0], said)
			}
		}
	}
}

// What breaks a copy is told in words for people.
func TestBrokenCopySaysWhy(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	cmd := program(fake, "--patience", "100ms", "cp", "-", "web:big")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(bytes.Repeat([]byte("x"), 8<<20)); err != nil { // more than buffers hold: it is on its way
		t.Fatal(err)
	}
	fake.Kill()
	_, _ = in.Write(bytes.Repeat([]byte("x"), 8<<20))
	_ = in.Close()
	if code := exitCode(cmd); code != 1 || strings.Contains(stderr.String(), "->") || !strings.Contains(stderr.String(), "hint: ") {
		t.Errorf("exit code %d; it said %q", code, stderr.String())
	}
}

// One signal ends a command that reads what does not come: from stdin, from a pipe
// whose other end is open, or from one that nobody opened.
func TestASignalEndsARead(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
	}{
		{[]string{"secret", "set", "x"}},
		{[]string{"secret", "set", "x", "--file", fifo}},
		{[]string{"cp", "-", "web:x"}},
		{[]string{"cp", "-", "web:dir/"}},
		{[]string{"cp", fifo, "web:x"}},
		{[]string{"template", "build", "x", "-f", "-"}},
		{[]string{"template", "build", "x", "--tar", "-"}},
		{[]string{"task", "create", "-i", "--", "true"}},
		{[]string{"task", "group", "create", "-"}},
		{[]string{"egress", "set", "web", "--file", "-"}},
		{[]string{"vm", "create", "--env-file", fifo}},
	} {
		t.Run(strings.Join(tc.args[:2], " "), func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close(); _ = w.Close() }()
			signals, quit := make(chan os.Signal, 1), make(chan int, 1)
			var stderr bytes.Buffer
			host := cli.Host{
				Stdin: r, Stdout: io.Discard, Stderr: &stderr, Signals: signals, Now: time.Now, Quit: func(code int) { quit <- code },
				Getenv: func(string) (string, bool) { return "", false },
			}
			ended := make(chan int, 1)
			go func() {
				ended <- cli.Main(t.Context(), append([]string{"--url", fake.URL(), "--key", apifake.Key}, tc.args...), host)
			}()
			select {
			case code := <-ended:
				t.Fatalf("it ended by itself with %d: %s", code, stderr.String())
			case <-time.After(200 * time.Millisecond):
			}
			signals <- syscall.SIGTERM
			select {
			case code := <-ended:
				if code != 143 {
					t.Errorf("exit code %d: %s", code, stderr.String())
				}
			case <-time.After(10 * time.Second):
				t.Error("it goes on")
			}
		})
	}
}

// Who asks again, and means it, need not wait for the clean-up.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	signals, creating, release := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	var later atomic.Int64
	var again sync.Once
	fake := apifake.New(t, func(s *apifake.Server) {
		s.OnCreate = func() {
			close(creating)
			<-release
		}
		s.OnRepeat = func() { // the first signal has been taken: the VM is looked for
			again.Do(func() {
				later.Store(int64(time.Second))
				signals <- syscall.SIGINT
			})
		}
	})
	var quit []int
	host := cli.Host{
		Stdout: io.Discard, Stderr: io.Discard, Signals: signals,
		Getenv: func(string) (string, bool) { return "", false },
		Now:    func() time.Time { return time.Unix(0, later.Load()) },
		Quit: func(code int) {
			quit = append(quit, code)
			close(release)
		},
	}
	go func() {
		<-creating
		signals <- syscall.SIGINT
	}()
	cli.Main(t.Context(), []string{"--url", fake.URL(), "--key", apifake.Key, "run", "--", "true"}, host)
	if !slices.Equal(quit, []int{130}) {
		t.Errorf("it ended itself with %v", quit)
	}
}
