// Package supply holds what the product is built from to its rules: everything
// that comes from elsewhere is named by an exact version and, where there is
// one, checked against a checksum, so that the same commit is the same product
// tomorrow and an upstream that is taken over changes nothing here.
package supply

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// gocmd runs the go command in a module as if there was no workspace.
func gocmd(t *testing.T, module string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = filepath.Join(root, module)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: go %s: %v\n%s", module, strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tracked lists the repository's files, those not yet committed as well.
func tracked(t *testing.T, patterns ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"ls-files", "-co", "--exclude-standard", "--"}, patterns...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("this is no git checkout: %v", err)
	}
	return strings.Fields(string(out))
}

type goFile struct {
	Go      string
	Use     []struct{ DiskPath string }
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

func workspace(t *testing.T) (w goFile) {
	t.Helper()
	if err := json.Unmarshal(gocmd(t, ".", "work", "edit", "-json", "go.work"), &w); err != nil {
		t.Fatal(err)
	}
	return w
}

// The workspace names the Go release that vulnerabilities are looked for in,
// replaces nothing, and a module replaces nothing but its neighbours here.
func TestNothingIsReplacedFromElsewhere(t *testing.T) {
	t.Parallel()
	w := workspace(t)
	if !regexp.MustCompile(`(?m)^toolchain go1\.\d+\.\d+$`).MatchString(read(t, "go.work")) || len(w.Replace) > 0 {
		t.Errorf("go.work names no release, or replaces %v", w.Replace)
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, use := range w.Use {
		var m goFile
		if err := json.Unmarshal(gocmd(t, use.DiskPath, "mod", "edit", "-json"), &m); err != nil {
			t.Fatal(err)
		}
		if m.Go != w.Go {
			t.Errorf("%s wants go %s, the workspace %s", use.DiskPath, m.Go, w.Go)
		}
		for _, r := range m.Replace {
			dir := filepath.Join(here, use.DiskPath, r.New.Path)
			rel, err := filepath.Rel(here, dir)
			if err != nil || !strings.HasPrefix(r.New.Path, ".") || strings.HasPrefix(rel, "..") || !strings.HasPrefix(r.Old.Path, "github.com/aetherium/aetherium/") {
				t.Errorf("%s replaces %s by %s", use.DiskPath, r.Old.Path, r.New.Path)
			}
		}
	}
}

// Each module builds and tests by itself with the checksums that it has, and
// what is in the module cache is what those are of.
func TestChecksumsAreComplete(t *testing.T) {
	t.Parallel()
	for _, use := range workspace(t).Use {
		gocmd(t, use.DiskPath, "list", "-deps", "-test", "./...")
		gocmd(t, use.DiskPath, "mod", "verify")
	}
}

// exact is a version that stays what it is.
var exact = regexp.MustCompile(`^"?(?:v?\d+\.\d+\.\d+[\w.+-]*|\$\w+|\$\{\w+\}|\$\d)"?$`)

// Scripts install Go programs, and everything else, by exact versions.
func TestToolsArePinned(t *testing.T) {
	t.Parallel()
	versioned := regexp.MustCompile(`(?:go(?:["\s}]+)|GO:-go}" )(?:install|run) (?:-\S+ )*"?([\w./$-]+)(?:@(\S+))?`)
	byTool := regexp.MustCompile(`go_tool (\S+) (\S+?)\)`)
	variable := regexp.MustCompile(`(?m)^\s*(\w+_version|PROTOC_GEN\w*)=(\S+)`)
	for _, name := range tracked(t, "*.sh", "Makefile", "*/Makefile", "Makefile.root", ".ci/run", ".github/*") {
		text := read(t, name)
		if strings.Contains(text, "@latest") || strings.Contains(text, "@main") || strings.Contains(text, "@master") {
			t.Errorf("%s takes whatever is newest", name)
		}
		for _, m := range versioned.FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(m[1], ".") || strings.HasPrefix(m[1], "$") { // our own, or go_tool's argument
				continue
			}
			if !exact.MatchString(m[2]) {
				t.Errorf("%s installs %s@%s", name, m[1], m[2])
			}
		}
		for _, m := range byTool.FindAllStringSubmatch(text, -1) {
			if !exact.MatchString(m[2]) {
				t.Errorf("%s takes %s of version %s", name, m[1], m[2])
			}
		}
		for _, m := range variable.FindAllStringSubmatch(text, -1) {
			if !exact.MatchString(m[2]) {
				t.Errorf("%s: %s is %s", name, m[1], m[2])
			}
		}
		if m := regexp.MustCompile(`curl[^\n|]*\|\s*(?:sudo )?(?:ba)?sh`).FindString(text); m != "" {
			t.Errorf("%s runs what it downloads: %s", name, m)
		}
	}
	// A requirement of pip's is a version and the hashes of its files.
	requirement := regexp.MustCompile(`^[\w.-]+==\d[\w.]*(?: ; [^\\]*)?(?: --hash=sha256:[0-9a-f]{64})+$`)
	lines := regexp.MustCompile(`\s*\\\n\s*`).ReplaceAllString(read(t, "tests/e2e/testdata/schemathesis/requirements.txt"), " ")
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		if !strings.HasPrefix(line, "#") && !requirement.MatchString(line) {
			t.Errorf("requirements.txt: %.80q is not a version with its hashes", line)
		}
	}
	if m := regexp.MustCompile(`DefaultMise = "([^"]*)"`).FindStringSubmatch(read(t, "services/core/pkg/tools/mise.go")); m == nil || !exact.MatchString(m[1]) {
		t.Errorf("mise of version %q", m)
	}
}
