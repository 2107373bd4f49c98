// Package codeinterpreter runs the published SDKs of E2B's code interpreter,
// unmodified, against a real server whose sandboxes are of the product's own
// template. It needs root, node, python3, Debian's archive, and the registries
// that the SDKs come from.
package codeinterpreter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
	"github.com/aetherium/aetherium/tests/internal/server"
)

const (
	// rootfsEnv names a root filesystem to make the template from at once.
	rootfsEnv = "AETHERIUM_TEST_CODE_ROOTFS"

	jsVersion, pythonVersion = "2.8.0", "2.11.5"
)

// result is what a script tells of one check.
type result struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Error string `json:"error"`
	Done  bool   `json:"done"`
}

// An sdk is one published package: where it is, and what runs its script.
type sdk struct {
	name, dir string
	args      []string
}

// sdks installs the packages.
func sdks(t *testing.T) []sdk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	if os.Getenv("AETHERIUM_TEST_OFFLINE") != "" {
		t.Skip("the SDKs come from their registries")
	}
	root, err := server.Root()
	if err != nil {
		t.Fatal(err)
	}
	js, python := filepath.Join(root, ".tools", "e2b-code", "js-"+jsVersion), filepath.Join(root, ".tools", "e2b-code", "python-"+pythonVersion)
	install(t, js, []string{"npm", "init", "-y"},
		[]string{"npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "@e2b/code-interpreter@" + jsVersion})
	interpreter := filepath.Join(python, "bin", "python")
	install(t, python, []string{"python3", "-m", "venv", python},
		[]string{interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "e2b-code-interpreter==" + pythonVersion})
	scripts := filepath.Join(root, "tests", "e2e", "codeinterpreter", "testdata")
	return []sdk{
		{"js " + jsVersion, js, []string{"node", filepath.Join(scripts, "suite.mjs")}},
		{"python " + pythonVersion, python, []string{interpreter, filepath.Join(scripts, "suite.py")}},
	}
}

func TestSDKs(t *testing.T) {
	packages := sdks(t)
	s := serve(t)
	build(t, s)
	run(t, s, packages)
}

// Sandboxes that go on from a memory, in which server and kernel run already,
// have what is their own all the same.
func TestSDKsOnMachinesFromMemory(t *testing.T) {
	kernel := os.Getenv("AETHERIUM_TEST_KERNEL")
	if kernel == "" {
		t.Skip("AETHERIUM_TEST_KERNEL names no kernel")
	}
	packages := sdks(t)
	s := serve(t, "AETHERIUM_MICROVM_KERNEL="+kernel, "AETHERIUM_DRIVERS=oci,qemu", "AETHERIUM_POOL_SIZE=0", "AETHERIUM_VM_DRIVER=qemu")
	usable(t, s, "qemu")
	build(t, s, "--memory", "--driver", "qemu", "--vm-memory", "768MiB")
	var vm api.VM
	if err := s.JSON(t.Context(), &vm, "vm", "create", "--template", preset.CodeInterpreterTemplate); err != nil {
		t.Fatal(err)
	}
	if vm.Driver != "qemu" || !vm.Memory {
		t.Errorf("VMs are on %s, from memory %v", vm.Driver, vm.Memory)
	}
	cli(t, s, "vm", "rm", vm.ID)
	run(t, s, packages[1:]) // emulated, each takes minutes; what differs is the machine, not the client
}

// usable waits until a driver was tried out, which boots a machine.
func usable(t *testing.T, s *server.Server, driver string) {
	t.Helper()
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tick := time.NewTicker(200 * time.Millisecond) // nobody tells of it
	defer tick.Stop()
	for {
		drivers, err := c.Drivers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drivers {
			if d.Name == driver && d.Usable {
				return
			}
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("the driver %s was never usable", driver)
		}
	}
}

func run(t *testing.T, s *server.Server, packages []sdk) {
	t.Helper()
	key := strings.TrimSpace(cli(t, s, "key", "create", "sdk", "--e2b", "--scope", "manage"))
	for _, p := range packages {
		t.Run(p.name, func(t *testing.T) { play(t, s, key, p.dir, p.args) })
	}
	if t.Failed() {
		t.Logf("the server's log ends with\n%s", lastLines(s.Log(), 60))
	}
}

// install fetches what is in dir once.
func install(t *testing.T, dir string, steps ...[]string) {
	t.Helper()
	ready := filepath.Join(dir, "ready")
	if _, err := os.Stat(ready); err == nil {
		return
	}
	if err := os.RemoveAll(dir); err != nil { // half of it
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		cmd := exec.CommandContext(t.Context(), step[0], step[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", step, err, lastLines(string(out), 20))
		}
	}
	if err := os.WriteFile(ready, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, extra ...string) *server.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "aetherium-code-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(filepath.Join(dir, "data"), append(extra, "AETHERIUM_BASE_SKIP=true")...)
	if err != nil {
		t.Fatal(err)
	}
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err, s.Log())
	}
	return s
}

// build makes the template as users do; where a root filesystem is given, of
// that, with what the preset starts.
func build(t *testing.T, s *server.Server, more ...string) {
	t.Helper()
	args := append([]string{"template", "build", preset.CodeInterpreterTemplate}, more...)
	if rootfs := os.Getenv(rootfsEnv); rootfs != "" {
		p, err := preset.Find(preset.CodeInterpreter)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--dir", rootfs, "--start", p.Start, "--ready", p.Ready)
	} else {
		args = append(args, "--preset", preset.CodeInterpreter)
	}
	cli(t, s, args...)
}

func cli(t *testing.T, s *server.Server, args ...string) string {
	t.Helper()
	out, err := s.CLI(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// play runs an SDK's script and makes a test of each of its checks.
func play(t *testing.T, s *server.Server, key, dir string, args []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + net.JoinHostPort("localhost", at.Port())
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "E2B_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "E2B_API_KEY="+key, "E2B_API_URL="+base+"/e2b", "E2B_SANDBOX_URL="+base, "E2B_DOMAIN=aeth.localhost:"+at.Port())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	done := false
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var r result
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			t.Logf("it said: %s", lines.Text())
			continue
		}
		if r.Done {
			done = true
			continue
		}
		t.Run(r.Check, func(t *testing.T) {
			if !r.OK {
				t.Error(r.Error)
			}
		})
	}
	if !done {
		t.Errorf("the script did not come to its end: %v\n%s", err, lastLines(stderr.String(), 40))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
