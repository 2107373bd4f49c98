package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
)

// limit is far beyond what any step takes; a test that hangs fails with it.
const limit = 60 * time.Second

// binary builds the agent once, as it is shipped.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fc-agent")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "fc-agent")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	ignoreSignals(syscall.SIGHUP, syscall.SIGTSTP, 32)
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// ignoreSignals makes this process ignore signals, as some supervisors do to
// what they start. It asks the kernel: package signal leaves out 32 (SIGCANCEL
// of the C libraries).
func ignoreSignals(signals ...syscall.Signal) {
	ignored := struct {
		handler         uintptr
		flags, restorer uint64
		mask            uint64
	}{handler: 1} // SIG_IGN
	for _, s := range signals {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&ignored)), 0, unsafe.Sizeof(ignored.mask), 0, 0); errno != 0 {
			panic(errno)
		}
	}
}

// vm is the built agent as PID 1 of a PID namespace.
type vm struct {
	t      testing.TB
	cmd    *exec.Cmd
	stderr bytes.Buffer
	http   *http.Client
	guest  guestv1connect.ExecutionServiceClient
	ctx    context.Context
}

func boot(t testing.TB, args ...string) *vm {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace of our own needs root")
	}
	path, err := binary()
	must(t, err)
	dir, err := os.MkdirTemp("/tmp", "fc-agent") // a short path: socket names are bounded
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	f, err := l.File()
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	v := &vm{t: t, ctx: ctx}
	v.cmd = exec.CommandContext(ctx, path, append([]string{"--listen-fd", "3"}, args...)...)
	v.cmd.ExtraFiles = []*os.File{f, f} // the second is one that must not leak
	v.cmd.Stderr = &v.stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	must(t, v.cmd.Start())
	l.SetUnlinkOnClose(false)
	_, _ = l.Close(), f.Close()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
	})
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	v.http = &http.Client{Transport: &http.Transport{
		Protocols: &h2,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	t.Cleanup(v.http.CloseIdleConnections)
	v.guest = guestv1connect.NewExecutionServiceClient(v.http, "http://agent")
	return v
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a shell script and returns its output and end.
func (v *vm) run(script string) (string, *guestv1.End) {
	v.t.Helper()
	out, end, err := v.try(script)
	must(v.t, err)
	return out, end
}

func (v *vm) try(script string) (string, *guestv1.End, error) {
	s := v.guest.Attach(v.ctx)
	err := s.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: strings.ToLower(rand.Text()[:20]),
		Command:     &guestv1.Command{Args: []string{"sh", "-c", script}, User: "root", Cwd: "/"},
	}}})
	if err != nil {
		return "", nil, err
	}
	var out strings.Builder
	for {
		msg, err := s.Receive()
		if err != nil {
			return out.String(), nil, err
		}
		out.Write(msg.GetOutput().GetData())
		if end := msg.GetEnd(); end != nil {
			return out.String(), end, nil
		}
	}
}

// children counts the agent's children, zombies included.
func (v *vm) children() int {
	v.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(v.t, err)
	count := 0
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(v.cmd.Process.Pid) {
			count++
		}
	}
	return count
}

func TestOrphansAreReapedAndStatusesArrive(t *testing.T) {
	t.Parallel()
	v := boot(t)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 25 {
				want := int32((worker*25 + i) % 100)
				// Orphans that end before, with and after their parent.
				_, end, err := v.try(fmt.Sprintf("(true & true &) ; (sleep 0.01 &) >/dev/null 2>&1; exit %d", want))
				if err != nil || end.GetExitCode() != want {
					t.Errorf("end %v, want %d (%v)", end, want, err)
				}
			}
		})
	}
	all.Wait()
	for deadline := time.Now().Add(limit); v.children() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d children are left", v.children())
		}
	}
}

