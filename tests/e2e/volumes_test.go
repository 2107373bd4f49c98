package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// e2bCall does a request to the control plane that E2B's SDKs speak to.
func e2bCall(ctx context.Context, t *testing.T, s *server.Server, secret, method, path, body string, want int) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, s.URL+api.E2BPath+path, strings.NewReader(body))
	check(t, err)
	r.Header.Set("Authorization", "Bearer "+secret)
	resp, err := http.DefaultClient.Do(r)
	check(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return text
}

// The server is killed while a VM has a volume: the VM keeps it, what was
// written is there, and nothing of it stays mounted (own looks for that).
func TestKillNineWithAVolume(t *testing.T) {
	t.Parallel()
	s := own(t)
	key := s.Key
	var v struct{ VolumeID, Token string }
	check(t, json.Unmarshal(e2bCall(limited(t), t, s, key, "POST", "/volumes", `{"name":"data"}`, 201), &v))
	content := "/volumecontent/" + v.VolumeID
	var made struct{ SandboxID string }
	check(t, json.Unmarshal(e2bCall(limited(t), t, s, key, "POST", "/v2/sandboxes", `{"templateID":"base","timeout":3600,"volumeMounts":[{"name":"data","path":"/mnt/data"}]}`, 201), &made))
	want := ""
	for _, round := range []string{"one", "two", "three"} {
		c, err := s.Client()
		check(t, err)
		// From outside and from the VM, by turns.
		e2bCall(limited(t), t, s, v.Token, "PUT", content+"/file?path=outside", round, 201)
		x, err := c.Execute(limited(t), made.SandboxID, api.Execute{Command: api.Command{Args: []string{"sh", "-c", "cat /mnt/data/outside >> /mnt/data/inside; cat /mnt/data/inside"}}})
		check(t, err)
		if want += round; x.Stdout != want {
			t.Fatalf("in the VM: %q, want %q: %s", x.Stdout, want, x.Stderr)
		}
		c.Close()
		check(t, s.Kill())
		check(t, s.Start(limited(t)))
		if got := e2bCall(limited(t), t, s, v.Token, "GET", content+"/file?path=inside", "", 200); string(got) != want {
			t.Fatalf("from outside: %q, want %q", got, want)
		}
	}
	e2bCall(limited(t), t, s, key, "DELETE", "/volumes/"+v.VolumeID, "", 409)
	c, err := s.Client()
	check(t, err)
	defer c.Close()
	_, err = c.DeleteVM(limited(t), made.SandboxID)
	check(t, err)
	e2bCall(limited(t), t, s, key, "DELETE", "/volumes/"+v.VolumeID, "", 204)
	e2bCall(limited(t), t, s, v.Token, "GET", content+"/dir?path=/", "", 401)
}

// Two VMs see the same files, one of them without the right to change them,
// and the files outlive both.
func TestVolumesOfVMs(t *testing.T) {
	t.Parallel()
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := invoke(t, "", args...)
		if code != 0 {
			t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	name := "shared-" + strings.ToLower(t.Name())
	must("volume", "create", name, "--disk", "64MiB")
	t.Cleanup(func() { invoke(t, "", "volume", "rm", name) })
	one := createVM(t, "--volume", name+":/mnt/data")
	two := createVM(t, "--volume", name+":/srv/data:ro")
	must("exec", one, "--", "sh", "-c", "echo from one > /mnt/data/file")
	if got := must("exec", two, "--", "cat", "/srv/data/file"); got != "from one\n" {
		t.Errorf("the other VM reads %q", got)
	}
	_, stderr, code := invoke(t, "", "exec", two, "--", "sh", "-c", "echo from two > /srv/data/file")
	if code == 0 || !strings.Contains(stderr, "Read-only file system") {
		t.Errorf("writing where it must not: exit code %d, %s", code, stderr)
	}
	if got := must("vm", "get", two); !strings.Contains(got, "Volume\t"+name+":/srv/data:ro\n") {
		t.Errorf("the VM shows %s", got)
	}
	_, stderr, code = invoke(t, "", "volume", "rm", name)
	if code != 1 || !strings.Contains(stderr, "in use by 2 VMs (conflict)") {
		t.Errorf("removing it: exit code %d, %s", code, stderr)
	}
	must("vm", "rm", one, two)
	if got := must("volume", "cp", name+":file", "-"); got != "from one\n" {
		t.Errorf("from outside: %q", got)
	}
	if stdout, stderr, code := invoke(t, "from outside\n", "volume", "cp", "-", name+":in/outside"); code != 0 {
		t.Errorf("to the volume: exit code %d, %s%s", code, stdout, stderr)
	}
	three := createVM(t, "--volume", name+":/mnt/data")
	if got := must("exec", three, "--", "cat", "/mnt/data/file", "/mnt/data/in/outside"); got != "from one\nfrom outside\n" {
		t.Errorf("afterwards: %q", got)
	}
	must("vm", "rm", three)
	// run leaves nothing behind that keeps a volume in use.
	if got := must("run", "--volume", name+":/mnt/data", "--", "cat", "/mnt/data/file"); got != "from one\n" {
		t.Errorf("by run: %q", got)
	}
	must("volume", "rm", name)
}
