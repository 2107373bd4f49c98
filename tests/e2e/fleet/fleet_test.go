// Package fleet tests an installation whose gateways and workers are processes
// of their own, over a real PostgreSQL and a real Redis, all on this host. It
// needs root, and loopback only.
package fleet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// rootfsEnv names a directory that templates are made from.
const rootfsEnv = "AETHERIUM_TEST_OTHER_ROOTFS"

// hangs is how long a whole test may take: it only ends one that hangs.
const hangs = 15 * time.Minute

// field is a fleet with its database and queue.
type field struct {
	*server.Fleet
	t      *testing.T
	ctx    context.Context
	rootfs string
	// database and queue are where they are.
	database string
	queue    *redistest.Server
	// storage is what workers share; empty: nothing.
	storage string
	// microVMs is the kernel that VMs of workers boot which have qemu as well; empty:
	// none have.
	microVMs string
	// afterwards runs when nothing of the workers is there any more.
	afterwards func()
}

// given is what templates are made from.
func given(t *testing.T) (rootfs string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	if rootfs = os.Getenv(rootfsEnv); rootfs == "" {
		t.Skip(rootfsEnv + " names no root filesystem")
	}
	return rootfs
}

func newField(t *testing.T) *field {
	t.Helper()
	rootfs := given(t)
	ctx, cancel := context.WithTimeout(t.Context(), hangs)
	t.Cleanup(cancel)
	pg, err := pgtest.Start(ctx)
	must(t, err)
	t.Cleanup(func() { must(t, pg.Stop()) })
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	dir, err := os.MkdirTemp("", "aetherium-fleet-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o711)) //nolint:gosec // the mapped roots of VMs walk through it
	f := &field{
		Fleet: server.NewFleet(dir, "AETHERIUM_DATABASE="+pg.URL("postgres"), "AETHERIUM_QUEUE="+r.Address().Reveal()),
		t:     t, ctx: ctx, rootfs: rootfs, database: pg.URL("postgres"), queue: r, afterwards: func() {},
	}
	t.Cleanup(func() { f.afterwards() })
	return f
}

// newSharing is a field with storage, a gateway, and a worker that has built the
// template "shared".
func newSharing(t *testing.T, change ...func(*field)) (f *field, gateway, first *server.Server) {
	t.Helper()
	f = newField(t)
	for _, c := range change {
		c(f)
	}
	f.storage = t.TempDir()
	gateway = f.gateway("gateway")
	first = f.worker("worker-1", gateway)
	if out, err := gateway.CLI(f.ctx, "template", "build", "shared", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	return f, gateway, first
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gateway runs one.
func (f *field) gateway(name string, extra ...string) *server.Server {
	f.t.Helper()
	s, err := f.Gateway(name, append(extra, "AETHERIUM_WORKERS_AWAY_AFTER=10s")...)
	must(f.t, err)
	must(f.t, s.Run(f.ctx))
	f.t.Cleanup(func() {
		must(f.t, s.End(context.WithoutCancel(f.ctx)))
		f.explain(name, s)
	})
	return s
}

// worker runs one that joins by a gateway. It leaves nothing on the host.
func (f *field) worker(name string, by *server.Server) *server.Server {
	f.t.Helper()
	s := f.joining(name, by)
	must(f.t, s.Run(f.ctx))
	return s
}

// joining is a worker that does not run yet.
func (f *field) joining(name string, by *server.Server) *server.Server {
	f.t.Helper()
	env := []string{"AETHERIUM_DRIVERS=oci"}
	if f.microVMs != "" {
		env = []string{"AETHERIUM_DRIVERS=oci,qemu", "AETHERIUM_MICROVM_KERNEL=" + f.microVMs, "AETHERIUM_POOL_SIZE=0"}
	}
	if f.storage != "" {
		env = append(env, "AETHERIUM_STORAGE_URL=file://"+f.storage, "AETHERIUM_STORAGE_OUTPUT_EVERY=1s", "AETHERIUM_LOG_LEVEL=info")
	}
	s, err := f.Worker(f.ctx, name, by, env...)
	must(f.t, err)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), time.Minute)
		defer cancel()
		must(f.t, s.End(ctx))
		must(f.t, s.Remove(ctx))
		if left := s.Footprint(ctx); len(left) > 0 {
			f.t.Errorf("the worker %s left something behind: %v", name, left)
		}
		f.explain(name, s)
	})
	return s
}

