package worker_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// newPoolBed is an installation with a pool.
func newPoolBed(t *testing.T, size, kinds int) *bed {
	t.Helper()
	return newBed(t, func(c *worker.Config) { c.Pool = worker.PoolConfig{Size: size, Kinds: kinds} })
}

// ready waits for the pool and wants it to have n machines.
func (b *bed) ready(n int) {
	b.t.Helper()
	got, err := b.worker.PoolReady(b.ctx)
	must(b.t, err)
	if got != n {
		b.t.Fatalf("%d machines are ready in the pool, want %d", got, n)
	}
	if rows := b.unclaimed(); len(rows) != n {
		b.t.Fatalf("%d machines are on record in the pool, want %d", len(rows), n)
	}
}

func (b *bed) unclaimed() []domain.ID {
	b.t.Helper()
	var ids []domain.ID
	must(b.t, b.store.View(b.ctx, func(tx storage.Tx) error {
		all, err := tx.Machines().OnWorker(b.ctx, b.worker.ID())
		for _, m := range all {
			if m.VMID == "" {
				ids = append(ids, m.ID)
			}
		}
		return err
	}))
	return ids
}

func (b *bed) phases(vm domain.ID) []string {
	b.t.Helper()
	phases, err := b.VMTrace(b.ctx, b.by, vm)
	must(b.t, err)
	var names []string
	for _, p := range phases {
		names = append(names, p.Name)
	}
	return names
}

// fromPool wants a VM to have claimed its machine.
func (b *bed) fromPool(vm *domain.VM) {
	b.t.Helper()
	if phases := b.phases(vm.ID); !slices.Contains(phases, "claim") {
		b.t.Errorf("phases %v", phases)
	}
}

func TestAVMOfAKindInUseIsClaimedFromThePool(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 1)
	b.ready(0) // nothing was used yet
	first := b.running(vmm.CreateVM{})
	b.ready(2)
	waiting := b.unclaimed()
	second := b.running(vmm.CreateVM{Hostname: "mine", Env: map[string]string{"A": "b"}})
	if !slices.Contains(waiting, second.MachineID) || !slices.Contains(b.phases(second.ID), "claim") {
		t.Errorf("machine %s of %v, phases %v", second.MachineID, waiting, b.phases(second.ID))
	}
	if got := b.node.Hostname(string(second.MachineID)); got != "mine" {
		t.Errorf("its hostname is %q", got)
	}
	if out, _ := b.sh(second.ID, `echo "$A$FROM_IMAGE"`); out != "byes\n" {
		t.Errorf("its environment: %q", out)
	}
	b.ready(2)
	for _, id := range []domain.ID{first.ID, second.ID} {
		_, err := b.DeleteVM(b.ctx, b.by, id)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, id)
		must(t, err)
	}
	b.ready(2)
	b.down()
	if leaks := b.node.Leaks(); len(leaks) > 0 {
		t.Errorf("the pool outlives an orderly stop: %v", leaks)
	}
}

func TestAMachineIsHandedOutOnce(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 3, 1)
	b.running(vmm.CreateVM{})
	b.ready(3)
	const vms = 12
	var all sync.WaitGroup
	var mu sync.Mutex
	machines := map[domain.ID]bool{}
	for range vms {
		all.Go(func() {
			vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
			if err == nil {
				vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
			}
			if err != nil || vm.Observed != domain.Running {
				t.Errorf("%+v, %v", vm, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if machines[vm.MachineID] {
				t.Errorf("the machine %s was handed out twice", vm.MachineID)
			}
			machines[vm.MachineID] = true
		})
	}
	all.Wait()
	b.ready(3)
}

func TestKindsFallOutOfUse(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 1, 2)
	for _, mib := range []int64{64, 65, 66} {
		b.running(vmm.CreateVM{Resources: domain.Resources{MemoryBytes: mib << 20}})
	}
	b.ready(2)
	var kept []int64
	must(t, b.store.View(b.ctx, func(tx storage.Tx) error {
		for _, id := range b.unclaimed() {
			m, err := tx.Machines().Get(b.ctx, id)
			if err != nil {
				return err
			}
			kept = append(kept, m.Shape.Resources.MemoryBytes>>20)
		}
		return nil
	}))
	if slices.Sort(kept); !slices.Equal(kept, []int64{65, 66}) {
		t.Errorf("kept %v", kept)
	}
}

