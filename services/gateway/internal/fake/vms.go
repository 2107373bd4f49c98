package fake

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// CreateVM implements vmm.VMs.
func (o *Orchestrator) CreateVM(_ context.Context, by vmm.Caller, req vmm.CreateVM) (*domain.VM, error) {
	if req.Egress != nil {
		p, err := req.Egress.Normal("egress")
		if err != nil {
			return nil, err
		}
		req.Egress = &p
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if req.Template == "" {
		req.Template = "base"
	}
	if err := domain.ValidateName("name", req.Name); err != nil {
		return nil, err
	}
	if err := domain.ValidateEnv("env", req.Env); err != nil {
		return nil, err
	}
	if req.IdempotencyKey != "" {
		if k, ok := o.keys[by.ProjectID.String()+req.IdempotencyKey]; ok {
			if k.digest != req.RequestDigest {
				return nil, errors.New(errors.IdempotencyMismatch, "this Idempotency-Key was used for another request")
			}
			c := o.vms[k.vm].VM
			return &c, nil
		}
	}
	if _, ok := o.temps[req.Template]; !ok && o.snaps[domain.ID(req.Template)] == nil {
		return nil, errors.New(errors.NotFound, "there is no template %q", req.Template).WithField("template")
	}
	for _, v := range o.vms {
		if req.Name != "" && v.Name == req.Name && v.ProjectID == by.ProjectID && v.Observed != domain.Deleted {
			return nil, errors.New(errors.AlreadyExists, "there is a VM %q already", req.Name).WithField("name")
		}
	}
	mounts, err := o.mounts(by.ProjectID, req.Mounts)
	if err != nil {
		return nil, err
	}
	req.Mounts = mounts
	v := o.insert(by, req)
	if req.IdempotencyKey != "" {
		o.keys[by.ProjectID.String()+req.IdempotencyKey] = idempotent{req.RequestDigest, v.ID}
	}
	c := v.VM
	return &c, nil
}

func (o *Orchestrator) insert(by vmm.Caller, req vmm.CreateVM) *vm {
	now := time.Now().UTC()
	v := &vm{
		VM: domain.VM{
			ID: domain.NewID(), ProjectID: by.ProjectID, Name: req.Name, Metadata: req.Metadata,
			Spec: domain.VMSpec{
				Template: req.Template, Driver: "fake", Platform: "linux/amd64", Network: domain.NetworkNAT, Hostname: "vm", Previews: req.Previews, ResumeFor: req.ResumeFor,
				Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 1 << 29, DiskBytes: 1 << 30, PIDs: 512},
			},
			Isolation: domain.IsolationContainer, Desired: domain.WantRunning, Observed: domain.Pending, OnTimeout: domain.TimeoutKill,
			AutoResume: req.AutoResume, IdleTimeout: req.IdleTimeout, Generation: 1, CreatedAt: now, UpdatedAt: now,
		},
		token: domain.NewID().String() + domain.NewID().String(), env: req.Env,
		files: map[string]*file{}, ports: map[uint16]string{}, watch: map[chan vmm.FileEvent]string{}, conns: map[net.Conn]struct{}{},
	}
	if req.Egress != nil {
		v.Spec.Egress = req.Egress.WithoutValues()
	}
	v.Spec.Secrets, v.Spec.Mounts = req.Secrets, req.Mounts
	if req.OnTimeout != "" {
		v.OnTimeout = req.OnTimeout
	}
	if req.Timeout != nil && *req.Timeout > 0 {
		at := now.Add(*req.Timeout)
		v.Deadline = &at
	}
	if o.fail != "" {
		v.Observed, v.Reason, o.fail = domain.Failed, o.fail, ""
	}
	o.creates++
	o.vms[v.ID] = v
	o.order = append(o.order, v.ID)
	o.emit("vm.created", v)
	o.converge(v)
	o.notify()
	return v
}

// GetVM implements vmm.VMs.
func (o *Orchestrator) GetVM(_ context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.find(by, id)
	if err != nil {
		return nil, err
	}
	c := v.VM
	return &c, nil
}

