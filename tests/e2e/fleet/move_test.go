package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// The VMs of a drained worker leave it, and go on where there is room with their
// files, names and policies; what is bound to the worker stays, and says why.
func TestVMsLeaveADrainedWorker(t *testing.T) {
	f, gateway, first := newSharing(t)
	ctx, c := f.ctx, f.client(gateway)
	_, err := c.CreateVolume(ctx, api.CreateVolume{Name: "data"})
	must(t, err)
	create := func(name string, req api.CreateVM) api.VM {
		t.Helper()
		req.Name, req.Template, req.OnTimeout = name, "shared", "stop"
		req.Env, req.Resources = map[string]string{"MINE": name}, &api.Resources{MemoryBytes: 256 << 20}
		vm, err := c.CreateVM(ctx, req)
		must(t, err)
		return vm
	}
	resting, running := create("resting", api.CreateVM{Network: "none"}), create("running", api.CreateVM{Egress: &api.EgressPolicy{Allow: []string{"example.com"}}})
	bound := create("bound", api.CreateVM{Network: "none", Volumes: []api.VolumeMount{{Volume: "data", Path: "/data"}}})
	var written []api.Execution
	for _, vm := range []api.VM{resting, running, bound} {
		x, err := c.StartExecution(ctx, vm.ID, start("cd && mkdir own && echo $MINE | tee own/file && ln own/file again && chmod 640 again"))
		must(t, err)
		f.printed(gateway, x.ID, vm.Name+"\n")
		written = append(written, x)
	}
	_, err = c.StopVM(ctx, resting.ID)
	must(t, err)
	f.worker("worker-2", gateway)

	if out, err := gateway.CLI(ctx, "worker", "drain", "worker-1", "--within", "0s", "--move"); err != nil {
		t.Fatal(err, out)
	}
	if w, err := c.Worker(ctx, "worker-1"); err != nil || !w.Moving || w.VMs != 1 || w.Staying != 1 || w.Active != 0 {
		t.Errorf("%+v, %v", w, err)
	}
	for _, vm := range []api.VM{resting, running} {
		got, err := c.VM(ctx, vm.ID)
		must(t, err)
		if !got.InStorage || got.State != "stopped" || got.WorkerID == vm.WorkerID || got.Generation <= vm.Generation {
			t.Errorf("%+v", got)
		}
	}
	if out, err := gateway.CLI(ctx, "vm", "get", "resting"); err != nil || !strings.Contains(out, "in the storage") {
		t.Errorf("%s, %v", out, err)
	}
	got, err := c.VM(ctx, bound.ID)
	must(t, err)
	if got.InStorage || got.WorkerID != bound.WorkerID || !strings.Contains(got.Reason, "its volume data is there") {
		t.Errorf("%+v", got)
	}
	_, err = c.CreateSnapshot(ctx, resting.ID, api.CreateSnapshot{Name: "snap"})
	if !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a snapshot of what is on no worker: %v", err)
	}

	for i, vm := range []api.VM{resting, running} {
		if out, err := gateway.CLI(ctx, "vm", "start", vm.Name); err != nil {
			t.Fatal(err, out)
		}
		got, err := c.VM(ctx, vm.ID)
		must(t, err)
		if got.InStorage || got.State != "running" || got.WorkerID == vm.WorkerID || got.Epoch != vm.Epoch+1 || got.Hostname != vm.Hostname {
			t.Errorf("%+v", got)
		}
		f.says(c, vm.ID, "cd && cat again && stat -c '%h %a' own/file && echo $MINE && uname -n", vm.Name+"\n2 640\n"+vm.Name+"\n"+vm.Hostname+"\n")
		f.printed(gateway, written[i].ID, vm.Name+"\n") // it stays where it ran
	}
	if got, err := c.VM(ctx, running.ID); err != nil || got.Egress == nil || len(got.Egress.Allow) != 1 {
		t.Errorf("%+v, %v", got.Egress, err)
	}
	if n := len(f.packed()); n != 1 {
		t.Errorf("%d files are in the storage beside the template", n-1)
	}
	must(t, first.Kill())
	for !f.isAway(c, resting.WorkerID) {
		must(t, ctx.Err())
		time.Sleep(100 * time.Millisecond) // nobody is told of it here
	}
	if x, err := c.Execution(ctx, written[0].ID); err != nil || x.State != "exited" {
		t.Errorf("%+v, %v", x, err)
	}
	if out, err := gateway.CLI(ctx, "exec", "resting", "--", "cat", "again"); err != nil {
		t.Errorf("%s, %v", out, err)
	}
	must(t, first.Run(ctx))
	for _, vm := range []api.VM{resting, running, bound} {
		if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
			t.Error(err)
		}
	}
}
