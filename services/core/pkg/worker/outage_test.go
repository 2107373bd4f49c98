package worker_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// unsure is a store whose connection breaks: of one transaction the answer is
// lost, and it may have been committed; the next ones do not get there.
type unsure struct {
	storage.Store
	mu        sync.Mutex
	left      int // until it breaks; 0: it does not
	committed bool
	away      int // transactions after that
}

func (u *unsure) breakAfter(n int, committed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.left, u.committed, u.away = n, committed, 3
}

// View implements storage.Store.
func (u *unsure) View(ctx context.Context, f func(storage.Tx) error) error {
	return u.look(func() error { return u.Store.View(ctx, f) })
}

// Read implements storage.Store.
func (u *unsure) Read(ctx context.Context, f func(storage.Tx) error) error {
	return u.look(func() error { return u.Store.Read(ctx, f) })
}

func (u *unsure) look(do func() error) error {
	u.mu.Lock()
	gone := u.left == 0 && u.away > 0
	if gone {
		u.away--
	}
	u.mu.Unlock()
	if gone {
		return errors.New(errors.Unavailable, "the database cannot be reached: the connection broke")
	}
	return do()
}

// stayAway sets how many transactions do not get there after it has broken.
func (u *unsure) stayAway(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.away = n
}

// creations is a driver that counts the machines it makes.
type creations struct {
	*fake.Driver
	made atomic.Int64
}

func (c *creations) Create(ctx context.Context, spec vmm.Spec) (vmm.Handle, error) {
	c.made.Add(1)
	return c.Driver.Create(ctx, spec)
}

// deletions is a driver that notes which machines are deleted.
type deletions struct {
	*fake.Driver
	mu  sync.Mutex
	ids []string
}

func (d *deletions) Delete(ctx context.Context, id string) error {
	d.mu.Lock()
	d.ids = append(d.ids, id)
	d.mu.Unlock()
	return d.Driver.Delete(ctx, id)
}

func (d *deletions) has(id domain.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.ids, string(id))
}

func (u *unsure) over() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.left == 0 && u.away == 0
}

func (u *unsure) Update(ctx context.Context, f func(storage.Tx) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	gone := errors.New(errors.Unavailable, "the database cannot be reached: the connection broke")
	switch {
	case u.left > 1:
		u.left--
	case u.left == 1:
		u.left = 0
		if u.committed {
			if err := u.Store.Update(ctx, f); err != nil {
				return err
			}
		}
		return gone
	case u.away > 0:
		u.away--
		return gone
	}
	return u.Store.Update(ctx, f)
}

// works runs a command as soon as the VM can be talked to.
func (b *bed) works(vm domain.ID) {
	b.t.Helper()
	for {
		x, err := b.StartExecution(b.ctx, b.by, vm, vmm.StartExecution{Command: domain.Command{Args: []string{"echo", "works"}}})
		if errors.HasCode(err, errors.Unavailable) && b.ctx.Err() == nil {
			time.Sleep(time.Millisecond) // as who was told to come again
			continue
		}
		must(b.t, err)
		if out := b.output(x.ID); out != "works\n" {
			b.t.Errorf("%q", out)
		}
		return
	}
}

// Whether the connection to the database breaks as a VM gets its machine or as
// it comes to run, and whether the database has done what it was asked for or
// not: the VM runs, once.
func TestAVMIsMadeWhileTheDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pool int
		env  map[string]string // with one, the machine is claimed before the VM runs
	}{{0, nil}, {1, nil}, {1, map[string]string{"A": "b"}}} {
		pool := tc.pool
		for _, committed := range []bool{true, false} {
			for at := 1; at <= 2; at++ {
				t.Run(fmt.Sprintf("pool %d, %d in its environment, committed %t, transaction %d", pool, len(tc.env), committed, at), func(t *testing.T) {
					t.Parallel()
					store := new(unsure)
					b := newPoolBed(t, pool, pool)
					b.down()
					store.Store = b.store
					driver := new(deletions)
					b.deps = func(d *worker.Deps) {
						d.Store, driver.Driver = store, d.Drivers["fake"].(*fake.Driver)
						d.Drivers["fake"] = driver
					}
					b.up()
					if pool > 0 {
						b.running(vmm.CreateVM{})
						b.ready(1)
					}
					store.breakAfter(at, committed)
					vm := b.running(vmm.CreateVM{Name: "it", Env: tc.env})
					for !store.over() {
						b.works(vm.ID)
					}
					b.works(vm.ID)
					now, err := b.GetVM(b.ctx, b.by, vm.ID)
					must(t, err)
					if now.Observed != domain.Running || now.Epoch != 1 || now.MachineID != vm.MachineID {
						t.Errorf("%+v", now)
					}
					if driver.has(vm.MachineID) {
						t.Error("the machine that it ran in is gone")
					}
					_, err = b.DeleteVM(b.ctx, b.by, vm.ID)
					must(t, err)
					_, err = b.WaitVM(b.ctx, b.by, vm.ID)
					must(t, err)
					if pool > 0 {
						b.running(vmm.CreateVM{})
						b.ready(1) // and nothing that was reserved and is nobody's
					}
				})
			}
		}
	}
}