func TestAPooledMachineThatIsOfNoUseCostsNothingButTime(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 1, 1)
	b.running(vmm.CreateVM{})
	b.ready(1)
	// One that ends in the pool is replaced.
	was := b.unclaimed()
	b.node.Kill(string(was[0]), vmm.Exit{Known: true, Code: 1})
	for slices.Equal(b.unclaimed(), was) {
		if b.ctx.Err() != nil {
			t.Fatal("it is not replaced")
		}
		time.Sleep(time.Millisecond) // its end is told to the worker only
	}
	b.ready(1)
	// One that fails its VM is, too, and the VM gets another one.
	b.node.FailNext(fake.OpRename, errors.New(errors.Internal, "broken"))
	vm := b.running(vmm.CreateVM{Env: map[string]string{"MINE": "own"}})
	if phases := b.phases(vm.ID); !slices.Contains(phases, "create") {
		t.Errorf("phases %v", phases)
	}
	if out, _ := b.sh(vm.ID, "echo works"); out != "works\n" {
		t.Errorf("%q", out)
	}
	b.ready(1)
}

// A VM that asks for nothing but what its template sets is written to run at once, and
// gets its name meanwhile. Nobody talks to it before.
func TestAVMIsNamedBesideItsTransaction(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 1, 1)
	b.built(vmm.BuildTemplate{Name: "users", Source: domain.TemplateSource{Dir: "/"}, User: "root"})
	req := vmm.CreateVM{Template: "users", Hostname: "mine"}
	b.running(req)
	b.ready(1)
	_, release := b.node.StopNext(fake.OpRename)
	defer release()
	vm := b.running(req)
	b.fromPool(vm)
	if vm.Revision != 2 {
		t.Errorf("its row was written %d times", vm.Revision)
	}
	hostname := func() string { return b.node.Hostname(string(vm.MachineID)) }
	if got := hostname(); got == "mine" {
		t.Fatal("it has its name already")
	}
	soon, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	nothing := vmm.StartExecution{Command: domain.Command{Args: []string{"true"}}}
	if _, err := b.StartExecution(soon, b.by, vm.ID, nothing); !errors.HasCode(err, errors.DeadlineExceeded) {
		t.Errorf("a command before it has its name: %v", err)
	}
	release()
	if _, x := b.sh(vm.ID, "true"); x.ExitCode == nil || *x.ExitCode != 0 || hostname() != "mine" {
		t.Errorf("%+v in a machine named %q", x, hostname())
	}
	b.ready(1)
}

// A VM that runs, and whose machine did not get its name, gets it by a later try or
// another process.
func TestANameThatFailsIsGivenLater(t *testing.T) {
	t.Parallel()
	for name, goOn := range map[string]func(b *bed, release func()){
		"it fails":      func(_ *bed, release func()) { release() },
		"a worker dies": func(b *bed, _ func()) { b.crash(); b.up() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newPoolBed(t, 1, 1)
			b.running(vmm.CreateVM{})
			b.ready(1)
			reached, release := b.node.FailLater(fake.OpRename, errors.New(errors.Internal, "broken"))
			defer release()
			vm := b.running(vmm.CreateVM{Hostname: "mine"})
			<-reached
			goOn(b, release)
			for b.node.Hostname(string(vm.MachineID)) != "mine" {
				if b.ctx.Err() != nil {
					t.Fatal("it has no name")
				}
				time.Sleep(time.Millisecond) // nothing is told of it
			}
			b.stepped(vm.ID)
			if out, _ := b.sh(vm.ID, "echo works"); out != "works\n" {
				t.Errorf("%q", out)
			}
			if now, err := b.GetVM(b.ctx, b.by, vm.ID); err != nil || now.MachineID != vm.MachineID || now.Epoch != 1 {
				t.Errorf("%+v, %v", now, err)
			}
		})
	}
}

// A VM that is stopped before its machine has its name has it when it runs again.
func TestANameOutlastsAStop(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 1, 1)
	b.running(vmm.CreateVM{})
	b.ready(1)
	reached, release := b.node.StopNext(fake.OpRename)
	defer release()
	vm := b.running(vmm.CreateVM{Hostname: "mine"})
	<-reached
	for _, wish := range []func(context.Context, vmm.Caller, domain.ID) (*domain.VM, error){b.StopVM, b.StartVM} {
		_, err := wish(b.ctx, b.by, vm.ID)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, vm.ID)
		must(t, err)
	}
	if out, _ := b.sh(vm.ID, "echo works"); out != "works\n" {
		t.Errorf("%q", out)
	}
	if got := b.node.Hostname(string(vm.MachineID)); got != "mine" {
		t.Errorf("its hostname is %q", got)
	}
}

func TestAForkIsNeverFromThePool(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 1, 1)
	vm := b.running(vmm.CreateVM{})
	b.ready(1)
	b.sh(vm.ID, "echo mine > file")
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	fork, err := b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	if out, _ := b.sh(fork.ID, "cat file"); out != "mine\n" {
		t.Errorf("a fork got a machine of the pool: %q", out)
	}
	b.ready(1)
}

