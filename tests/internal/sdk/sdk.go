// Package sdk runs published SDKs, unmodified, against a real server: it
// installs them from their registries and has a script of a test use each.
package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// configHome is where the command line keeps what it made for its user.
const configHome = "XDG_CONFIG_HOME="

// The languages of packages.
const (
	JS     = "js"
	Python = "python"
)

// Package is one published package.
type Package struct {
	Language string
	Name     string // in its registry
	Version  string
	With     []string // further packages of exact versions, as the registry's client takes them
	Node     string   // the version of Node.js to install and run it by; "": the host's own
}

// String is the language and the version, and what it is upon.
func (p Package) String() string {
	return strings.Join(append([]string{p.Language + " " + p.Version}, p.With...), ", ")
}

// Wanted skips a test where packages cannot be run.
func Wanted(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	if os.Getenv("AETHERIUM_TEST_OFFLINE") != "" {
		t.Skip("the SDKs come from their registries")
	}
}

// Install fetches a package, once, below .tools/kept, and gives what runs the
// test's script for it, suite.mjs or suite.py in its testdata, and where.
func (p Package) Install(t *testing.T, kept string) (program []string, dir string) {
	t.Helper()
	root, err := server.Root()
	must(t, err)
	testdata, err := filepath.Abs("testdata")
	must(t, err)
	place := strings.NewReplacer("@", "-", "==", "-") // npm makes a package's name of a directory's
	dir = filepath.Join(root, ".tools", kept, place.Replace(strings.Join(append([]string{p.Language, p.Version}, p.With...), "-")))
	node := "node"
	if p.Node != "" {
		node = runtimeOf(t, filepath.Join(root, ".tools", kept), p.Node)
	}
	program = []string{node, filepath.Join(testdata, "suite.mjs")}
	steps := [][]string{
		{"npm", "init", "-y"},
		append([]string{"npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", p.Name + "@" + p.Version}, p.With...),
	}
	if p.Language == Python {
		python := filepath.Join(dir, "bin", "python")
		program = []string{python, filepath.Join(testdata, "suite.py")}
		steps = [][]string{
			{"python3", "-m", "venv", dir},
			append([]string{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", p.Name + "==" + p.Version}, p.With...),
		}
	}
	take(t, dir, steps)
	return program, dir
}

// runtimeOf fetches a version of Node.js from npm, once, and gives its program.
func runtimeOf(t *testing.T, kept, version string) string {
	t.Helper()
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	name := "node-" + runtime.GOOS + "-" + arch
	dir := filepath.Join(kept, "node-"+version)
	take(t, dir, [][]string{
		{"npm", "init", "-y"},
		{"npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", name + "@" + version},
	})
	return filepath.Join(dir, "node_modules", name, "bin", "node")
}

// take carries out the steps that fill a directory, unless all were before. They are
// run by the host's own npm, which knows the host's registry and authorities.
func take(t *testing.T, dir string, steps [][]string) {
	t.Helper()
	ready := filepath.Join(dir, "ready")
	if _, err := os.Stat(ready); err == nil {
		return
	}
	must(t, os.RemoveAll(dir)) // half of it
	must(t, os.MkdirAll(dir, 0o755))
	for _, step := range steps {
		cmd := exec.CommandContext(t.Context(), step[0], step[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s cannot be installed: %v: %v\n%s", filepath.Base(dir), step, err, lastLines(string(out), 20))
		}
	}
	must(t, os.WriteFile(ready, nil, 0o644))
}

// Serve runs a server, with further settings, until the test ends, when it must
// leave nothing behind. within bounds its start.
func Serve(t *testing.T, within time.Duration, settings ...string) *server.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "aetherium-sdk-")
	must(t, err)
	s, err := server.New(filepath.Join(dir, "data"), settings...)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := s.Down(ctx, "--purge"); err != nil {
			t.Error(err)
		}
		if left := s.Footprint(ctx); len(left) > 0 {
			t.Errorf("down left something behind: %v", left)
		}
		_ = os.RemoveAll(dir)
	})
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err, s.Log())
	}
	return s
}

// CLI runs a command of the command line, and gives its output.
func CLI(t *testing.T, s *server.Server, args ...string) string {
	t.Helper()
	out, err := s.CLI(t.Context(), args...)
	must(t, err)
	return out
}

// Plain is the environment in which packages find a server without TLS and
// names, as `aetherium e2b env --plain` sets it up.
func Plain(t *testing.T, s *server.Server) []string {
	t.Helper()
	if !slices.ContainsFunc(s.Env, func(kv string) bool { return strings.HasPrefix(kv, configHome) }) {
		s.Env = append(s.Env, configHome+t.TempDir()) // where the key is kept
	}
	return environ(t, s, "--plain")
}

// environ is what `aetherium e2b env` sets up.
func environ(t *testing.T, s *server.Server, args ...string) (environ []string) {
	t.Helper()
	variables := map[string]string{}
	must(t, json.Unmarshal([]byte(CLI(t, s, append([]string{"e2b", "env", "--shell", "json"}, args...)...)), &variables))
	for name, value := range variables {
		environ = append(environ, name+"="+value)
	}
	return environ
}

// Result is what a script tells of one check, a line of JSON each.
type Result struct {
	Feature string `json:"feature"`
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Skip    string `json:"skip"`
	Error   string `json:"error"`
	Done    bool   `json:"done"` // all checks were made; nothing else is told then
}

// Judge has a test end as its check did.
func (r Result) Judge(t *testing.T) {
	switch {
	case r.Skip != "":
		t.Skip(r.Skip)
	case !r.OK:
		t.Error(r.Error)
	}
}

// Play runs a script, which has to come to its end within a time, and returns
// what it told.
func Play(t *testing.T, within time.Duration, program []string, dir string, environ []string) []Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Dir = dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "E2B_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, environ...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	results, said, whole := told(out)
	for _, line := range said {
		t.Logf("it said: %s", line)
	}
	if err == nil {
		err = whole
	}
	if err != nil {
		t.Errorf("the script did not come to its end: %v\n%s", err, lastLines(stderr.String(), 40))
	}
	return results
}

// told takes a script's output apart: what it told of its checks, and what else
// it said. A script that made no check, or did not tell that all are made, is
// an error, however it ended.
func told(out []byte) (results []Result, said []string, err error) {
	done, made := false, false
	for line := range bytes.Lines(out) {
		var r Result
		switch {
		case json.Unmarshal(line, &r) != nil || r.Feature == "" && !r.Done:
			said = append(said, strings.TrimSpace(string(line)))
		case r.Done:
			done = true
		default:
			made = made || r.Skip == ""
			results = append(results, r)
		}
	}
	switch {
	case !done:
		err = errors.Plain("it did not tell that all checks were made")
	case !made:
		err = errors.Plain("it made no check")
	}
	return results, said, err
}

// Explain shows the end of the server's log if the test has failed.
func Explain(t *testing.T, s *server.Server) {
	t.Helper()
	if t.Failed() {
		t.Logf("the server's log ends with\n%s", lastLines(s.Log(), 60))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
