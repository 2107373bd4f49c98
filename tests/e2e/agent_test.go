package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// within fails a test whose call has not returned after crashWait, a bound that
// no working server comes near.
func within(t *testing.T, what string, f func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), crashWait)
	defer cancel()
	err := f(ctx)
	if ctx.Err() != nil {
		t.Errorf("%s: no answer in %s", what, crashWait)
	}
	return err
}

// The guest agent is the VM's first process: when it is killed the VM ends, and
// everybody is told why. Its disk is kept.
func TestAgentIsKilled(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, unharmed := bounded(t, c), neighbour(t, c)
	mustShell(t, c, vm.ID, "echo kept > kept; sync")
	stream, err := c.Start(ctx, vm.ID, api.StartExecution{Command: api.Command{Args: []string{"bash", "-c", "echo running; exec sleep 600"}}}, client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if ev, err := stream.Next(ctx); err != nil || string(ev.Data) != "running\n" {
		t.Fatalf("%+v %v", ev, err)
	}
	pid, err := suite.Agent(ctx, vm.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ev, err := stream.Next(ctx)
	if err != nil || ev.Exit == nil || ev.Exit.LostReason == "" {
		t.Errorf("the command that ran: %+v %v", ev, err)
	}
	follow(ctx, t, c, vm.ID, "vm.stopped")
	now, err := c.VM(ctx, vm.ID)
	if err != nil || now.State != "stopped" || now.Tombstone == nil || now.Tombstone.Cause != "guest_exit" || now.Tombstone.LastOutput != "running\n" {
		t.Errorf("%s %+v %v", now.State, now.Tombstone, err)
	}
	if _, err := shell(ctx, c, vm.ID, "true"); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a command in a VM that ended: %v", err)
	}
	unharmed()
	if _, err := c.StartVM(ctx, vm.ID); err != nil {
		t.Fatal(err)
	}
	if out := mustShell(t, c, vm.ID, "cat kept"); out != "kept\n" {
		t.Errorf("%q", out)
	}
}

// follow waits for an event of a VM.
func follow(ctx context.Context, t *testing.T, c *client.Client, vm, kind string) {
	t.Helper()
	for ev, err := range c.FollowEvents(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.VMID == vm && ev.Type == kind {
			return
		}
	}
}

// An agent that hangs costs nobody else anything: what is asked of its VM fails
// within bounded time and says whose fault it is. When it goes on, so does what
// was there, and a command that was given up does not.
func TestAgentHangs(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm, unharmed := bounded(t, c), neighbour(t, c)
	mustShell(t, c, vm.ID, "echo kept > kept")
	pid, err := suite.Agent(ctx, vm.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	abandoned := api.Command{Args: []string{"sh", "-c", "echo ran >> ran; exec sleep 600"}}
	var asked sync.WaitGroup
	for name, ask := range map[string]func(ctx context.Context) error{
		"execute": func(ctx context.Context) error {
			_, err := c.Execute(ctx, vm.ID, api.Execute{Command: abandoned})
			return err
		},
		"start": func(ctx context.Context) error {
			_, err := c.StartExecution(ctx, vm.ID, api.StartExecution{Command: abandoned})
			return err
		},
		"stream": func(ctx context.Context) error {
			st, err := c.Start(ctx, vm.ID, api.StartExecution{Command: abandoned}, client.StreamOptions{})
			if err == nil {
				st.Close()
			}
			return err
		},
	} {
		asked.Go(func() {
			if err := within(t, name, ask); !errors.HasCode(err, errors.GuestFault) {
				t.Errorf("%s in a VM that hangs: %v", name, err)
			}
		})
	}
	unharmed()
	asked.Wait()
	unharmed()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if out := mustShell(t, c, vm.ID, "cat kept"); out != "kept\n" {
		t.Errorf("after it went on: %q", out)
	}
	for deadline := time.Now().Add(crashWait); ; {
		left := mustShell(t, c, vm.ID, "pgrep -fc 'sleep 60[0]'; true")
		if left == "0\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("commands that were given up run: %q", left)
			break
		}
	}
	if runs := strings.Fields(mustShell(t, c, vm.ID, "cat ran 2>/dev/null; true")); len(runs) > 3 {
		t.Errorf("three commands ran %d times", len(runs))
	}
}

// A VM whose agent hangs can be deleted.
func TestAgentHangsAndItsVMIsDeleted(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm := bounded(t, c)
	pid, err := suite.Agent(ctx, vm.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	err = within(t, "delete", func(ctx context.Context) error { _, err := c.DeleteVM(ctx, vm.ID); return err })
	if err != nil {
		t.Error(err)
	}
}

// An agent that lies: whatever it sends, its VM fails for a reason and nothing
// else does. Each lie is told by a program in the agent's place.
func TestAgentLies(t *testing.T) {
	t.Parallel()
	bin := copyOfBin(t)
	s := own(t, "AETHERIUM_POOL_SIZE=0", "AETHERIUM_BIN_DIR="+bin)
	ctx := limited(t)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	honest := bounded(t, c)
	liar(t, bin)
	for _, lie := range []string{"garbage", "hangup", "endless-header", "endless-body", "giant-length", "wrong-answer", "exit"} {
		t.Run(lie, func(t *testing.T) {
			vm, err := c.CreateVM(ctx, api.CreateVM{Network: "none", Hostname: lie, Resources: &api.Resources{MemoryBytes: 96 << 20}})
			if err == nil || !errors.HasCode(err, errors.GuestFault) && !errors.HasCode(err, errors.Conflict) {
				t.Errorf("%s %v", vm.State, err)
			}
			if out := mustShell(t, c, honest.ID, "echo well"); out != "well\n" {
				t.Errorf("%q", out)
			}
			if use := residentMiB(t, s); use > 512 {
				t.Errorf("the server uses %d MiB", use)
			}
		})
	}
	failed, err := client.Collect(c.VMs(ctx, client.VMFilter{States: []string{"failed"}}))
	if err != nil || len(failed) != 7 {
		t.Errorf("%d VMs have failed, %v", len(failed), err)
	}
	for _, vm := range failed {
		if vm.Tombstone == nil || vm.Tombstone.Cause != "create_fault" || vm.Reason == "" {
			t.Errorf("%s: %q %+v", vm.Hostname, vm.Reason, vm.Tombstone)
		}
		if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
			t.Error(err)
		}
	}
}

// copyOfBin is a directory with the guest agent and the network daemon.
func copyOfBin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"fc-agent", "aetherium-netd"} {
		if err := os.Link(filepath.Join(suite.Bin, name), filepath.Join(dir, name)); err == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(suite.Bin, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o755) //nolint:gosec // a program
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// liar puts another program in the place of the guest agent. Machines
// that run keep the one that they were started with.
func liar(t *testing.T, bin string) {
	t.Helper()
	program := filepath.Join(bin, "liar")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/liar")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Rename(program, filepath.Join(bin, "fc-agent")); err != nil {
		t.Fatal(err)
	}
}

// residentMiB is the memory that the server has.
func residentMiB(t *testing.T, s *server.Server) int {
	t.Helper()
	pid, err := s.PID()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() >> 20
}