// copiesMounts has a process copy all mounts of the host, as what makes
// containers does, and keep them longer than the workers.
func (f *field) copiesMounts() {
	f.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat") //nolint:noctx // ends with its input
	in, err := cmd.StdinPipe()
	must(f.t, err)
	out, err := cmd.StdoutPipe()
	must(f.t, err)
	must(f.t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	must(f.t, err)
	f.afterwards = func() { must(f.t, in.Close()); must(f.t, cmd.Wait()) }
}

// explain shows the end of a process's log if the test has failed.
func (f *field) explain(name string, s *server.Server) {
	if f.t.Failed() {
		lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
		f.t.Logf("the log of %s ends with\n%s", name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

func (f *field) client(s *server.Server) *client.Client {
	f.t.Helper()
	c, err := s.Client()
	must(f.t, err)
	f.t.Cleanup(c.Close)
	return c
}

func shell(script string) api.Execute {
	return api.Execute{Command: api.Command{Args: []string{"sh", "-c", script}}}
}

func start(script string) api.StartExecution {
	return api.StartExecution{Command: shell(script).Command}
}

// printed checks all that an execution prints until it ends, asked by a gateway.
func (f *field) printed(by *server.Server, id, want string) {
	f.t.Helper()
	got, err := by.CLI(f.ctx, "logs", "--follow", id)
	if err != nil || got != want {
		f.t.Errorf("%d bytes of %d: ...%q, %v", len(got), len(want), got[max(0, len(got)-100):], err)
	}
}

// endLeases ends all leases of jobs, as a minute and a half does that nothing is
// heard of who has them.
func (f *field) endLeases() {
	f.t.Helper()
	client, ended := f.queue.Client(f.t), 0
	sets, err := client.Keys(f.ctx, "asynq:{aetherium:*}:lease").Result()
	must(f.t, err)
	for _, set := range sets {
		jobs, err := client.ZRange(f.ctx, set, 0, -1).Result()
		must(f.t, err)
		for _, job := range jobs {
			must(f.t, client.ZAdd(f.ctx, set, redis.Z{Score: 1, Member: job}).Err())
			ended++
		}
	}
	if ended == 0 {
		f.t.Error("no job is leased")
	}
}

// says checks what a command in a VM prints, asked by a gateway.
func (f *field) says(c *client.Client, vm, script, want string) {
	f.t.Helper()
	res, err := c.Execute(f.ctx, vm, shell(script))
	if err != nil || res.Stdout != want {
		f.t.Errorf("%s: %q, %v", script, res.Stdout, err)
	}
}

// Two workers and two gateways: what is of one worker is reached by both
// gateways, and outlives the death of each process.
func TestGatewaysAndWorkers(t *testing.T) {
	f := newField(t)
	ctx := f.ctx
	one, other := f.gateway("gateway-1"), f.gateway("gateway-2")
	c, second := f.client(one), f.client(other)

	// Without a worker there is an honest answer.
	_, err := c.CreateVM(ctx, api.CreateVM{Template: "first", Network: "none"})
	if !errors.HasCode(err, errors.NotFound) {
		t.Errorf("without a template: %v", err)
	}
	first := f.worker("worker-1", one)
	build := func(name string) {
		t.Helper()
		if out, err := one.CLI(ctx, "template", "build", name, "--dir", f.rootfs); err != nil {
			t.Fatal(err, out)
		}
	}
	build("first")
	vm, err := c.CreateVM(ctx, api.CreateVM{Name: "kept", Template: "first", Resources: &api.Resources{MemoryBytes: 4 << 30}})
	must(t, err)

	// A worker that starts before its gateway waits for it.
	early := f.joining("worker-2", other)
	must(t, other.Kill())
	joined := make(chan error, 1)
	go func() { joined <- early.Run(ctx) }()
	for !strings.Contains(early.Log(), "waiting for it") {
		must(t, ctx.Err())
		time.Sleep(10 * time.Millisecond) // it tells nobody but its log
	}
	must(t, other.Run(ctx))
	must(t, <-joined)
	f.copiesMounts()
	build("second") // the other worker has more memory left
	apart, err := second.CreateVM(ctx, api.CreateVM{Name: "apart", Template: "second", Network: "none"})
	must(t, err)
	if vm.WorkerID == apart.WorkerID {
		t.Errorf("both VMs are on %s", vm.WorkerID)
	}
	for _, from := range []*client.Client{c, second} {
		for _, id := range []string{vm.ID, apart.ID} {
			f.says(from, id, "echo here", "here\n")
		}
	}

	// A command's output is had from either gateway, whole, though the one that
	// it was asked for by is killed, and the other is asked from then on.
	x, err := c.StartExecution(ctx, vm.ID, start("for i in $(seq 1 2000); do echo line $i; done; until test -e /tmp/go; do sleep 0.1; done; echo end"))
	must(t, err)
	must(t, one.Kill())
	var lines strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&lines, "line %d\n", i+1)
	}
	lines.WriteString("end\n")
	f.says(second, vm.ID, "touch /tmp/go", "")
	f.printed(other, x.ID, lines.String())

	// A task goes on though the gateway that follows it is killed: another takes it
	// up when its lease has ended, and its command has run once.
	followed, err := second.CreateTask(ctx, api.CreateTask{
		VM:      &api.CreateVM{Template: "second", Network: "none"},
		Command: start("echo $$ >>/tmp/begun; until test -e /tmp/go; do sleep 0.1; done; wc -l </tmp/begun").Command,
	})
	must(t, err)
	for followed.Step != "running" { // before, there may be no VM of that name yet
		time.Sleep(10 * time.Millisecond) // its steps are no events
		followed, err = second.Task(ctx, followed.ID)
		must(t, err)
	}
	f.says(second, followed.VMID, "until test -e /tmp/begun; do sleep 0.1; done", "")
	must(t, other.Kill())
	f.endLeases()
	must(t, one.Run(ctx))
	f.says(c, followed.VMID, "touch /tmp/go", "")
	if followed, err = c.WaitTask(ctx, followed.ID); err != nil || followed.State != "succeeded" || followed.Attempts != 1 {
		t.Errorf("the task: %+v, %v", followed, err)
	}
	f.printed(one, followed.ExecutionID, "1\n")
	must(t, other.Run(ctx))
	f.says(c, apart.ID, "echo again", "again\n")

	// A task is followed by whichever gateway is free, and its end is told by the other.
	ran, err := second.CreateTask(ctx, api.CreateTask{VM: &api.CreateVM{Template: "second", Network: "none"}, Command: start("cat; exit 3").Command, Stdin: "input"})
	must(t, err)
	if ran, err = c.WaitTask(ctx, ran.ID); err == nil || ran.Error == nil || ran.Error.Code != "command_failed" {
		t.Errorf("the task: %+v, %v", ran, err)
	}
	f.printed(one, ran.ExecutionID, "input")

	// A worker that is killed leaves its VMs running. They are answered for with a
	// reason until it is back, and are what they were.
	f.says(c, vm.ID, "echo kept > /tmp/kept", "")
	run, err := c.StartExecution(ctx, vm.ID, start("until test -e /tmp/on; do sleep 0.1; done; echo through"))
	must(t, err)
	sandboxes := sandboxesOf(f, other)
	lasting, doomed := sandboxes.create("first"), sandboxes.create("first") // where their template is
	must(t, first.Kill())
	sandboxes.kill(doomed) // says so, though nobody is there to do it now
	once, err := client.New(client.Options{URL: one.URL, Key: one.Key, Patience: time.Millisecond})
	must(t, err)
	defer once.Close()
	if _, err := once.Execute(ctx, vm.ID, shell("true")); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("without its worker: %v", err)
	}
	f.says(second, apart.ID, "echo others", "others\n")
	for {
		now, err := c.VM(ctx, vm.ID)
		must(t, err)
		if now.State == "unreachable" && now.UnreachableSince != nil {
			break
		}
		time.Sleep(100 * time.Millisecond) // it becomes so without an event of its own
	}
	sandboxes.whileAway(lasting, doomed)
	// What is written of its commands is told, and that there may be others.
	var incomplete []string
	known, err := client.Collect(second.Executions(ctx, vm.ID, client.ExecutionFilter{Incomplete: func(reason string) { incomplete = append(incomplete, reason) }}))
	if must(t, err); len(known) == 0 || len(incomplete) != 1 || !strings.Contains(incomplete[0], "away") {
		t.Errorf("%d commands are known, %q", len(known), incomplete)
	}
	_, err = client.Collect(second.Executions(ctx, vm.ID, client.ExecutionFilter{}))
	if !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("taken for all: %v", err)
	}
	must(t, first.Run(ctx))
	for _, from := range []*client.Client{c, second} {
		now, err := from.VM(ctx, "kept")
		if err != nil || now.ID != vm.ID || now.State != "running" || now.Epoch != vm.Epoch {
			t.Errorf("%+v, %v", now, err)
		}
		f.says(from, vm.ID, "cat /tmp/kept", "kept\n")
	}
	f.says(c, vm.ID, "touch /tmp/on", "")
	f.printed(other, run.ID, "through\n")
	sandboxes.isGone(doomed)
	sandboxes.kill(lasting)

	// What is deleted by one is deleted for the other, at whichever worker.
	for _, id := range []string{vm.ID, apart.ID} {
		if _, err := c.DeleteVM(ctx, id); err != nil {
			t.Error(err)
		}
		if got, err := second.VM(ctx, id); err != nil || got.State != "deleted" {
			t.Errorf("%s, %v", got.State, err)
		}
	}
}