// A machine from the pool whose VM could not be written, and whose worker was killed
// then, is the pool's as before: the VM gets one, and so does the next.
func TestAReservedMachineIsTakenUp(t *testing.T) {
	t.Parallel()
	store := new(unsure)
	b := newPoolBed(t, 2, 1)
	b.down()
	store.Store = b.store
	b.deps = func(d *worker.Deps) { d.Store = store }
	b.up()
	b.running(vmm.CreateVM{})
	b.ready(2)
	left := b.unclaimed()
	store.breakAfter(1, false)
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Name: "it"})
	must(t, err)
	for { // until its transaction was lost
		store.mu.Lock()
		broke := store.left == 0
		store.mu.Unlock()
		if broke {
			break
		}
		must(t, b.ctx.Err())
		time.Sleep(time.Millisecond)
	}
	b.crash()
	store.mu.Lock()
	store.away = 0
	store.mu.Unlock()
	b.up()
	vm, err = b.WaitVM(b.ctx, b.by, vm.ID)
	must(t, err)
	b.works(vm.ID)
	if got := b.node.Hostname(string(vm.MachineID)); got != vm.Spec.Hostname {
		t.Errorf("its hostname is %q, want %q", got, vm.Spec.Hostname)
	}
	next := b.running(vmm.CreateVM{Hostname: "next"})
	b.works(next.ID)
	if got := b.node.Hostname(string(next.MachineID)); got != "next" || next.MachineID == vm.MachineID {
		t.Errorf("the next one's hostname is %q, its machine %s", got, next.MachineID)
	}
	b.ready(2)
	if now := b.unclaimed(); slices.Contains(now, vm.MachineID) || slices.Contains(now, next.MachineID) {
		t.Errorf("in the pool are %v; left were %v", now, left)
	}
}

// A pool that cannot be filled while the database is away keeps what it has, and is
// full again when the database is back, whether or not anybody asks for a VM then.
func TestThePoolOutlivesAnOutage(t *testing.T) {
	t.Parallel()
	for _, committed := range []bool{true, false} {
		t.Run(fmt.Sprintf("committed %t", committed), func(t *testing.T) {
			t.Parallel()
			store, driver := new(unsure), new(creations)
			b := newPoolBed(t, 2, 1)
			b.down()
			store.Store = b.store
			b.deps = func(d *worker.Deps) {
				d.Store, driver.Driver = store, d.Drivers["fake"].(*fake.Driver)
				d.Drivers["fake"] = driver
			}
			b.up()
			b.running(vmm.CreateVM{})
			b.ready(2)
			had := b.unclaimed()
			store.breakAfter(2, committed) // the first says that the VM runs, the second is of the next machine
			store.stayAway(8)
			before := driver.made.Load()
			vm := b.running(vmm.CreateVM{})
			for !store.over() {
				must(t, b.ctx.Err())
				time.Sleep(time.Millisecond)
			}
			if n := driver.made.Load() - before; n > 2 { // the last may be of a moment ago
				t.Errorf("%d machines were made while nobody could write them down", n)
			}
			b.ready(2)
			now := b.unclaimed()
			for _, id := range had {
				if id != vm.MachineID && !slices.Contains(now, id) {
					t.Errorf("the machine %s was given up; had %v, has %v", id, had, now)
				}
			}
			for range 2 {
				b.fromPool(b.running(vmm.CreateVM{}))
			}
		})
	}
}
