package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

type (
	createVMInput struct {
		WaitQuery
		KeyHeader
		Trace bool `query:"trace" doc:"Tell the timed steps of its start"`
		Body  *wire.CreateVM
	}
	forkVMInput struct {
		VMPath
		WaitQuery
		KeyHeader
		Body *wire.ForkVM
	}
	listVMsInput struct {
		PageQuery
		State          []string `query:"state,explode" maxItems:"16" enum:"pending,creating,starting,running,pausing,paused,resuming,stopping,stopped,deleting,deleted,failed,unreachable" doc:"Any of these; may be repeated"`
		Metadata       []string `query:"metadata,explode" maxItems:"16" maxLength:"1153" pattern:"^[^:]+:" patternDescription:"key:value" doc:"key:value; may be repeated, all must match"`
		Name           string   `query:"name" maxLength:"63"`
		Template       string   `query:"template" maxLength:"191"`
		IncludeDeleted bool     `query:"include_deleted" doc:"Tombstones too"`
	}
	getVMInput struct {
		VMPath
		Trace bool `query:"trace" doc:"Tell the timed steps of its last start"`
	}
	patchVMInput struct {
		VMPath
		Body wire.PatchVM
	}
	actVMInput struct {
		VMPath
		WaitQuery
	}
	postVMInput struct {
		VMPath
		WaitQuery
		KeyHeader
	}
	pauseVMInput struct {
		VMPath
		WaitQuery
		KeyHeader
		Body *wire.PauseVM
	}

	// answered is an answer whose status and body depend.
	answered struct {
		Status   int
		Location string `header:"Location"`
		Applied  string `header:"Preference-Applied"`
		Body     any
	}
	vmOutput    struct{ Body wire.VM }
	vmsOutput   struct{ Body *wire.List[wire.VM] }
	usageOutput struct{ Body wire.Usage }
)

func (a *API) vmRoutes() {
	op := operation("create-vm", http.MethodPost, "/vms", "VMs", "Create a VM", "Answers when the VM is ready, or 202 when that takes longer than `wait_ms` or `Prefer: respond-async` asks not to wait.")
	op.DefaultStatus = http.StatusCreated
	op.Responses = map[string]*huma.Response{
		"201": jsonOf[wire.VM](a, "The VM is ready"),
		"202": jsonOf[wire.Accepted](a, "It is being made; Location names the task"),
	}
	register(a, op, options{scope: domain.ScopeRun, recognises: true}, a.createVM)

	register(a, operation("list-vms", http.MethodGet, "/vms", "VMs", "List VMs", ""), options{scope: domain.ScopeRead}, a.listVMs)
	register(a, operation("get-vm", http.MethodGet, "/vms/{vm}", "VMs", "Get a VM", ""), options{scope: domain.ScopeRead}, a.getVM)
	register(a, operation("patch-vm", http.MethodPatch, "/vms/{vm}", "VMs", "Change a VM", "Absent fields stay as they are."), options{scope: domain.ScopeRun}, a.patchVM)

	del := operation("delete-vm", http.MethodDelete, "/vms/{vm}", "VMs", "Delete a VM", "Deleting a VM again is success while its tombstone is kept.")
	del.Responses = a.settledResponses()
	register(a, del, options{scope: domain.ScopeRun}, func(ctx context.Context, in *actVMInput) (*answered, error) {
		return a.act(ctx, in, a.VMs.DeleteVM)
	})
	a.postVM(operation("start-vm", http.MethodPost, "/vms/{vm}/start", "VMs", "Start a stopped or paused VM", ""), a.VMs.StartVM)
	a.postVM(operation("stop-vm", http.MethodPost, "/vms/{vm}/stop", "VMs", "Stop a VM", "Its disk is kept."), a.VMs.StopVM)
	a.postVM(operation("resume-vm", http.MethodPost, "/vms/{vm}/resume", "VMs", "Resume a paused VM", ""), a.VMs.ResumeVM)

	pause := operation("pause-vm", http.MethodPost, "/vms/{vm}/pause", "VMs", "Pause a VM", "")
	pause.Responses = a.settledResponses()
	register(a, pause, options{scope: domain.ScopeRun}, func(ctx context.Context, in *pauseVMInput) (*answered, error) {
		return a.act(ctx, &actVMInput{in.VMPath, in.WaitQuery}, func(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
			return a.VMs.PauseVM(ctx, by, id, domain.PauseMode(given(in.Body).Mode))
		})
	})

	fork := operation("fork-vm", http.MethodPost, "/vms/{vm}/forks", "VMs", "Fork a VM", "New VMs that go on from this one's memory and disk, copy on write; from its disk alone, started anew, where the driver keeps no memory, the VM does not run, or `memory` is false.")
	fork.DefaultStatus = http.StatusCreated
	fork.Responses = map[string]*huma.Response{
		"201": jsonOf[wire.List[wire.VM]](a, "The forks are ready"),
		"202": jsonOf[wire.List[wire.VM]](a, "They are being made"),
	}
	register(a, fork, options{scope: domain.ScopeRun}, a.forkVM)

	register(a, operation("get-vm-usage", http.MethodGet, "/vms/{vm}/usage", "VMs", "What a VM uses now", ""), options{scope: domain.ScopeRead}, a.vmUsage)
}