// ResolveVM implements vmm.VMs.
func (o *Orchestrator) ResolveVM(ctx context.Context, by vmm.Caller, idOrName string) (*domain.VM, error) {
	if domain.IsID(idOrName) {
		return o.GetVM(ctx, by, domain.ID(idOrName))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range o.vms {
		if v.Name == idOrName && v.ProjectID == by.ProjectID && v.Observed != domain.Deleted {
			c := v.VM
			return &c, nil
		}
	}
	return nil, errors.New(errors.NotFound, "there is no VM %q", idOrName)
}

// ListVMs implements vmm.VMs. The cursor is an index.
func (o *Orchestrator) ListVMs(_ context.Context, by vmm.Caller, f vmm.VMFilter) (vmm.List[*domain.VM], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := slices.Clone(o.order)
	if f.Order != vmm.OldestFirst {
		slices.Reverse(ids)
	}
	var all []*domain.VM
	for _, id := range ids {
		v := o.vms[id]
		match := v.ProjectID == by.ProjectID && (f.IncludeDeleted || v.Observed != domain.Deleted) &&
			(len(f.States) == 0 || slices.Contains(f.States, v.Observed)) && (f.Name == "" || f.Name == v.Name) &&
			(f.Template == "" || f.Template == v.Spec.Template)
		for k, want := range f.Metadata {
			match = match && v.Metadata[k] == want
		}
		if match {
			c := v.VM
			all = append(all, &c)
		}
	}
	return page(all, f.Page)
}

func page[T any](all []T, p vmm.Page) (vmm.List[T], error) {
	at := 0
	if p.Cursor != "" {
		n, err := strconv.Atoi(p.Cursor)
		if err != nil || n < 0 || n > len(all) {
			return vmm.List[T]{}, errors.New(errors.InvalidArgument, "the cursor is not one of this list").WithField("cursor")
		}
		at = n
	}
	end := min(at+max(p.Limit, 1), len(all))
	l := vmm.List[T]{Items: all[at:end]}
	if end < len(all) {
		l.Next = strconv.Itoa(end)
	}
	return l, nil
}

// PatchVM implements vmm.VMs.
func (o *Orchestrator) PatchVM(_ context.Context, by vmm.Caller, id domain.ID, p vmm.PatchVM) (*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.find(by, id)
	if err != nil {
		return nil, err
	}
	if p.Name != nil {
		v.Name = *p.Name
	}
	if p.Metadata != nil {
		v.Metadata = p.Metadata
	}
	if p.Timeout != nil {
		at := time.Now().UTC().Add(*p.Timeout)
		v.Deadline = &at
		if *p.Timeout == 0 {
			v.Deadline = nil
		}
	}
	if p.AutoResume != nil {
		v.AutoResume = *p.AutoResume
	}
	c := v.VM
	return &c, nil
}

func (o *Orchestrator) want(by vmm.Caller, id domain.ID, to domain.DesiredState, from ...domain.ObservedState) (*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wanted(by, id, to, from...)
}

func (o *Orchestrator) wanted(by vmm.Caller, id domain.ID, to domain.DesiredState, from ...domain.ObservedState) (*domain.VM, error) {
	v, err := o.find(by, id)
	if err != nil {
		return nil, err
	}
	if len(from) > 0 && !slices.Contains(from, v.Observed) {
		return nil, errors.New(errors.Conflict, "the VM is %s", v.Observed)
	}
	v.Desired = to
	v.Generation++
	o.converge(v)
	o.notify()
	c := v.VM
	return &c, nil
}

// StartVM implements vmm.VMs.
func (o *Orchestrator) StartVM(_ context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if v, err := o.find(by, id); err == nil && o.noStart != "" && v.Observed == domain.Stopped {
		v.Tombstone = &domain.Tombstone{Cause: domain.CauseCreateFault, By: "worker", Detail: o.noStart, At: time.Now().UTC()}
		o.noStart = ""
		c := v.VM
		return &c, nil
	}
	return o.wanted(by, id, domain.WantRunning, domain.Stopped, domain.Paused, domain.Running)
}

// StopVM implements vmm.VMs.
func (o *Orchestrator) StopVM(_ context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	return o.want(by, id, domain.WantStopped, domain.Running, domain.Paused, domain.Stopped)
}

// PauseVM implements vmm.VMs.
func (o *Orchestrator) PauseVM(_ context.Context, by vmm.Caller, id domain.ID, mode domain.PauseMode) (*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pause(by, id, mode)
}

// SuspendVM implements vmm.VMs.
func (o *Orchestrator) SuspendVM(_ context.Context, by vmm.Caller, id domain.ID, memory bool) (*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var mode domain.PauseMode
	if !memory {
		mode = domain.PauseDisk
	}
	vm, err := o.pause(by, id, mode)
	if !memory && errors.HasCode(err, errors.Unsupported) {
		vm, err = o.wanted(by, id, domain.WantStopped, domain.Running, domain.Paused, domain.Stopped)
	}
	if err == nil && vm.OnTimeout == domain.TimeoutKill {
		vm.Deadline, o.vms[id].Deadline = nil, nil
	}
	return vm, err
}

// pause is with the lock held.
func (o *Orchestrator) pause(by vmm.Caller, id domain.ID, mode domain.PauseMode) (*domain.VM, error) {
	modes := []domain.PauseMode{domain.PauseFreeze}
	if o.memory {
		modes = []domain.PauseMode{domain.PauseMemory, domain.PauseDisk}
	}
	if mode == "" {
		mode = modes[0]
	}
	if !slices.Contains(modes, mode) {
		return nil, errors.New(errors.Unsupported, "the driver cannot pause by %s", mode).WithField("mode")
	}
	vm, err := o.wanted(by, id, domain.WantPaused, domain.Running, domain.Paused)
	if err == nil {
		vm.PauseMode, o.vms[id].PauseMode = mode, mode
	}
	return vm, err
}

// ResumeVM implements vmm.VMs.
func (o *Orchestrator) ResumeVM(_ context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	return o.want(by, id, domain.WantRunning, domain.Paused, domain.Running)
}

// DeleteVM implements vmm.VMs.
func (o *Orchestrator) DeleteVM(_ context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	o.mu.Lock()
	text, panics := o.panics["delete"]
	o.mu.Unlock()
	if panics {
		panic(text)
	}
	return o.want(by, id, domain.WantDeleted)
}

// ForkVM implements vmm.VMs.
func (o *Orchestrator) ForkVM(_ context.Context, by vmm.Caller, id domain.ID, count int, req vmm.CreateVM) ([]*domain.VM, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if count < 1 || count > 100 {
		return nil, errors.New(errors.InvalidArgument, "%d forks are out of range", count).WithField("count")
	}
	if _, err := o.running(by, id); err != nil {
		return nil, err
	}
	var out []*domain.VM
	for range count {
		c := o.insert(by, req).VM
		out = append(out, &c)
	}
	return out, nil
}

// WaitVM implements vmm.VMs.
func (o *Orchestrator) WaitVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	var c domain.VM
	var failed error
	err := o.until(ctx, func() bool {
		v, err := o.find(by, id)
		if err != nil {
			failed = err
			return true
		}
		c = v.VM
		if c.Observed == domain.Failed {
			failed = errors.New(errors.GuestFault, "the VM failed: %s", c.Reason)
			return true
		}
		if done := strings.EqualFold(string(c.Observed), string(c.Desired)); done || c.UnreachableSince == nil {
			return done
		}
		failed = errors.New(errors.Unavailable, "the VM cannot be reached: its worker is away").WithRetryAfter(5 * time.Second)
		return true
	})
	return &c, errors.Join(err, failed)
}

