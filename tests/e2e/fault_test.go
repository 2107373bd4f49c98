package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// own starts a server for one test that kills it or needs settings of its own.
// It takes the shared server's template, so that it need not make its own.
func own(t *testing.T, settings ...string) *server.Server {
	t.Helper()
	return ownIn(t, t.TempDir(), settings...)
}

// ownIn is own with the data directory in dir.
func ownIn(t *testing.T, dir string, settings ...string) *server.Server {
	t.Helper()
	base, err := connect(t).Template(limited(t), "base")
	if err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(suite.DataDir, "images", base.Tags["latest"], "rootfs")
	settings = append([]string{"AETHERIUM_BASE_SKIP=true", "AETHERIUM_NETWORK_POOL=1"}, settings...)
	s, err := server.New(filepath.Join(dir, "data"), settings...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(tail(s.Log(), 100))
		}
		if err := s.Down(context.Background(), "--purge"); err != nil {
			t.Error(err)
		}
		if left := s.Footprint(context.Background()); len(left) > 0 {
			t.Errorf("down left something behind: %v", left)
		}
	})
	if _, err := s.CLI(limited(t), "template", "build", "base", "--dir", rootfs); err != nil {
		t.Fatal(err)
	}
	return s
}

// The server is killed again and again while commands write. Their VMs run on,
// and a reader by offset gets every byte once and the exit code.
func TestKillNineLosesNoByte(t *testing.T) {
	t.Parallel()
	s := own(t)
	ctx, c := t.Context(), patient(t, s)
	vm, err := c.CreateVM(limited(t), api.CreateVM{Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 3000
	script := fmt.Sprintf(`echo started >> runs; for i in $(seq 1 %d); do echo line $i; [ $((i %% 50)) = 0 ] && sleep 0.05; done; exit 42`, lines)
	stream, err := c.Start(ctx, vm.ID, api.StartExecution{Command: api.Command{Args: []string{"bash", "-c", script}}}, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	pr, pw := io.Pipe()
	exit := make(chan *api.OutputExit, 1)
	go func() {
		for {
			ev, err := stream.Next(ctx)
			if err != nil {
				_ = pw.CloseWithError(err)
				return
			}
			if len(ev.Data) > 0 {
				if _, err := pw.Write(ev.Data); err != nil {
					return
				}
			}
			if ev.Gap != nil {
				_ = pw.CloseWithError(fmt.Errorf("gap %+v", *ev.Gap))
				return
			}
			if ev.Exit != nil {
				exit <- ev.Exit
				_ = pw.Close()
				return
			}
		}
	}()
	out := bufio.NewScanner(pr)
	for n := 1; n <= lines; n++ {
		if !out.Scan() {
			t.Fatalf("line %d: %v", n, out.Err())
		}
		if want := fmt.Sprintf("line %d", n); out.Text() != want {
			t.Fatalf("got %q, want %q", out.Text(), want)
		}
		if n%900 == 0 {
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(limited(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out.Scan() {
		t.Fatalf("more than was written: %q", out.Text())
	}
	select {
	case e := <-exit:
		if e.ExitCode != 42 || e.LostReason != "" {
			t.Errorf("%+v", e)
		}
	case <-limited(t).Done():
		t.Fatal("no exit")
	}
	runs, err := c.Execute(limited(t), vm.ID, api.Execute{Command: api.Command{Args: []string{"cat", "runs"}}})
	if err != nil || runs.Stdout != "started\n" {
		t.Errorf("the command ran %q, %v", runs.Stdout, err)
	}
	after, err := c.VM(limited(t), vm.ID)
	if err != nil || after.State != "running" || after.Epoch != vm.Epoch {
		t.Errorf("the VM is %s in epoch %d, %v", after.State, after.Epoch, err)
	}
}

// The server is killed while VMs are being created and deleted. After the next
// start every VM is where it was wanted, and nothing else is there.
func TestKillNineWhileCreating(t *testing.T) {
	t.Parallel()
	s := own(t)
	for round := range 4 {
		c, err := s.Client()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if _, err := c.AcceptVM(limited(t), fmt.Sprintf("round-%d-%d", round, i), api.CreateVM{Network: "none"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(round*17) * time.Millisecond) // another point of the creation each round
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := s.Start(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tasks, err := client.Collect(c.Tasks(limited(t), client.TaskFilter{}, client.Page{}))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, task := range tasks {
		if task.Kind != "vm.create" {
			continue
		}
		done, err := c.WaitTask(limited(t), task.ID)
		if err != nil || done.State != "succeeded" {
			t.Fatalf("task %+v, %v", done, err)
		}
		made++
		res, err := c.Execute(limited(t), task.Subject, api.Execute{Command: api.Command{Args: []string{"echo", "alive"}}})
		if err != nil || res.Stdout != "alive\n" {
			t.Fatalf("VM %s: %+v, %v", task.Subject, res, err)
		}
	}
	if made != 16 {
		t.Fatalf("%d of 16 VMs were made", made)
	}
	vms, err := client.Collect(c.VMs(limited(t), client.VMFilter{}))
	if err != nil || len(vms) != 16 {
		t.Fatalf("%d VMs, %v", len(vms), err)
	}
}

func TestDeadlineAndIdleTimeout(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	short := int64(700)
	dying, err := c.CreateVM(ctx, api.CreateVM{Network: "none", TimeoutMS: &short})
	if err != nil {
		t.Fatal(err)
	}
	idle, err := c.CreateVM(ctx, api.CreateVM{Network: "none", IdleTimeoutMS: 700, OnTimeout: "stop"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.DropVM(ctx, idle.ID) }()
	await := func(id, state string) api.VM {
		t.Helper()
		for ev, err := range c.FollowEvents(ctx, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if ev.VMID == id && strings.HasPrefix(ev.Type, "vm."+state) {
				break
			}
		}
		vm, err := c.VM(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return vm
	}
	if vm := await(dying.ID, "deleted"); vm.Tombstone == nil || vm.Tombstone.Cause != "deadline" {
		t.Errorf("%+v", vm.Tombstone)
	}
	if vm := await(idle.ID, "stopped"); vm.Tombstone == nil || vm.Tombstone.Cause != "idle" || vm.State != "stopped" {
		t.Errorf("%s %+v", vm.State, vm.Tombstone)
	}
}

func TestLimitsAreEnforced(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, err := c.CreateVM(ctx, api.CreateVM{Network: "none", Resources: &api.Resources{MemoryBytes: 96 << 20, DiskBytes: 64 << 20, PIDs: 64}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.DropVM(ctx, vm.ID) }()
	// They last until they are ended: as many are there at a time as can be, however
	// long it takes to start them.
	const many = `exec python3 -c '
import subprocess
made = []
try:
    while len(made) < 100:
        made.append(subprocess.Popen(["sleep", "infinity"]))
except BlockingIOError as err:
    print("fork:", err)
for p in made:
    p.kill()
    p.wait()'`
	for _, tc := range []struct {
		name, script, says string
		fails              bool
	}{
		{"memory", "python3 -c 'x = bytearray(300 << 20)'", "", true},
		{"alive after OOM", "echo alive", "alive", false},
		{"disk", "dd if=/dev/zero of=big bs=1M count=200 2>&1; sync; rm -f big", "", false},
		{"processes", many, "fork: ", false},
		{"alive after that", "echo alive", "alive", false},
	} {
		res, err := c.Execute(ctx, vm.ID, api.Execute{Command: api.Command{Args: []string{"bash", "-c", tc.script}}})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		out := res.Stdout + res.Stderr
		switch {
		case tc.fails && *res.Execution.ExitCode == 0:
			t.Errorf("%s: it succeeded", tc.name)
		case !strings.Contains(out, tc.says):
			t.Errorf("%s: %q", tc.name, out)
		case tc.name == "disk" && !strings.Contains(out, "quota exceeded") && !strings.Contains(out, "No space left"):
			t.Errorf("the disk has no limit: %q", out)
		}
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, err := c.CreateVM(ctx, api.CreateVM{Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.DropVM(ctx, vm.ID) }()
	if _, err := c.Execute(ctx, vm.ID, api.Execute{Command: api.Command{Args: []string{"bash", "-c",
		`echo "from the VM" > index.html; (python3 -m http.server 8000 >/dev/null 2>&1 &); for i in $(seq 200); do curl -s localhost:8000 >/dev/null && exit 0; sleep 0.05; done; exit 1`}}}); err != nil {
		t.Fatal(err)
	}
	p, err := c.Port(ctx, vm.ID, 8000)
	if err != nil {
		t.Fatal(err)
	}
	for name, get := range map[string]func() (int, string, error){
		"path form": func() (int, string, error) {
			return fetch(ctx, suite.URL+"/api/v1/vms/"+vm.ID+"/ports/8000/", "", map[string]string{"X-API-Key": suite.Key})
		},
		"preview host": func() (int, string, error) {
			return fetch(ctx, suite.URL+"/", hostOf(p.URL), map[string]string{"X-Aetherium-Token": p.Token})
		},
	} {
		if code, body, err := get(); err != nil || code != 200 || body != "from the VM\n" {
			t.Errorf("%s: %d %q %v", name, code, body, err)
		}
	}
	if code, body, err := fetch(ctx, suite.URL+"/", hostOf(p.URL), nil); err != nil || code == 200 {
		t.Errorf("a preview without a token: %d %q %v", code, body, err)
	}
}
