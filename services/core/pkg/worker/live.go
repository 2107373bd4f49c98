package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// live is the VMs that this worker holds a session with.
type live struct {
	mu   sync.RWMutex
	byID map[domain.ID]*liveVM
}

// liveVM is one VM with its session.
type liveVM struct {
	id      domain.ID
	machine domain.ID
	epoch   int64 // of its session; the row may get it later
	client  *guest.Client
	session *guest.Session
	named   *outcome // what gives the machine its name: nobody talks to it before

	vm        atomic.Pointer[domain.VM] // as last written; never changed in place
	phases    atomic.Pointer[[]vmm.Phase]
	suspended atomic.Bool  // paused, or about to be
	lastUsed  atomic.Int64 // unix nanoseconds
	inUse     atomic.Int64 // calls, connections and executions under way

	meterMu sync.Mutex
	meter   vmm.Usage
	metAt   time.Time
}

func (l *liveVM) row() *domain.VM { return l.vm.Load() }

// use marks the VM as in use until the returned function is called.
func (l *liveVM) use(now time.Time) func(time.Time) {
	l.inUse.Add(1)
	l.lastUsed.Store(now.UnixNano())
	var once sync.Once
	return func(now time.Time) {
		once.Do(func() {
			l.lastUsed.Store(now.UnixNano())
			l.inUse.Add(-1)
		})
	}
}

// metered keeps a sample and returns the one before; a zero time when there was none.
func (l *liveVM) metered(now vmm.Usage) (before vmm.Usage, since time.Time) {
	l.meterMu.Lock()
	defer l.meterMu.Unlock()
	before, since = l.meter, l.metAt
	l.meter, l.metAt = now, now.At
	return before, since
}

// reach finds a VM that can be talked to, once its machine has its name. Returns
// Unavailable.
func (v *live) reach(ctx context.Context, id domain.ID) (*liveVM, error) {
	l := v.find(id)
	if l != nil && l.named.wait(ctx) == nil {
		return l, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, errors.New(errors.Unavailable, "the VM cannot be talked to at the moment").WithHint("try again")
}

func (v *live) find(id domain.ID) *liveVM {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.byID[id]
}

// get returns a VM's row as last written.
func (v *live) get(id domain.ID) (*domain.VM, bool) {
	if l := v.find(id); l != nil {
		return l.row(), true
	}
	return nil, false
}

func (v *live) add(l *liveVM) (replaced *liveVM) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.byID == nil {
		v.byID = make(map[domain.ID]*liveVM)
	}
	replaced = v.byID[l.id]
	v.byID[l.id] = l
	return replaced
}

func (v *live) all() []*liveVM {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*liveVM, 0, len(v.byID))
	for _, l := range v.byID {
		out = append(out, l)
	}
	return out
}

func (v *live) attached(id, machine domain.ID) bool {
	l := v.find(id)
	return l != nil && l.machine == machine
}

// refresh takes over a row that was written, unless a newer one was.
func (v *live) refresh(vm *domain.VM) {
	l := v.find(vm.ID)
	if l == nil {
		return
	}
	if vm.Epoch < l.epoch { // written while it starts: what runs in it is of the epoch that begins
		next := *vm
		next.Epoch, vm = l.epoch, &next
	}
	for {
		old := l.vm.Load()
		if old.Revision > vm.Revision || l.vm.CompareAndSwap(old, vm) {
			return
		}
	}
}

func (v *live) suspend(id domain.ID) {
	if l := v.find(id); l != nil {
		l.suspended.Store(true)
	}
}

func (v *live) unsuspend(id domain.ID) {
	if l := v.find(id); l != nil {
		l.suspended.Store(false)
	}
}

// lastUsed says when a VM was last in use: now for one in use, or the zero
// time for one that nobody has used yet.
func (v *live) lastUsed(id domain.ID, now time.Time) time.Time {
	l := v.find(id)
	if l == nil {
		return time.Time{}
	}
	if l.inUse.Load() > 0 {
		return now
	}
	if ns := l.lastUsed.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// close ends a VM's session for good: executions without an end are lost for reason.
func (v *live) close(ctx context.Context, id domain.ID, reason string) {
	v.mu.Lock()
	l := v.byID[id]
	delete(v.byID, id)
	v.mu.Unlock()
	if l != nil {
		l.session.Gone(ctx, reason)
		l.client.Close()
	}
}

// rest lets go of a VM's session; its executions go on when it does.
func (v *live) rest(id domain.ID) {
	v.mu.Lock()
	l := v.byID[id]
	delete(v.byID, id)
	v.mu.Unlock()
	if l != nil {
		l.session.Close()
		l.client.Close()
	}
}

func (v *live) forget(id domain.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.byID, id)
}

// closeAll lets go of every session; the VMs and their executions run on.
func (v *live) closeAll() {
	v.mu.Lock()
	all := v.byID
	v.byID = nil
	v.mu.Unlock()
	for _, l := range all {
		l.session.Close()
		l.client.Close()
	}
}
