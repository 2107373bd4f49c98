package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// invoke runs the command line and returns what it wrote and its exit code.
func invoke(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := suite.Command(limited(t), args...)
	var o, e bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// createVM makes a VM that the test's end removes.
func createVM(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, code := invoke(t, "", append([]string{"vm", "create", "--quiet", "--network", "none"}, args...)...)
	if code != 0 {
		t.Fatalf("vm create: %d %s", code, stderr)
	}
	id := strings.TrimSpace(out)
	t.Cleanup(func() { invoke(t, "", "vm", "rm", id) })
	return id
}

func TestRun(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		stdin          string
		args           []string
		stdout, stderr string
		code           int
	}{
		{"streams apart", "", []string{"--", "sh", "-c", "echo out; echo err >&2"}, "out\n", "err\n", 0},
		{"exit code", "", []string{"--", "sh", "-c", "exit 7"}, "", "", 7},
		{"stdin", "hello", []string{"--", "cat"}, "hello", "", 0},
		{"env", "", []string{"--env", "GREETING=hi there", "--", "sh", "-c", `printf %s "$GREETING"`}, "hi there", "", 0},
		{"killed by a signal", "", []string{"--", "sh", "-c", "kill -9 $$"}, "", "", 137},
		{"default user", "", []string{"--", "sh", "-c", "id -un; pwd; sudo id -un"}, "user\n/home/user\nroot\n", "", 0},
		{"python and node", "", []string{"--", "sh", "-c", "python -c 'print(6*7)'; node -e 'console.log(6*7)'"}, "42\n42\n", "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := invoke(t, tc.stdin, append([]string{"run", "--network", "none"}, tc.args...)...)
			if stdout != tc.stdout || stderr != tc.stderr || code != tc.code {
				t.Errorf("stdout %q, stderr %q, code %d", stdout, stderr, code)
			}
		})
	}
}

func TestRunOfAMissingProgram(t *testing.T) {
	t.Parallel()
	_, stderr, code := invoke(t, "", "run", "--network", "none", "--", "no-such-program")
	if code != 127 || !strings.Contains(stderr, "no-such-program") {
		t.Errorf("code %d, %s", code, stderr)
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	t.Parallel()
	vm := createVM(t)
	cmd := suite.Command(limited(t), "exec", vm, "--", "sh", "-c", `trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len("ready\n"))
	if _, err := out.Read(buf); err != nil || string(buf) != "ready\n" {
		t.Fatalf("%q %v", buf, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, 64)
	n, _ := out.Read(rest)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 || string(rest[:n]) != "got TERM\n" {
		t.Errorf("code %d, %q", code, rest[:n])
	}
}

func TestCopyBothWays(t *testing.T) {
	t.Parallel()
	vm := createVM(t)
	dir := t.TempDir()
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	if err := os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"big": data, "tree/a": []byte("a"), "tree/sub/b": []byte("b")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "tree/link")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cp", filepath.Join(dir, "big"), vm + ":big"}, {"cp", vm + ":big", filepath.Join(dir, "big2")},
		{"cp", filepath.Join(dir, "tree"), vm + ":tree"}, {"cp", vm + ":tree", filepath.Join(dir, "tree2")},
	} {
		if _, stderr, code := invoke(t, "", args...); code != 0 {
			t.Fatalf("%v: %d %s", args, code, stderr)
		}
	}
	back, err := os.ReadFile(filepath.Join(dir, "big2"))
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("the file came back changed: %d bytes, %v", len(back), err)
	}
	for name, want := range map[string]string{"tree2/a": "a", "tree2/sub/b": "b", "tree2/link": "a"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// What is root's stays root's.
	if _, _, code := invoke(t, "", "cp", vm+":/etc/shadow", filepath.Join(dir, "shadow")); code == 0 {
		t.Error("the user read root's file")
	}
}

func TestForkAndSnapshot(t *testing.T) {
	t.Parallel()
	vm := createVM(t)
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := invoke(t, "", args...)
		if code != 0 {
			t.Fatalf("%v: %d %s", args, code, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	must("exec", vm, "--", "sh", "-c", "echo one > f; sudo sh -c 'echo root > /root/r; chown 33:33 /root/r'")
	forks := strings.Fields(must("vm", "fork", "-n", "2", "--quiet", vm))
	if len(forks) != 2 {
		t.Fatalf("forks: %v", forks)
	}
	for _, f := range forks {
		t.Cleanup(func() { invoke(t, "", "vm", "rm", f) })
	}
	must("exec", forks[0], "--", "sh", "-c", "echo two > f")
	for id, want := range map[string]string{vm: "one", forks[0]: "two", forks[1]: "one"} {
		if got := must("exec", id, "--", "cat", "f"); got != want {
			t.Errorf("%s has %q, want %q", id, got, want)
		}
		if got := must("exec", id, "--", "sudo", "stat", "-c", "%u:%g", "/root/r"); got != "33:33" {
			t.Errorf("%s: the owner is %s", id, got)
		}
	}
	snap := must("vm", "snapshot", "--quiet", vm)
	must("exec", vm, "--", "sh", "-c", "echo three > f")
	again := must("vm", "create", "--quiet", "--network", "none", "--template", snap)
	t.Cleanup(func() { invoke(t, "", "vm", "rm", again) })
	if got := must("exec", again, "--", "cat", "f"); got != "one" {
		t.Errorf("from the snapshot: %q", got)
	}
}

func TestStopStartPauseResume(t *testing.T) {
	t.Parallel()
	vm := createVM(t)
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := invoke(t, "", args...)
		if code != 0 {
			t.Fatalf("%v: %d %s", args, code, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	must("exec", vm, "--", "sh", "-c", "echo kept > f")
	must("vm", "stop", vm)
	if _, stderr, code := invoke(t, "", "exec", vm, "--", "true"); code != 125 || !strings.Contains(stderr, "stopped") {
		t.Errorf("exec in a stopped VM: %d %s", code, stderr)
	}
	must("vm", "start", vm)
	if got := must("exec", vm, "--", "cat", "f"); got != "kept" {
		t.Errorf("after the restart: %q", got)
	}
	must("exec", "--detach", vm, "--", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > n; sleep 0.01; done")
	must("vm", "pause", vm)
	must("vm", "resume", vm)
	if got := must("exec", vm, "--", "sh", "-c", "pgrep -fc 'echo .i > n'"); got == "0" {
		t.Error("the process did not survive the pause")
	}
}

func TestErrorsHaveHints(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"unknown VM", []string{"exec", "nosuchvm", "--", "true"}, 125, "nosuchvm"},
		{"unknown template", []string{"run", "--template", "nosuch", "--", "true"}, 125, "hint:"},
		{"too small", []string{"vm", "create", "--memory", "1KiB"}, 0, "memory"},
		{"bad flag", []string{"run", "--memory", "lots", "--", "true"}, 0, "lots"},
	} {
		_, stderr, code := invoke(t, "", tc.args...)
		if code == 0 || tc.code != 0 && code != tc.code || !strings.Contains(stderr, tc.says) {
			t.Errorf("%s: code %d, %s", tc.name, code, stderr)
		}
	}
}