func (a *API) settledResponses() map[string]*huma.Response {
	return map[string]*huma.Response{
		"200": jsonOf[wire.VM](a, "The VM is as wanted"),
		"202": jsonOf[wire.VM](a, "It is on its way: it took longer than was to be waited for, or the VM's worker is away and does it when it is back"),
	}
}

func (a *API) postVM(op huma.Operation, do func(context.Context, vmm.Caller, domain.ID) (*domain.VM, error)) {
	op.Responses = a.settledResponses()
	register(a, op, options{scope: domain.ScopeRun}, func(ctx context.Context, in *postVMInput) (*answered, error) {
		return a.act(ctx, &actVMInput{in.VMPath, in.WaitQuery}, do)
	})
}

// act makes a wish durable and waits for it.
func (a *API) act(ctx context.Context, in *actVMInput, do func(context.Context, vmm.Caller, domain.ID) (*domain.VM, error)) (*answered, error) {
	by, id, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	vm, err := do(ctx, by, id)
	if err != nil {
		return nil, err
	}
	asked := vm.Desired
	vm, settled, err := a.settle(ctx, by, vm, in.WaitQuery)
	a.Proxy.CloseIdle() // connections to a VM that no longer runs are worth nothing
	if err != nil {
		return nil, err
	}
	if asked == domain.WantRunning && vm.Desired == domain.WantStopped && vmm.NotStarted(vm) {
		return nil, vmm.Failure(vm)
	}
	if vm.Desired != asked && vm.Reason != "" { // the wish was taken back
		return nil, errors.New(errors.Conflict, "the VM is %s: %s", vm.Observed, vm.Reason)
	}
	out := &answered{Status: http.StatusOK, Body: apiform.VM(vm)}
	if !settled {
		accepted(out, in.WaitQuery, location("vms", vm.ID.String()))
	}
	return out, nil
}

func accepted(out *answered, q WaitQuery, where string) {
	out.Status, out.Location = http.StatusAccepted, where
	if q.async() {
		out.Applied = "respond-async"
	}
}

func (a *API) createVM(ctx context.Context, in *createVMInput) (*answered, error) {
	by := auth.CallerFrom(ctx)
	body := given(in.Body)
	req := toCreate(body)
	if in.IdempotencyKey != "" {
		req.IdempotencyKey = in.IdempotencyKey
		req.RequestDigest = bodyDigest(body)
	}
	vm, err := a.VMs.CreateVM(ctx, by, req)
	if err != nil {
		return nil, err
	}
	trail.Subject(ctx, "vm", vm.ID.String())
	trail.VM(ctx, vm.ID)
	where := location("vms", vm.ID.String())
	vm, settled, err := a.settle(ctx, by, vm, in.WaitQuery)
	if err != nil {
		return nil, problem.From(err).SetHeader("Location", where)
	}
	if !settled {
		t, err := a.Tasks.TaskForVM(ctx, by, "create", vm.ID, nil)
		if err != nil {
			return nil, problem.From(err).SetHeader("Location", where)
		}
		made := apiform.VM(vm)
		out := &answered{Body: wire.Accepted{Task: apiform.Task(t), VM: &made}}
		accepted(out, in.WaitQuery, location("tasks", t.ID.String()))
		return out, nil
	}
	made := apiform.VM(vm)
	if in.Trace {
		if made.Phases, err = a.phases(ctx, by, vm.ID); err != nil {
			return nil, err
		}
	}
	return &answered{Status: http.StatusCreated, Location: where, Body: made}, nil
}

