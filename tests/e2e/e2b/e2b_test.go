// Package e2b runs the published SDKs of E2B, unmodified, against a real server
// and real VMs. It needs root, node, python3, and the registries that the SDKs
// come from.
package e2b

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/tests/internal/server"
)

const (
	// driverEnv names the driver of the sandboxes.
	driverEnv = "AETHERIUM_TEST_E2B_DRIVER"
	// writeEnv has the matrix in the documentation written, not compared.
	writeEnv = "AETHERIUM_TEST_E2B_WRITE"

	defaultDriver = "oci"
)

// result is what a script tells of one check.
type result struct {
	Feature string `json:"feature"`
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Skip    string `json:"skip"`
	Error   string `json:"error"`
	Done    bool   `json:"done"`
}

// TestSDKs runs what each SDK does. Where all was run on the default driver,
// the matrix in the documentation must say what came of it.
func TestSDKs(t *testing.T) {
	driver := wanted(t)
	s := serve(t, driver)
	key := strings.TrimSpace(cli(t, s, "key", "create", "sdk", "--e2b", "--scope", "manage"))
	found := matrix{}
	for _, sdk := range sdks {
		t.Run(sdk.name(), func(t *testing.T) {
			program, dir, err := sdk.install(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			found.columns = append(found.columns, sdk.name())
			for _, r := range play(t, program, dir, plain(t, s, key)) {
				found.add(sdk.name(), r)
				t.Run(r.Feature+"/"+r.Check, r.judge)
			}
		})
	}
	if t.Failed() {
		t.Logf("the server's log ends with\n%s", lastLines(s.Log(), 60))
		return
	}
	if len(found.columns) == len(sdks) && driver == defaultDriver {
		found.compare(t)
	}
}

// judge has a test end as its check did.
func (r result) judge(t *testing.T) {
	switch {
	case r.Skip != "":
		t.Skip(r.Skip)
	case !r.OK:
		t.Error(r.Error)
	}
}

// wanted is the driver to test on; it skips where nothing can be tested.
func wanted(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	if os.Getenv("AETHERIUM_TEST_OFFLINE") != "" {
		t.Skip("the SDKs come from their registries")
	}
	if driver := os.Getenv(driverEnv); driver != "" {
		return driver
	}
	return defaultDriver
}

func serve(t *testing.T, driver string, settings ...string) *server.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "aetherium-e2b-")
	if err != nil {
		t.Fatal(err)
	}
	rootfs := os.Getenv("AETHERIUM_TEST_ROOTFS")
	extra := append([]string{"AETHERIUM_VM_DRIVER=" + driver, "AETHERIUM_BASE_SKIP=" + strconv.FormatBool(rootfs != "")}, settings...)
	for _, name := range []string{"AETHERIUM_MICROVM_KERNEL"} {
		if v := os.Getenv(name); v != "" {
			extra = append(extra, name+"="+v)
		}
	}
	s, err := server.New(filepath.Join(dir, "data"), extra...)
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err, s.Log())
	}
	if rootfs != "" {
		cli(t, s, "template", "build", "base", "--dir", rootfs)
	}
	return s
}

func cli(t *testing.T, s *server.Server, args ...string) string {
	t.Helper()
	out, err := s.CLI(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// plain is what finds a server without TLS and names.
func plain(t *testing.T, s *server.Server, key string) []string {
	t.Helper()
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + net.JoinHostPort("localhost", at.Port())
	return []string{"E2B_API_KEY=" + key, "E2B_API_URL=" + base + "/e2b", "E2B_SANDBOX_URL=" + base, "E2B_DOMAIN=aeth.localhost:" + at.Port(), "TEST_SCHEME=http"}
}

// play runs an SDK's script and returns what it told.
func play(t *testing.T, program []string, dir string, environ []string) []result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Dir = dir
	cmd.Env = append(withoutE2B(os.Environ()), environ...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var results []result
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
		results = append(results, r)
	}
	if err != nil || !done {
		t.Errorf("the script did not come to its end: %v\n%s", err, lastLines(stderr.String(), 40))
	}
	return results
}

func withoutE2B(env []string) []string {
	var out []string
	for _, kv := range env {
		if !strings.HasPrefix(kv, "E2B_") {
			out = append(out, kv)
		}
	}
	return out
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(string(out), 20))
	}
	return nil
}
