package fleet

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// An installation from local packages is begun, used, begun once more while it
// runs, ended, and begun again with what it had.
func TestLocalDev(t *testing.T) {
	t.Parallel()
	rootfs := given(t)
	root, err := server.Root()
	must(t, err)
	dir, err := os.MkdirTemp("/tmp", "dev-") // short, for its sockets
	must(t, err)
	port := freePorts(t, 5)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	command := func(ctx context.Context, what string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts/local-dev.sh"), what)
		cmd.Env = append(os.Environ(), "DEV_DIR="+dir, "DEV_ADDRESS="+address, fmt.Sprintf("DEV_WORKER_PORT=%d", port+1),
			"AETHERIUM_BASE_SKIP=true") // it is given one below
		return cmd
	}
	script := func(what string) string {
		t.Helper()
		cmd := command(t.Context(), what)
		// To a file: what it starts would keep a pipe open.
		out, err := os.CreateTemp(t.TempDir(), "out")
		must(t, err)
		defer func() { _ = out.Close() }()
		cmd.Stdout, cmd.Stderr = out, out
		err = cmd.Run()
		said, rerr := os.ReadFile(out.Name())
		must(t, rerr)
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, said)
		}
		return string(said)
	}
	t.Cleanup(func() {
		if t.Failed() { // otherwise it has been ended
			_ = command(context.WithoutCancel(t.Context()), "down").Run()
		}
		must(t, os.RemoveAll(dir))
	})
	if said := script("up"); !strings.Contains(said, "http://"+address) || !strings.Contains(said, "AETHERIUM_DATA_DIR="+dir+"/gateway") {
		t.Errorf("up: %s", said)
	}
	running := regexp.MustCompile(`(?m) pid \d+$`)
	first := running.FindAllString(script("status"), -1)
	script("up")
	if again := running.FindAllString(script("status"), -1); len(first) != 5 || strings.Join(first, "") != strings.Join(again, "") {
		t.Errorf("ran %q, and after another up %q", first, again)
	}

	key, err := os.ReadFile(dir + "/gateway/api.key")
	must(t, err)
	c, err := client.New(client.Options{URL: "http://" + address, Key: strings.TrimSpace(string(key))})
	must(t, err)
	defer c.Close()
	cli := exec.CommandContext(t.Context(), filepath.Join(root, "bin/aetherium"), "template", "build", "base", "--dir", rootfs)
	cli.Env = append(os.Environ(), "AETHERIUM_DATA_DIR="+dir+"/gateway")
	if out, err := cli.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vm, err := c.CreateVM(t.Context(), api.CreateVM{Name: "kept", Network: "none"})
	must(t, err)
	hi := func() {
		t.Helper()
		x, err := c.Execute(t.Context(), vm.ID, api.Execute{Command: api.Command{Args: []string{"echo", "hi"}}})
		if err != nil || x.Stdout != "hi\n" {
			t.Errorf("%+v, %v", x, err)
		}
	}
	hi()

	script("down")
	if left := running.FindAllString(script("status"), -1); len(left) > 0 {
		t.Errorf("after down: %q", left)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), dir+"/") {
		t.Errorf("still mounted:\n%s", mounts)
	}
	script("up")
	got, err := c.VM(t.Context(), vm.ID)
	if err != nil || got.Name != "kept" {
		t.Errorf("after another up: %+v, %v", got, err)
	}
	vm, err = c.CreateVM(t.Context(), api.CreateVM{Name: "new", Network: "none"})
	must(t, err)
	hi()
	script("down")
}

// freePorts is the first of some that nobody listens on.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for {
		if first := portsFrom(t, n); first > 0 {
			return first
		}
	}
}

// portsFrom is zero where one of those behind the first is taken.
func portsFrom(t *testing.T, n int) (first int) {
	t.Helper()
	var config net.ListenConfig
	for i := range n {
		l, err := config.Listen(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", first+i))
		if err != nil {
			return 0
		}
		defer func() { _ = l.Close() }()
		if i == 0 {
			first = l.Addr().(*net.TCPAddr).Port
		}
	}
	return first
}
