package vmm

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Ahead is what a request says that it is about, before it is known whose it is.
// Who finds that out may read the VM in the same statement: a round trip to the
// database is a good part of what short requests take. Nobody has to. It is safe
// for concurrent use; a nil one is about nothing.
type Ahead struct {
	vm, execution domain.ID

	mu    sync.Mutex
	begun bool
	row   *domain.VM // until it is taken
	at    time.Time  // when it was read
	used  bool       // the execution's ID, by an execution of any VM
}

type aheadKey struct{}

// WithAhead has a request be about a VM, and the execution that it is to start
// there; empty: none, or it is not known.
func WithAhead(ctx context.Context, vm, execution domain.ID) context.Context {
	return context.WithValue(ctx, aheadKey{}, &Ahead{vm: vm, execution: execution})
}

// AheadOf gives what a request is about.
func AheadOf(ctx context.Context) *Ahead {
	a, _ := ctx.Value(aheadKey{}).(*Ahead)
	return a
}

// Begin gives what is to be read, once: what is read later might be taken for
// what was read when it was needed.
func (a *Ahead) Begin() (vm, execution domain.ID, ok bool) {
	if a == nil {
		return "", "", false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		return "", "", false
	}
	a.begun = true
	return a.vm, a.execution, true
}

// Found keeps what was read.
func (a *Ahead) Found(vm *domain.VM, used bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.row, a.used, a.at = vm, used, time.Now()
}

// aheadLasts is how long what was read is as good as what is read now. A request's
// body may take its time to come, and the VM be paused or deleted meanwhile.
const aheadLasts = 100 * time.Millisecond

// Take gives a VM that was read, once, or nil: it was not, or long ago, or is another
// project's. With an execution it is one that is known not to have been started,
// in this VM or another.
func (a *Ahead) Take(project, vm, execution domain.ID) *domain.VM {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	row := a.row
	a.row = nil
	if row == nil || time.Since(a.at) > aheadLasts || row.ProjectID != project || row.ID != vm || execution != "" && (execution != a.execution || a.used) {
		return nil
	}
	return row
}
