package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// A tool that is small, needs nothing but the node of base, and never changes.
const (
	smallTool        = "npm:semver"
	smallToolVersion = "7.6.3"
	smallToolRef     = smallTool + "@" + smallToolVersion
)

// npmRegistry is where the tests' packages come from. A run without a network
// has to say so: TestTools fails rather than to be left out unseen.
func npmRegistry(t *testing.T) *url.URL {
	t.Helper()
	if os.Getenv("AETHERIUM_TEST_OFFLINE") != "" {
		t.Skip("AETHERIUM_TEST_OFFLINE is set: no tool can be installed")
	}
	text := os.Getenv("npm_config_registry")
	if text == "" {
		text = "https://registry.npmjs.org"
	}
	registry, err := url.Parse(strings.TrimRight(text, "/"))
	if err != nil || registry.Hostname() == "" {
		t.Fatalf("npm_config_registry is %q: %v", text, err)
	}
	ctx, cancel := context.WithTimeout(limited(t), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, registry.String()+"/semver/"+smallToolVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("the npm registry does not answer (AETHERIUM_TEST_OFFLINE=1 leaves this test out): %v", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the npm registry answers %s", resp.Status)
	}
	return registry
}

// toolSettings let installations reach the registry, also where it is a mirror
// at an address that VMs do not get to, and one that tells no package's age.
func toolSettings(t *testing.T, registry *url.URL) []string {
	t.Helper()
	ips, err := net.DefaultResolver.LookupNetIP(limited(t), "ip4", registry.Hostname())
	if err != nil {
		t.Fatal(err)
	}
	allow := make([]string, len(ips))
	for i, ip := range ips {
		allow[i] = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()).String()
	}
	return []string{
		"AETHERIUM_TOOLS_REGISTRY=" + registry.String(), "AETHERIUM_TOOLS_ENV=AUBE_MINIMUM_PACKAGE_AGE=0",
		"AETHERIUM_NETWORK_ALLOW=" + strings.Join(allow, ","),
	}
}

// A tool that nobody has is installed once for all who want it, although the
// server is killed while it is; every VM has it then, on PATH, read only.
func TestTools(t *testing.T) {
	t.Parallel()
	registry := npmRegistry(t)
	s := own(t, toolSettings(t, registry)...)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	var tasks []api.Task
	for i := range 3 {
		made, err := c.AcceptVM(ctx, fmt.Sprint("tools-", i), api.CreateVM{Name: fmt.Sprint("with-tool-", i), Tools: []string{smallToolRef}})
		if err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, made.Task)
	}
	for range 2 {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, task := range tasks {
		if _, err := c.WaitTask(ctx, task.ID); err != nil {
			t.Fatalf("a VM with a tool: %v", err)
		}
	}
	installed, err := c.Tools(ctx)
	if err != nil || len(installed) != 1 || installed[0].Version != smallToolVersion || installed[0].VMs != 3 || installed[0].SizeBytes == 0 {
		t.Fatalf("installed: %+v, %v", installed, err)
	}
	t.Run("in VMs", func(t *testing.T) { toolInVMs(ctx, t, s) })
	t.Run("errors", func(t *testing.T) { toolErrors(ctx, t, s, c) })
	t.Run("removal", func(t *testing.T) { toolRemoval(ctx, t, s, c, installed[0].ID) })

	for _, dir := range []string{"tools/staging", "build-work"} {
		if left, err := os.ReadDir(filepath.Join(s.DataDir, dir)); err != nil && !os.IsNotExist(err) || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

func toolInVMs(ctx context.Context, t *testing.T, s *server.Server) {
	has := func(want string, args ...string) {
		t.Helper()
		out, err := s.CLI(ctx, args...)
		if err != nil || strings.TrimSpace(out) != want {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	pick := []string{"semver", "--range", ">=2", "1.0.0", "2.1.0"}
	has("2.1.0", append([]string{"exec", "with-tool-0", "--"}, pick...)...)
	has("2.1.0", "exec", "with-tool-1", "--", "bash", "-lc", strings.ReplaceAll(strings.Join(pick, " "), ">=2", "'>=2'"))
	has("2.1.0", append([]string{"exec", "--user", "root", "with-tool-2", "--"}, pick...)...)
	has("read only", "exec", "--user", "root", "with-tool-0", "--", "sh", "-c",
		`d=$(dirname "$(command -v semver)") && ! touch "$d/x" 2>/dev/null && ! rm "$d/semver" 2>/dev/null && echo read only`)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			has("2.1.0", append([]string{"run", "--network", "none", "--tool", "npm:semver@7.6.3", "--env", "PATH=/usr/bin:/bin", "--"}, pick...)...)
		})
	}
	wg.Wait()
	if _, err := s.CLI(ctx, "vm", "fork", "with-tool-0", "--name", "fork"); err != nil {
		t.Fatal(err)
	}
	has("2.1.0", append([]string{"exec", "fork", "--"}, pick...)...)
	if out, err := s.CLI(ctx, "run", "--network", "none", "--", "sh", "-c", "command -v semver; ls /opt/aetherium"); err == nil {
		t.Errorf("a VM that did not ask has it: %s", out)
	}
}

func toolErrors(ctx context.Context, t *testing.T, s *server.Server, c *client.Client) {
	defer func() { // a run whose VM failed leaves none
		after, err := client.Collect(c.VMs(ctx, client.VMFilter{States: []string{"failed", "pending"}}))
		if err != nil || len(after) > 0 {
			t.Errorf("left: %+v, %v", after, err)
		}
	}()
	for tool, code := range map[string]string{smallTool + "@999": "(tool_no_version)", "npm:@aetherium-none/there-is-no-such-package": "(tool_unknown)"} {
		if out, err := s.CLI(ctx, "run", "--tool", tool, "--", "true"); err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %s%v", tool, out, err)
		}
		task, err := c.InstallTools(ctx, []string{tool})
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		if err := c.FollowInstallation(ctx, task.ID, &log); err != nil || !strings.Contains(log.String(), code) {
			t.Errorf("%s: the log is %q, %v", tool, log.String(), err)
		}
		if _, err := c.WaitTask(ctx, task.ID); err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: the task: %v", tool, err)
		}
	}
	for _, tool := range []string{"../x", "node@../../etc", "npm:a;id", "-x"} {
		if _, err := c.CreateVM(ctx, api.CreateVM{Tools: []string{tool}}); err == nil || !strings.Contains(err.Error(), "invalid_argument") {
			t.Errorf("%q: %v", tool, err)
		}
	}
}

func toolRemoval(ctx context.Context, t *testing.T, s *server.Server, c *client.Client, id string) {
	if err := c.RemoveTool(ctx, id); err == nil || !strings.Contains(err.Error(), "(tool_in_use)") {
		t.Errorf("removed although VMs have it: %v", err)
	}
	if _, err := s.CLI(ctx, "exec", "fork", "--", "semver", "1.0.0"); err != nil {
		t.Error(err)
	}
	vms, err := client.Collect(c.VMs(ctx, client.VMFilter{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, vm := range vms {
		if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.CLI(ctx, "tool", "rm", smallToolRef); err != nil {
		t.Error(err)
	}
	if left, err := c.Tools(ctx); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}