// VMUsage implements vmm.VMs.
func (o *Orchestrator) VMUsage(_ context.Context, by vmm.Caller, id domain.ID) (vmm.Usage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if text, ok := o.panics["usage"]; ok {
		panic(text)
	}
	if _, err := o.running(by, id); err != nil {
		return vmm.Usage{}, err
	}
	return vmm.Usage{CPUTime: 1500 * time.Millisecond, MemoryBytes: 42 << 20, PIDs: 3, At: time.Now().UTC()}, nil
}

// VMUsed implements vmm.VMs: each minute of the last ten is a span.
func (o *Orchestrator) VMUsed(_ context.Context, by vmm.Caller, id domain.ID, from, to time.Time) ([]domain.Usage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.find(by, id); err != nil {
		return nil, err
	}
	var out []domain.Usage
	now := time.Now().UTC()
	for ago := 10 * time.Minute; ago > 0; ago -= time.Minute {
		begin := now.Add(-ago)
		if begin.Before(from) || !begin.Before(to) {
			continue
		}
		out = append(out, domain.Usage{VMID: id, From: begin, To: begin.Add(time.Minute), CPUSeconds: 30, MemoryByteSec: 60 * (42 << 20), DiskBytes: 1 << 20})
	}
	return out, nil
}

// VMTrace implements vmm.VMs.
func (o *Orchestrator) VMTrace(_ context.Context, by vmm.Caller, id domain.ID) ([]vmm.Phase, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.find(by, id)
	return []vmm.Phase{{Name: "place", Took: 120 * time.Microsecond}, {Name: "start", Took: 9 * time.Millisecond}}, err
}

// VMPreviewToken implements vmm.VMs.
func (o *Orchestrator) VMPreviewToken(_ context.Context, by vmm.Caller, id domain.ID) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, err := o.find(by, id)
	if err != nil {
		return "", err
	}
	if v.Observed == domain.Deleted {
		return "", errors.New(errors.Gone, "the VM is deleted")
	}
	return v.token, nil
}
