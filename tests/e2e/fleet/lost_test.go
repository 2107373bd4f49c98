package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// A worker whose host is lost is removed by who says so: what it had ends, with the
// reason, and its process is refused when it comes back all the same, but for
// cleaning its host.
func TestALostWorkerIsRemoved(t *testing.T) {
	f := newField(t)
	ctx := f.ctx
	gateway := f.gateway("gateway")
	c := f.client(gateway)
	lost := f.worker("worker-1", gateway)
	if out, err := gateway.CLI(ctx, "template", "build", "first", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	if out, err := gateway.CLI(ctx, "project", "create", "team"); err != nil {
		t.Fatal(err, out)
	}
	if out, err := gateway.CLI(ctx, "template", "build", "--project", "team", "theirs", "--dir", f.rootfs); err != nil {
		t.Fatal(err, out)
	}
	vm, err := c.CreateVM(ctx, api.CreateVM{Name: "web", Template: "first", Network: "none"})
	must(t, err)
	if out, err := gateway.CLI(ctx, "vm", "create", "--project", "team", "--name", "theirs", "--from", "theirs", "--network", "none"); err != nil {
		t.Fatal(err, out)
	}
	x, err := c.StartExecution(ctx, vm.ID, start("echo begun; sleep 1000"))
	must(t, err)
	f.says(c, vm.ID, "echo there", "there\n")
	// Rows are written a moment after what they tell: what is listed is on record.
	if on, err := client.Collect(c.Executions(ctx, vm.ID, client.ExecutionFilter{})); err != nil || len(on) != 2 {
		t.Fatalf("%+v, %v", on, err)
	}

	rm := func(want string, args ...string) {
		t.Helper()
		out, err := gateway.CLI(ctx, append([]string{"worker", "rm", "worker-1"}, args...)...)
		if want == "" && err == nil {
			return
		}
		if err == nil || want == "" || !strings.Contains(out+err.Error(), want) {
			t.Errorf("worker rm %v: %q, %v", args, out, err)
		}
	}
	rm("only one that is away", "--fenced")
	must(t, lost.Kill())
	for !f.isAway(c, vm.WorkerID) {
		must(t, ctx.Err())
		time.Sleep(100 * time.Millisecond) // nobody is told of it here
	}
	rm("--fenced")
	if got, err := c.VM(ctx, vm.ID); err != nil || got.State != "unreachable" {
		t.Errorf("%+v, %v", got, err)
	}
	rm("", "--fenced")

	got, err := c.VM(ctx, vm.ID)
	must(t, err)
	if got.State != "deleted" || got.Tombstone == nil || got.Tombstone.Cause != "host_lost" {
		t.Errorf("%+v, %+v", got, got.Tombstone)
	}
	if x, err = c.Execution(ctx, x.ID); err != nil || x.State != "lost" {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := c.Worker(ctx, "worker-1"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the worker: %v", err)
	}
	if out, err := gateway.CLI(ctx, "project", "rm", "team"); err != nil {
		t.Errorf("a project that had a VM there: %v, %s", err, out)
	}

	// It was not lost after all.
	err = lost.Run(ctx)
	if said := lost.Log(); err == nil || !strings.Contains(said, "is not one of this installation any more") {
		t.Errorf("it starts: %v", err)
	}
	// Its name is free for another, with the host to itself when the first one's
	// machines are gone.
	must(t, lost.Remove(ctx))
	if left := lost.Footprint(ctx); len(left) > 0 {
		t.Errorf("the worker left something behind: %v", left)
	}
}
