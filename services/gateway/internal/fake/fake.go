// Package fake is an orchestrator in memory for the gateway's tests. It runs
// no machine, but behaves: VMs step through their states, commands are Go
// functions with stdin, journaled output, signals and exit codes, files live
// in a map, and ports lead to real listeners on loopback.
package fake

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Orchestrator implements vmm.Orchestrator and vmm.TaskService.
type Orchestrator struct {
	Elsewhere bool // VMs are on other hosts; to be set before anything is asked for

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	hold     bool          // VMs stay pending
	fail     string        // the next VM fails for this reason
	noLogs   bool          // workers of builds are away
	noStart  string        // the next that is started again stays stopped for this reason
	memory   bool          // VMs are made by a driver that saves memory
	refused  map[domain.SnapshotKind]error
	vms      map[domain.ID]*vm
	order    []domain.ID
	execs    map[domain.ID]*execution
	tasks    map[domain.ID]*domain.Task
	snaps    map[domain.ID]*domain.Snapshot
	temps    map[string]*vmm.TemplateInfo
	tools    []vmm.ToolInfo
	worker   *domain.Worker                  // nil: nobody has asked yet
	secrets  map[domain.ID]map[string]secret // by project and name
	built    []vmm.BuildTemplate
	uploads  []sent
	keys     map[string]idempotent
	events   []domain.Event
	forgot   int64 // up to this one they are not kept
	programs map[string]Program
	creates  int
	panics   map[string]string
	quotas   map[domain.ID]domain.QuotaOverride
	volumes  volumes
	archives []archive
}

type vm struct {
	domain.VM
	token  string
	env    map[string]string
	files  map[string]*file
	ports  map[uint16]string // to address
	watch  map[chan vmm.FileEvent]string
	egress []domain.EgressEntry
	conns  map[net.Conn]struct{}
}

type idempotent struct {
	digest string
	vm     domain.ID
}

var (
	_ vmm.Orchestrator = (*Orchestrator)(nil)
	_ vmm.TaskService  = (*Orchestrator)(nil)
)

// New makes an empty orchestrator with one template, base.
func New() *Orchestrator {
	o := &Orchestrator{
		changed: make(chan struct{}), vms: map[domain.ID]*vm{}, execs: map[domain.ID]*execution{}, tasks: map[domain.ID]*domain.Task{},
		snaps: map[domain.ID]*domain.Snapshot{}, temps: map[string]*vmm.TemplateInfo{}, keys: map[string]idempotent{}, programs: builtins(),
		quotas:  map[domain.ID]domain.QuotaOverride{},
		secrets: map[domain.ID]map[string]secret{},
	}
	now := time.Now().UTC()
	id := domain.NewID()
	o.temps["base"] = &vmm.TemplateInfo{
		Template: &domain.Template{ID: id, Name: "base", Public: true, CreatedAt: now, UpdatedAt: now},
		Builds:   []*domain.Build{{ID: domain.NewID(), TemplateID: id, State: domain.BuildReady, Platform: "linux/amd64", CreatedAt: now}},
	}
	return o
}

// Hold keeps new VMs pending until Release.
func (o *Orchestrator) Hold() { o.locked(func() { o.hold = true }) }

// Release lets pending VMs become ready.
func (o *Orchestrator) Release() {
	o.locked(func() {
		o.hold = false
		for _, v := range o.vms {
			o.converge(v)
		}
	})
}

// FailNext makes the next VM fail.
func (o *Orchestrator) FailNext(reason string) { o.locked(func() { o.fail = reason }) }

// FailNextStart makes a VM that is stopped stay so at its next start.
func (o *Orchestrator) FailNextStart(reason string) { o.locked(func() { o.noStart = reason }) }

// LoseLogs has the workers of all builds be away.
func (o *Orchestrator) LoseLogs() { o.locked(func() { o.noLogs = true }) }

// KeepMemory has VMs from now on made by a driver that saves memory.
func (o *Orchestrator) KeepMemory() { o.locked(func() { o.memory = true }) }

// RefuseSnapshots makes taking the next snapshots of a kind an error; nil: no more.
func (o *Orchestrator) RefuseSnapshots(kind domain.SnapshotKind, err error) {
	o.locked(func() { o.refused = map[domain.SnapshotKind]error{kind: err} })
}

// PanicOn makes a call panic: "usage" or "delete".
func (o *Orchestrator) PanicOn(call, text string) {
	o.locked(func() { o.panics = map[string]string{call: text} })
}

