package worker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// bench is where tools are installed in these tests: each asks first.
type bench struct {
	asked  chan struct{} // told when an installation has begun
	answer chan bool     // how it ends
	closed chan struct{} // told when one has let go of its machine
	boots  atomic.Int64
	open   atomic.Int64
}

func newBench() *bench {
	return &bench{asked: make(chan struct{}, 16), answer: make(chan bool, 16), closed: make(chan struct{}, 16)}
}

func (b *bench) config(c *worker.Config) {
	c.Tools.MaxCache = 1
	c.Tools.Mise = "/bin/true" // it is not run
	c.Tools.Boot = func(context.Context, string) (tools.Machine, error) {
		b.boots.Add(1)
		b.open.Add(1)
		return benchMachine{b}, nil
	}
}

type benchMachine struct{ b *bench }

func (m benchMachine) Run(ctx context.Context, c tools.Command, line func(string)) (tools.Exit, error) {
	switch c.Args[1] {
	case "latest":
		return tools.Exit{Stdout: []byte("1.2.3\n")}, nil
	case "install":
		m.b.asked <- struct{}{}
		select {
		case ok := <-m.b.answer:
			if ok {
				return tools.Exit{}, nil
			}
			line("mise ERROR it does not want to")
			return tools.Exit{Code: 1}, nil
		case <-ctx.Done():
			return tools.Exit{}, ctx.Err()
		}
	case "bin-paths":
		return tools.Exit{Stdout: []byte(tools.MachineDir + "/prettier/1.2.3/bin\n")}, nil
	}
	return tools.Exit{Stdout: []byte(`{"PRETTIER_HOME":"/p","BOTH":"tool"}`)}, nil
}

func (benchMachine) WriteFile(context.Context, string, []byte) error { return nil }

func (benchMachine) Tar(context.Context, string) (io.ReadCloser, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	_ = tw.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755})
	_ = tw.WriteHeader(&tar.Header{Name: "bin/prettier", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2})
	_, _ = tw.Write([]byte("#!"))
	_ = tw.Close()
	return io.NopCloser(&b), nil
}

func (m benchMachine) Close() {
	m.b.open.Add(-1)
	m.b.closed <- struct{}{}
}

const prettierBin = "/opt/aetherium/tools/prettier/1.2.3/bin"

func TestVMsWaitForTheirTools(t *testing.T) {
	t.Parallel()
	shop := newBench()
	b := newBed(t, shop.config)
	first, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Tools: []string{"prettier"}, Env: map[string]string{"PATH": "/own:/usr/bin:/bin"}})
	must(t, err)
	<-shop.asked
	waiting, err := b.GetVM(b.ctx, b.by, first.ID)
	must(t, err)
	if waiting.Observed != domain.Pending || waiting.Reason != "installing prettier@latest" {
		t.Errorf("meanwhile: %s, %q", waiting.Observed, waiting.Reason)
	}
	b.running(vmm.CreateVM{}) // others do not wait
	// Who asked is known only while nobody else wants the same.
	second, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Tools: []string{"prettier@1", "git"}})
	must(t, err)
	shop.answer <- true
	for _, vm := range []*domain.VM{first, second} {
		got, err := b.WaitVM(b.ctx, b.by, vm.ID)
		must(t, err)
		if got.Observed != domain.Running || got.Reason != "" || got.Spec.Tools[0] != "prettier@1.2.3" {
			t.Errorf("%s, %q, %v", got.Observed, got.Reason, got.Spec.Tools)
		}
	}
	if out, _ := b.sh(first.ID, `echo "$PATH $AETHERIUM_TOOLS_PATH $PRETTIER_HOME $BOTH"`); out != prettierBin+":/own:/usr/bin:/bin "+prettierBin+" /p template\n" {
		t.Errorf("environment: %q", out)
	}
	if out, _ := b.sh(second.ID, `echo "$PATH"`); !strings.HasPrefix(out, prettierBin+":/usr/local/sbin:") {
		t.Errorf("PATH: %q", out)
	}

	// The worker's next life knows what VMs have.
	b.down()
	b.up()
	if out, _ := b.sh(first.ID, `echo "$PRETTIER_HOME"`); out != "/p\n" {
		t.Errorf("after a restart: %q", out)
	}
	list, err := b.ListTools(b.ctx, b.by)
	must(t, err)
	if len(list) != 1 || list[0].VMs != 2 || list[0].Version != "1.2.3" {
		t.Errorf("%+v", list)
	}
	must(t, b.worker.TrimTools(b.ctx))
	if list, err := b.ListTools(b.ctx, b.by); err != nil || len(list) != 1 {
		t.Errorf("a tool that VMs have is gone: %+v, %v", list, err)
	}
	admin := b.by
	admin.Admin = true
	if err := b.RemoveTool(b.ctx, b.by, "prettier", ""); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("removed by anybody: %v", err)
	}
	if err := b.RemoveTool(b.ctx, admin, "prettier", ""); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("removed although VMs have it: %v", err)
	}
	for _, vm := range []*domain.VM{first, second} {
		_, err := b.DeleteVM(b.ctx, b.by, vm.ID)
		must(t, err)
		_, _ = b.WaitVM(b.ctx, b.by, vm.ID)
	}
	must(t, b.RemoveTool(b.ctx, admin, "prettier", "1.2.3"))
	if err := b.RemoveTool(b.ctx, admin, "prettier", ""); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if shop.open.Load() != 0 {
		t.Error("a machine was not removed")
	}
}

