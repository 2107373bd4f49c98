package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// What the property-based test is given: the same requests each time, for so
// many seconds.
const (
	propertySeed    = "1"
	propertySeconds = "60"
	propertyFiles   = "testdata/schemathesis"
)

// Requests made at random from the OpenAPI document, well formed and not: none
// is answered by a fault of the server, each answer is one that the document
// describes, and what the document forbids is refused. schemathesis makes them;
// hooks.py keeps what they make within bounds.
func TestRequestsFromTheOpenAPIDocument(t *testing.T) {
	t.Parallel()
	program := schemathesis(t)
	// It tries bad credentials on every operation, and more than somebody may who
	// guesses; what it is to see is what the document says of them.
	s := own(t, "AETHERIUM_LIMITS_FAILURE_RATE=0", "AETHERIUM_LIMITS_FAILURE_BURST=0")
	vm, executions := steady(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	// Python looks for hooks.py where PYTHONPATH says, and schemathesis keeps its
	// notes where it runs.
	files, err := filepath.Abs(propertyFiles)
	if err != nil {
		t.Fatal(err)
	}
	base := s.URL + api.BasePath
	cmd := exec.CommandContext(ctx, program,
		"--config-file", filepath.Join(files, "schemathesis.toml"), "run", base+"/openapi.json", "--url", base,
		"--header", "Authorization:Bearer "+s.Key, "--header", api.HeaderAPIKey+":"+s.Key,
		"--seed", propertySeed, "--max-time", propertySeconds, "--continue-on-failure", "--no-color")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "SCHEMATHESIS_HOOKS=hooks", "PYTHONPATH="+files, "PYTHONDONTWRITEBYTECODE=1",
		"AETHERIUM_TEST_API="+base, "AETHERIUM_TEST_KEY="+s.Key, "AETHERIUM_TEST_VM="+vm,
		"AETHERIUM_TEST_EXECUTIONS="+strings.Join(executions, ","))
	// Its children must not keep the pipe open when it is ended.
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("schemathesis: %v\n%s", err, without(clean(out, s.Key), "WARNINGS", "SUMMARY"))
	} else {
		t.Log(tail(clean(out, s.Key), 8))
	}
	if log := s.Log(); strings.Contains(log, "panic") {
		t.Errorf("the server panicked:\n%s", tail(log, 100))
	}
}

// steady makes what requests are aimed at: a VM, an execution in it that has
// ended and one that takes input.
func steady(t *testing.T, s *server.Server) (vm string, executions []string) {
	t.Helper()
	ctx := limited(t)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	made, err := c.CreateVM(ctx, api.CreateVM{Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range []api.StartExecution{
		{Command: api.Command{Command: "echo out; echo err >&2; exit 3"}},
		{Command: api.Command{Args: []string{"cat"}}, Stdin: true},
	} {
		x, err := c.StartExecution(ctx, made.ID, start)
		if err != nil {
			t.Fatal(err)
		}
		executions = append(executions, x.ID)
	}
	return made.ID, executions
}

// clean is a program's output without the key that it was given.
func clean(out []byte, key string) string {
	return string(bytes.ReplaceAll(out, []byte(key), []byte("KEY")))
}

// without leaves out the part of schemathesis' output from one heading to another: its
// advice takes more lines than what it found, which follows it in no log that is cut.
func without(out, from, to string) string {
	begin := strings.Index(out, "= "+from+" =")
	end := strings.Index(out, "= "+to+" =")
	if begin < 0 || end < begin {
		return out
	}
	return out[:begin] + out[end:]
}

// schemathesis returns the program, which it installs below .tools the first
// time: into a Python environment of its own, in the versions and with the
// hashes that requirements.txt names.
func schemathesis(t *testing.T) string {
	t.Helper()
	root, err := server.Root()
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := os.ReadFile(filepath.Join(propertyFiles, "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(wanted)
	dir := filepath.Join(root, ".tools", "schemathesis-"+hex.EncodeToString(digest[:6]))
	program, complete := filepath.Join(dir, "bin", "schemathesis"), filepath.Join(dir, "complete")
	unlock := lock(t, dir+".lock")
	defer unlock()
	if _, err := os.Stat(complete); err == nil {
		return program
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	install(t, python(t), "-m", "venv", dir)
	install(t, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
		"--prefer-binary", "--require-hashes", "--requirement", filepath.Join(propertyFiles, "requirements.txt"))
	if err := os.WriteFile(complete, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return program
}

// lock keeps other runs of the tests out until the returned function is called.
func lock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// python finds a Python that can make environments: a version manager's, or
// Debian's with python3-venv.
func python(t *testing.T) string {
	t.Helper()
	const able = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(limited(t), p, "-c", able).Run() == nil {
			return p
		}
	}
	t.Fatal("there is no Python of 3.10 or newer with venv and ensurepip: scripts/install-deps.sh --test installs one")
	return ""
}

func install(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