// bodyDigest is the same for requests that mean the same.
func bodyDigest(v any) string {
	text, _ := json.Marshal(v) // it came from JSON
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (a *API) forkVM(ctx context.Context, in *forkVMInput) (*answered, error) {
	by, id, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	body := given(in.Body)
	req := toCreate(body.CreateVM)
	if in.IdempotencyKey != "" {
		req.IdempotencyKey, req.RequestDigest = in.IdempotencyKey, bodyDigest(body)
	}
	forks, err := a.VMs.ForkVM(ctx, by, id, max(body.Count, 1), req)
	if err != nil {
		return nil, err
	}
	all := true
	for i, vm := range forks {
		var settled bool
		if forks[i], settled, err = a.settle(ctx, by, vm, in.WaitQuery); err != nil {
			return nil, problem.From(err).SetHeader("Location", location("vms", vm.ID.String()))
		}
		all = all && settled
	}
	out := &answered{Status: http.StatusCreated, Body: wire.List[wire.VM]{Items: mapped(forks, apiform.VM)}}
	if !all {
		accepted(out, in.WaitQuery, "")
	}
	return out, nil
}

func (a *API) listVMs(ctx context.Context, in *listVMsInput) (*vmsOutput, error) {
	f := vmm.VMFilter{Template: in.Template, Name: in.Name, IncludeDeleted: in.IncludeDeleted, Page: in.page()}
	for _, s := range in.State {
		f.States = append(f.States, domain.ObservedState(s))
	}
	for _, m := range in.Metadata {
		key, value, _ := strings.Cut(m, ":")
		if old, twice := f.Metadata[key]; twice && old != value {
			return nil, errors.New(errors.InvalidArgument, "metadata %q is asked to have two values", key).WithField("query.metadata")
		}
		if f.Metadata == nil {
			f.Metadata = map[string]string{}
		}
		f.Metadata[key] = value
	}
	l, err := a.VMs.ListVMs(ctx, auth.CallerFrom(ctx), f)
	if err != nil {
		return nil, err
	}
	return &vmsOutput{listOf(l, apiform.VM)}, nil
}

func (a *API) getVM(ctx context.Context, in *getVMInput) (*vmOutput, error) {
	by := auth.CallerFrom(ctx)
	vm, err := a.VMs.ResolveVM(ctx, by, in.VM)
	if err != nil {
		return nil, err
	}
	out := &vmOutput{apiform.VM(vm)}
	if in.Trace {
		if out.Body.Phases, err = a.phases(ctx, by, vm.ID); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a *API) phases(ctx context.Context, by vmm.Caller, id domain.ID) ([]wire.Phase, error) {
	phases, err := a.VMs.VMTrace(ctx, by, id)
	if err != nil {
		return nil, err
	}
	return mapped(phases, func(p vmm.Phase) wire.Phase { return wire.Phase{Name: p.Name, TookUS: p.Took.Microseconds()} }), nil
}

func (a *API) patchVM(ctx context.Context, in *patchVMInput) (*vmOutput, error) {
	by, id, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	vm, err := a.VMs.PatchVM(ctx, by, id, toPatch(in.Body))
	if err != nil {
		return nil, err
	}
	return &vmOutput{apiform.VM(vm)}, nil
}

func (a *API) vmUsage(ctx context.Context, in *VMPath) (*usageOutput, error) {
	by, id, err := a.resolve(ctx, *in)
	if err != nil {
		return nil, err
	}
	u, err := a.VMs.VMUsage(ctx, by, id)
	if err != nil {
		return nil, err
	}
	return &usageOutput{wire.Usage{
		VMID: id.String(), CPUTimeMS: ms(u.CPUTime), MemoryBytes: u.MemoryBytes, MemoryPeakBytes: u.MemoryPeak,
		MemoryLimitBytes: u.MemoryLimit, PIDs: u.PIDs, DiskBytes: u.DiskBytes, DiskLimitBytes: u.DiskLimit,
		ReceivedBytes: u.RxBytes, SentBytes: u.TxBytes, OOMKills: u.OOMKills, At: u.At,
	}}, nil
}