// Creates counts VMs that were really made.
func (o *Orchestrator) Creates() (n int) { o.locked(func() { n = o.creates }); return n }

// AwaitCreates waits until so many VMs were made.
func (o *Orchestrator) AwaitCreates(ctx context.Context, n int) error {
	return o.until(ctx, func() bool { return o.creates >= n })
}

// Built lists the template builds that were asked for.
func (o *Orchestrator) Built() (b []vmm.BuildTemplate) {
	o.locked(func() { b = slices.Clone(o.built) })
	return b
}

// Expose makes a VM's port lead to an address.
func (o *Orchestrator) Expose(id domain.ID, port uint16, addr string) {
	o.locked(func() { o.vms[id].ports[port] = addr })
}

// Away has a VM's worker give no sign of life any more.
func (o *Orchestrator) Away(id domain.ID) {
	now := time.Now().UTC()
	o.locked(func() { o.vms[id].UnreachableSince = &now })
}

// Back has a VM's worker back, which does what is wanted of the VM.
func (o *Orchestrator) Back(id domain.ID) {
	o.locked(func() {
		o.vms[id].UnreachableSince = nil
		o.converge(o.vms[id])
	})
}

// AwaitWish waits until something else is wanted of a VM.
func (o *Orchestrator) AwaitWish(ctx context.Context, id domain.ID, than domain.DesiredState) error {
	return o.until(ctx, func() bool { return o.vms[id].Desired != than })
}

// Token gives a VM's preview token.
func (o *Orchestrator) Token(id domain.ID) (t string) {
	o.locked(func() { t = o.vms[id].token })
	return t
}

// Env gives the environment that a VM was made with.
func (o *Orchestrator) Env(id domain.ID) (e map[string]string) {
	o.locked(func() { e = o.vms[id].env })
	return e
}

func (o *Orchestrator) locked(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	o.notify()
}

func (o *Orchestrator) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// until waits for cond, which runs under the lock.
func (o *Orchestrator) until(ctx context.Context, cond func() bool) error {
	for {
		o.mu.Lock()
		ok, changed := cond(), o.changed
		o.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (o *Orchestrator) emit(kind string, v *vm) {
	o.events = append(o.events, domain.Event{
		Seq: int64(len(o.events) + 1), ProjectID: v.ProjectID, Type: kind, Subject: v.ID, VMID: v.ID, Data: json.RawMessage(`{}`), At: time.Now().UTC(),
	})
}

// converge brings a VM to where it is wanted, under the lock.
func (o *Orchestrator) converge(v *vm) {
	if o.hold || v.Observed == domain.Failed || v.UnreachableSince != nil {
		return
	}
	now := time.Now().UTC()
	to := map[domain.DesiredState]domain.ObservedState{
		domain.WantRunning: domain.Running, domain.WantPaused: domain.Paused, domain.WantStopped: domain.Stopped, domain.WantDeleted: domain.Deleted,
	}[v.Desired]
	if v.Observed == to {
		return
	}
	if to == domain.Running && v.Observed != domain.Paused {
		v.Epoch++
		v.StartedAt = &now
	}
	v.Observed, v.UpdatedAt = to, now
	if to != domain.Running {
		for c := range v.conns {
			_ = c.Close()
		}
		v.conns = map[net.Conn]struct{}{}
	}
	if to == domain.Deleted {
		v.EndedAt = &now
		v.Tombstone = &domain.Tombstone{Cause: domain.CauseRequested, By: "test", At: now}
		for c := range v.watch {
			close(c)
		}
		v.watch = map[chan vmm.FileEvent]string{}
	}
	o.emit("vm."+string(to), v)
}

func (o *Orchestrator) find(by vmm.Caller, id domain.ID) (*vm, error) {
	v, ok := o.vms[id]
	if !ok || v.ProjectID != by.ProjectID {
		return nil, errors.New(errors.NotFound, "there is no VM %s", id)
	}
	return v, nil
}

func (o *Orchestrator) running(by vmm.Caller, id domain.ID) (*vm, error) {
	v, err := o.find(by, id)
	if err != nil {
		return nil, err
	}
	if v.Observed == domain.Paused && v.AutoResume {
		v.Desired = domain.WantRunning
		o.converge(v)
	}
	if v.Observed != domain.Running {
		return nil, errors.New(errors.Conflict, "the VM is %s", v.Observed)
	}
	if v.UnreachableSince != nil {
		return nil, errors.New(errors.Unavailable, "the VM cannot be reached: its worker is away").WithRetryAfter(5 * time.Second)
	}
	return v, nil
}