func TestTermEndsEverything(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ grace, process, bye string }{
		// One that ends on SIGTERM, in a session of its own. Its child is there
		// before the trap is: else it might inherit that and survive.
		"in order": {"1h", `sleep 1000 & trap "echo bye > bye; exit" TERM; echo > up; wait`, "bye\n"},
		// One that does not care.
		"deaf": {"50ms", `trap "" TERM; echo > up; while :; do sleep 1000; done`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := boot(t, "--grace", tc.grace)
			dir, err := os.MkdirTemp("/tmp", "fc-agent")
			must(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			v.run(`cd ` + dir + `; mkfifo up
				setsid sh -c '` + tc.process + `' >/dev/null 2>&1 &
				read x < up; :`)
			must(t, v.cmd.Process.Signal(syscall.SIGTERM))
			if err := v.cmd.Wait(); err != nil {
				t.Errorf("the agent ends with %v: %s", err, v.stderr.String())
			}
			if b, err := os.ReadFile(dir + "/bye"); string(b) != tc.bye {
				t.Errorf("what the process left is %q, %v", b, err)
			}
		})
	}
}

func TestStraySignalsAreHarmless(t *testing.T) {
	t.Parallel()
	v := boot(t)
	v.run("true") // it is up
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGPIPE, syscall.SIGCHLD, syscall.SIGTTOU} {
		must(t, v.cmd.Process.Signal(s))
	}
	if out, end := v.run("kill -HUP 1; kill -KILL 1; echo alive"); out != "alive\n" || end.GetExitCode() != 0 {
		t.Errorf("%q %v", out, end)
	}
}

func TestCommandsInheritNothing(t *testing.T) {
	t.Parallel()
	v := boot(t)
	out, _ := v.run("ls /proc/self/fd | tr '\\n' ' '; umask; cat /proc/self/oom_score_adj; grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2 | sort -u; ulimit -Sn")
	var files syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	// Go raises the soft limit for itself and gives commands the one it was started with.
	want := fmt.Sprintf("0 1 2 3 0022\n0\n0000000000000000\n%d\n", files.Cur)
	if out != want {
		t.Errorf("%q, want %q", out, want)
	}
	// The agent itself is protected, where it may be.
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", v.cmd.Process.Pid))
	must(t, err)
	if got := strings.TrimSpace(string(own)); got != "-999" {
		if before, _ := os.ReadFile("/proc/self/oom_score_adj"); got != strings.TrimSpace(string(before)) {
			t.Errorf("oom_score_adj %s", got)
		}
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"--version", exitOK, "fc-agent ", ""},
		{"--help", exitOK, "", "listen-fd"},
		{"", exitUsage, "", "one of --listen-fd"},
		{"--listen-tcp 127.0.0.1:0 extra", exitUsage, "", "unexpected argument"},
		{"--grace -1s --listen-fd 3", exitUsage, "", "must not be negative"},
		{"--no-such-flag", exitUsage, "", "no-such-flag"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(strings.Fields(tc.args), &stdout, &stderr)
		if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
			t.Errorf("%q: %d %q %q", tc.args, code, stdout.String(), stderr.String())
		}
	}
}

func TestListensWhereItIsTold(t *testing.T) {
	t.Parallel()
	path, err := binary()
	must(t, err)
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	// A taken port: the agent must say so and end.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = taken.Close() }()
	out, err := exec.CommandContext(ctx, path, "--listen-unix", socket, "--listen-tcp", taken.Addr().String()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") {
		t.Errorf("%v %s", err, out)
	}
	out, err = exec.CommandContext(ctx, path, "--listen-fd", "0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not a listening socket") {
		t.Errorf("%v %s", err, out)
	}
}

// The agent's start is in the start of every VM: packages whose initialisation
// is dear stay out of it.
func TestImports(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	must(t, err)
	bans := map[string]string{
		"github.com/aetherium/aetherium/libs/types/pkg/domain": "compiles regular expressions at start (1 ms)",
		"github.com/aetherium/aetherium/services/core/pkg/vmm": "the guest knows nothing of its host",
	}
	for _, name := range strings.Fields(string(out)) {
		if reason, banned := bans[name]; banned {
			t.Errorf("imports %s: %s", name, reason)
		}
	}
}

// BenchmarkStart measures from the start of the process to its first answer.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		v := boot(b)
		res, err := v.http.Get("http://agent/health")
		must(b, err)
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		b.StopTimer()
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
		b.StartTimer()
	}
}
