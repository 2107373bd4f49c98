package fleet

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// counting counts in memory alone, and tells how far it is.
const counting = `i=0; while :; do i=$((i+1)); echo $i > /dev/shm/n.new; mv /dev/shm/n.new /dev/shm/n; sleep 0.05; done`

// What a VM has in its memory leaves a drained worker with it, and goes on on another
// one, whichever of the two is killed meanwhile.
func TestMemoryLeavesADrainedWorker(t *testing.T) {
	kernel := os.Getenv("AETHERIUM_TEST_KERNEL")
	if kernel == "" {
		t.Skip("AETHERIUM_TEST_KERNEL names no kernel for guests")
	}
	f, gateway, first := newSharing(t, func(f *field) { f.microVMs = kernel })
	ctx, c := f.ctx, f.client(gateway)
	counted := func(vm string) int {
		t.Helper()
		res, err := c.Execute(ctx, vm, shell("cat /dev/shm/n"))
		must(t, err)
		n, err := strconv.Atoi(strings.TrimSpace(res.Stdout))
		must(t, err)
		return n
	}
	type one struct {
		vm      api.VM
		x       api.Execution
		who     string
		counted int
	}
	var all []one
	for _, name := range []string{"running", "paused"} {
		vm, err := c.CreateVM(ctx, api.CreateVM{
			Name: name, Template: "shared", Driver: "qemu", OnTimeout: "pause", AutoResume: name == "paused",
			Resources: &api.Resources{MemoryBytes: 192 << 20, MilliCPU: 1000, DiskBytes: 256 << 20},
		})
		must(t, err)
		x, err := c.StartExecution(ctx, vm.ID, start(counting))
		must(t, err)
		f.says(c, vm.ID, "until test -e /dev/shm/n; do sleep 0.1; done", "")
		res, err := c.Execute(ctx, vm.ID, shell("uname -n; cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id"))
		must(t, err)
		all = append(all, one{vm, x, res.Stdout, counted(vm.ID)})
	}
	if out, err := gateway.CLI(ctx, "vm", "pause", "paused"); err != nil {
		t.Fatal(err, out)
	}
	second := f.worker("worker-2", gateway)
	for usable := false; !usable; {
		w, err := c.Worker(ctx, "worker-2")
		must(t, err)
		usable = slices.ContainsFunc(w.Drivers, func(d api.Driver) bool { return d.Name == "qemu" && slices.Contains(d.Capabilities, "move:memory") })
		must(t, ctx.Err())
		time.Sleep(50 * time.Millisecond) // what a driver can is no event
	}

	drained := make(chan error, 1)
	go func() {
		out, err := gateway.CLI(ctx, "worker", "drain", "worker-1", "--within", "0s", "--move")
		if err != nil {
			t.Log(out)
		}
		drained <- err
	}()
	until := func(id string, so func(api.VM) bool) api.VM {
		t.Helper()
		for {
			vm, err := c.VM(ctx, id)
			if err == nil && so(vm) {
				return vm
			}
			if ctx.Err() != nil {
				t.Fatalf("the VM stays %+v, %v", vm, err)
			}
			time.Sleep(20 * time.Millisecond) // what becomes of it in the storage is no event of its own
		}
	}
	// It is killed in the midst of it.
	until(all[0].vm.ID, func(vm api.VM) bool { return vm.State != "running" })
	must(t, first.Kill())
	must(t, first.Run(ctx))
	for _, o := range all {
		vm := until(o.vm.ID, func(vm api.VM) bool { return vm.InStorage })
		if vm.State != "paused" || vm.WorkerID == o.vm.WorkerID || vm.Reason != "" {
			t.Errorf("%+v", vm)
		}
	}
	must(t, <-drained)
	if n := len(f.packed()); n != 1+len(all) {
		t.Errorf("%d files are in the storage beside the template", n-1)
	}
	must(t, first.Kill()) // it is not needed any more

	// So is the one that takes it in.
	resumed := make(chan error, 1)
	go func() {
		_, err := c.ResumeVM(ctx, all[0].vm.ID)
		resumed <- err
	}()
	until(all[0].vm.ID, func(vm api.VM) bool { return !vm.InStorage || vm.State != "paused" })
	must(t, second.Kill())
	must(t, second.Run(ctx))
	if err := <-resumed; err != nil {
		t.Logf("resuming, while its worker was killed: %v", err) // it may not have been told
	}
	for _, o := range all {
		if o.vm.AutoResume {
			f.says(c, o.vm.ID, "true", "")
		}
		vm := until(o.vm.ID, func(vm api.VM) bool { return vm.State == "running" })
		if vm.InStorage || vm.WorkerID == o.vm.WorkerID || vm.Epoch != o.vm.Epoch || vm.Hostname != o.vm.Hostname {
			t.Errorf("%+v", vm)
		}
		f.says(c, o.vm.ID, "uname -n; cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id", o.who)
		n := counted(o.vm.ID)
		if n < o.counted {
			t.Errorf("it has counted to %d, and had to %d", n, o.counted)
		}
		for counted(o.vm.ID) == n {
			must(t, ctx.Err())
			time.Sleep(50 * time.Millisecond) // as it does
		}
		if x, err := c.Execution(ctx, o.x.ID); err != nil || x.State != "running" {
			t.Errorf("%+v, %v", x, err)
		}
		if _, err := c.DeleteVM(ctx, o.vm.ID); err != nil {
			t.Error(err)
		}
	}
	for len(f.packed()) != 1 {
		if ctx.Err() != nil {
			t.Fatalf("%v are left in the storage", f.packed())
		}
		time.Sleep(50 * time.Millisecond) // they go after the VM has told
	}
	must(t, first.Run(ctx))
}