// microVMs is a driver of machines with a kernel of their own that tells what they
// are made with.
type microVMs struct{ shows }

func (d microVMs) Info(ctx context.Context) domain.DriverInfo {
	info := d.shows.Info(ctx)
	info.Name, info.Isolation = "qemu", domain.IsolationMicroVM
	return info
}

// A machine that shares the host's kernel is shown all tools, one with a kernel of its
// own its VM's alone, in the versions that were installed for it just now.
func TestWhatMachinesAreShownOfTools(t *testing.T) {
	t.Parallel()
	shop := newBench()
	b := newBed(t, shop.config)
	b.down()
	specs := make(chan vmm.Spec, 16)
	node := fake.NewNode(t.TempDir())
	t.Cleanup(func() { must(t, node.Close()) })
	b.deps = func(d *worker.Deps) {
		d.Drivers["fake"] = shows{fake.New(b.node), specs}
		d.Drivers["qemu"] = microVMs{shows{fake.New(node), specs}}
	}
	b.up()
	shop.answer <- true
	shop.answer <- true
	vm := b.running(vmm.CreateVM{Driver: "qemu", Tools: []string{"prettier", "git", "npm:other@1"}})
	dir := filepath.Join(b.config.DataDir, "tools")
	cache, other := filepath.Join(dir, strings.ReplaceAll(b.config.Platform, "/", "-")), domain.Tool{Name: "npm:other"}.Dir()
	profile := vmm.HostMount{Source: filepath.Join(dir, "profile.sh"), Target: tools.ProfileTarget, ReadOnly: true}
	own := []vmm.HostMount{
		{Source: cache + "/prettier/1.2.3", Target: tools.MachineDir + "/prettier/1.2.3", ReadOnly: true},
		{Source: cache + "/" + other + "/1.2.3", Target: tools.MachineDir + "/" + other + "/1.2.3", ReadOnly: true},
		profile,
	}
	if s := <-specs; !slices.Equal(s.Mounts, own) {
		t.Errorf("%+v, not %+v", s.Mounts, own)
	}
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	_, err = b.WaitVM(b.ctx, b.by, forks[0].ID)
	must(t, err)
	if s := <-specs; !slices.Equal(s.Mounts, own) {
		t.Errorf("a fork: %+v, not %+v", s.Mounts, own)
	}
	b.running(vmm.CreateVM{Driver: "qemu", Tools: []string{"git"}})
	b.running(vmm.CreateVM{Driver: "fake", Tools: []string{"prettier"}})
	all := []vmm.HostMount{{Source: cache, Target: tools.MachineDir, ReadOnly: true}, profile}
	if s := <-specs; !slices.Equal(s.Mounts, all) { // nothing is shown to the one before
		t.Errorf("%+v, not %+v", s.Mounts, all)
	}
}