func TestANewBuildEmptiesThePool(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 1)
	old := b.running(vmm.CreateVM{})
	b.ready(2)
	b.template("base", "/")
	b.ready(0)
	now := b.running(vmm.CreateVM{})
	if now.Spec.BuildID == old.Spec.BuildID {
		t.Error("the VM is of the old build")
	}
	b.ready(2)

	// A template that goes takes its machines and, once no VM uses it, its build along.
	b.template("other", "/")
	vm := b.running(vmm.CreateVM{Template: "other"})
	b.ready(2)
	_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	must(t, b.DeleteTemplate(b.ctx, b.by, "other"))
	b.ready(0)
	if _, err := b.images.Get(b.ctx, string(vm.Spec.BuildID)); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the build is still there: %v", err)
	}
}

// What a killed worker leaves in the pool is taken up by the next.
func TestThePoolIsTakenUp(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 1)
	b.running(vmm.CreateVM{})
	b.ready(2)
	left := b.unclaimed()
	b.crash()
	b.up()
	b.ready(2)
	if got := b.unclaimed(); !slices.Equal(got, left) {
		t.Errorf("pool of %v, was %v", got, left)
	}
	vm := b.running(vmm.CreateVM{})
	if !slices.Contains(left, vm.MachineID) {
		t.Errorf("the VM has the machine %s", vm.MachineID)
	}
	b.ready(2)

	// A worker without a pool removes it.
	b.crash()
	b.config.Pool = worker.PoolConfig{}
	b.up()
	b.ready(0)
}

// A VM that asks for nothing has what its image sets, whether its machine was
// told beforehand or not; and what a VM asks for is not undone when the pool is
// taken up again beside it.
func TestMachinesOfThePoolAreConfigured(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 1)
	b.running(vmm.CreateVM{})
	environment := func(vm *domain.VM, want string) {
		t.Helper()
		b.fromPool(vm)
		if out, _ := b.sh(vm.ID, `echo "$FROM_IMAGE $BOTH $MINE"`); out != want+"\n" {
			t.Errorf("environment %q, want %q", out, want)
		}
	}
	b.ready(2)
	environment(b.running(vmm.CreateVM{}), "yes template ")
	b.ready(2)
	environment(b.running(vmm.CreateVM{Env: map[string]string{"MINE": "own", "BOTH": "vm"}}), "yes vm own")
	for range 5 {
		b.ready(2)
		b.crash()
		b.up()
		mine := b.running(vmm.CreateVM{Env: map[string]string{"MINE": "own"}})
		plain := b.running(vmm.CreateVM{})
		b.ready(2)
		environment(mine, "yes template own")
		environment(plain, "yes template ")
	}
}

// The kinds in use are known after an orderly restart, which empties the pool.
func TestThePoolRemembersWhatWasUsed(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 1, 2)
	b.running(vmm.CreateVM{})
	b.running(vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 64 << 20}})
	b.ready(2)
	b.down()
	b.up()
	b.ready(2)
	vm := b.running(vmm.CreateVM{Resources: domain.Resources{MemoryBytes: 64 << 20}})
	b.fromPool(vm)
	// A template that went meanwhile has none.
	b.down()
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		tmpl, err := tx.Templates().ByName(b.ctx, b.by.ProjectID, "base")
		if err != nil {
			return err
		}
		return tx.Templates().Delete(b.ctx, b.by.ProjectID, tmpl.ID)
	}))
	b.up()
	b.ready(0)
}

func TestMachinesAreExpected(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 2)
	foreseen, err := b.Foresee(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	b.worker.Expect(foreseen)
	b.ready(2)
	vm := b.running(vmm.CreateVM{})
	b.fromPool(vm)
	other := *foreseen
	other.Spec.Resources.MemoryBytes /= 2
	b.worker.Expect(&other) // what is used counts more than what is expected
	b.ready(2)
	list, err := b.ListVMs(b.ctx, b.by, vmm.VMFilter{IncludeDeleted: true})
	must(t, err)
	if len(list.Items) != 1 {
		t.Errorf("%d VMs", len(list.Items))
	}
}

// A build that takes longer than there is time for the end does not keep the machines
// of the pool on the host.
func TestAPoolIsEmptiedBesideABuild(t *testing.T) {
	t.Parallel()
	b := newPoolBed(t, 2, 1)
	b.running(vmm.CreateVM{})
	b.ready(2)
	held := b.images.hold("/slow")
	_, err := b.BuildTemplate(b.ctx, b.by, vmm.BuildTemplate{Name: "slow", Source: domain.TemplateSource{Dir: "/slow"}})
	must(t, err)
	<-held
	b.link.cut()
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	err = b.worker.Stop(ctx)
	if left := b.unclaimed(); len(left) > 0 {
		t.Errorf("%v are left of the pool: %v", left, err)
	}
	must(t, b.journals.Close())
	b.worker = nil
}