func TestAToolThatCannotBeHad(t *testing.T) {
	t.Parallel()
	shop := newBench()
	b := newBed(t, shop.config)
	shop.answer <- false
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Tools: []string{"prettier"}})
	must(t, err)
	got, err := b.WaitVM(b.ctx, b.by, vm.ID)
	if err == nil || got.Observed != domain.Failed || !strings.Contains(got.Reason, "(tool_failed)") {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Tools: []string{"../x"}}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a tool of no form: %v", err)
	}
}

// A VM that is deleted while it waits ends the installation that nobody else
// wants; one whose worker dies has it begun again.
func TestToolsOfVMsThatEndAndOfWorkersThatDie(t *testing.T) {
	t.Parallel()
	shop := newBench()
	b := newBed(t, shop.config)
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Tools: []string{"prettier"}})
	must(t, err)
	<-shop.asked
	_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if got, err := b.WaitVM(b.ctx, b.by, vm.ID); err != nil || got.Observed != domain.Deleted {
		t.Errorf("%+v, %v", got, err)
	}
	<-shop.closed // else the next VM may still share what nobody wanted any more
	vm, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Tools: []string{"prettier"}})
	must(t, err)
	<-shop.asked
	b.crash()
	if shop.open.Load() != 0 {
		t.Error("an installation goes on")
	}
	b.up()
	shop.answer <- true
	got, err := b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	if got.Observed != domain.Running || shop.boots.Load() != 3 {
		t.Errorf("%s after %d installations", got.Observed, shop.boots.Load())
	}
}

func TestInstallTask(t *testing.T) {
	t.Parallel()
	shop := newBench()
	b := newBed(t, shop.config)
	task, err := b.InstallTools(b.ctx, b.by, []string{"prettier", "git"})
	must(t, err)
	<-shop.asked
	log, err := b.ToolLog(b.ctx, b.by, task.ID, 0, true)
	must(t, err)
	defer func() { _ = log.Close() }()
	shop.answer <- true
	text, err := io.ReadAll(log)
	must(t, err)
	if !strings.Contains(string(text), "ready: prettier@1.2.3\n") {
		t.Errorf("log: %q", text)
	}
	task, err = b.WaitTask(b.ctx, b.by, task.ID)
	must(t, err)
	if task.State != domain.TaskSucceeded || string(task.Result) != `{"tools":["prettier@1.2.3"]}` {
		t.Errorf("%s %s", task.State, task.Result)
	}
	stranger := vmm.Caller{ProjectID: domain.NewID()}
	if _, err := b.ToolLog(b.ctx, stranger, task.ID, 0, false); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("another project's log: %v", err)
	}

	// More than is to be kept of what nobody uses.
	must(t, b.worker.TrimTools(b.ctx))
	if list, err := b.ListTools(b.ctx, b.by); err != nil || len(list) > 0 {
		t.Errorf("kept: %+v, %v", list, err)
	}

	// One that is canceled ends, and so does its log.
	task, err = b.InstallTools(b.ctx, b.by, []string{"other"})
	must(t, err)
	<-shop.asked
	log, err = b.ToolLog(b.ctx, b.by, task.ID, 0, true)
	must(t, err)
	defer func() { _ = log.Close() }()
	_, err = b.CancelTask(b.ctx, b.by, task.ID)
	must(t, err)
	_, err = io.ReadAll(log)
	must(t, err)
	if task, err = b.WaitTask(b.ctx, b.by, task.ID); err != nil || task.State != domain.TaskCanceled {
		t.Errorf("%+v, %v", task, err)
	}
}
