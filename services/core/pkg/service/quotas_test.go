package service_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// roomy is a worker that is never full: what refuses is the quota.
func roomy(c *service.Config) { c.Overcommit = service.Overcommit{} }

func quota(q domain.Quota) func(*service.Config) {
	return func(c *service.Config) { c.Quota = q }
}

func refusal(t *testing.T, err error, field string) *errors.Error {
	t.Helper()
	var e *errors.Error
	if !errors.As(err, &e) || e.Code != errors.QuotaExceeded || e.Field != field {
		t.Fatalf("got %v, want a refusal for %s", err, field)
	}
	return e
}

// Of creations at the limit that come all at once exactly as many pass as
// there is room for, whichever limit it is.
func TestQuotaHoldsUnderConcurrency(t *testing.T) {
	t.Parallel()
	const room, askers = 7, 32
	for name, q := range map[string]domain.Quota{
		"vms":                {VMs: room},
		"milli_cpu":          {MilliCPU: room*1000 + 999},
		"memory_bytes":       {MemoryBytes: room<<30 + 1},
		"disk_bytes":         {DiskBytes: room << 30},
		"creates_per_minute": {CreatesPerMinute: room},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, roomy, quota(q))
			var passed atomic.Int64
			var all sync.WaitGroup
			begin := make(chan struct{})
			for range askers {
				all.Go(func() {
					<-begin
					_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
					var e *errors.Error
					switch {
					case err == nil:
						passed.Add(1)
					case !errors.As(err, &e) || e.Code != errors.QuotaExceeded || e.Field != "quota."+name:
						t.Errorf("%v", err)
					}
				})
			}
			close(begin)
			all.Wait()
			if passed.Load() != room {
				t.Errorf("%d passed, %d are allowed", passed.Load(), room)
			}
		})
	}
}

func TestQuotaNamesLimitAndUse(t *testing.T) {
	t.Parallel()
	b := newBench(t, roomy, quota(domain.Quota{VMs: 2, CreatesPerMinute: 5}))
	for range 2 {
		_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		must(t, err)
	}
	_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	e := refusal(t, err, "quota.vms")
	if !strings.Contains(e.Message, "2 of 2 are taken") || e.RetryAfter != 0 || e.Hint == "" {
		t.Errorf("%+v", e)
	}
	// What is refused by its pace says when to come again.
	three := int64(3)
	admin := vmm.Caller{ProjectID: b.by.ProjectID, Admin: true}
	_, err = b.SetQuota(b.ctx, admin, "", domain.QuotaOverride{VMs: new(int64), CreatesPerMinute: &three})
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	if e = refusal(t, err, "quota.creates_per_minute"); e.RetryAfter <= 0 || e.RetryAfter > time.Minute {
		t.Errorf("retry after %s", e.RetryAfter)
	}
	q, err := b.GetQuota(b.ctx, b.by, "")
	must(t, err)
	if q.Limits.VMs != 0 || q.Limits.CreatesPerMinute != 3 || q.Use.VMs != 3 || q.Use.CreatesPerMinute != 3 || q.Use.MilliCPU != 3000 || q.Use.Templates != 1 {
		t.Errorf("%+v", q)
	}
}

// A stopped VM keeps its disk and its place, and gives CPU and memory back; to
// run again it needs them again.
func TestQuotaOfStoppedVMs(t *testing.T) {
	t.Parallel()
	b := newBench(t, roomy, quota(domain.Quota{VMs: 3, MemoryBytes: 1 << 30}))
	first, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	refusal(t, err, "quota.memory_bytes")

	// Stopping and not stopped yet, it may turn around: its share is its own still.
	must(t, b.observe(first.ID, domain.Running))
	_, err = b.StopVM(b.ctx, b.by, first.ID)
	must(t, err)
	_, err = b.StartVM(b.ctx, b.by, first.ID)
	must(t, err)

	_, err = b.StopVM(b.ctx, b.by, first.ID)
	must(t, err)
	must(t, b.observe(first.ID, domain.Stopped))
	second, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	_, err = b.StartVM(b.ctx, b.by, first.ID)
	refusal(t, err, "quota.memory_bytes")
	_, err = b.DeleteVM(b.ctx, b.by, second.ID)
	must(t, err)
	must(t, b.observe(second.ID, domain.Deleted))
	_, err = b.StartVM(b.ctx, b.by, first.ID)
	must(t, err)
}

// observe makes a VM what a worker would.
func (b *bench) observe(id domain.ID, s domain.ObservedState) error {
	return b.store.Update(b.ctx, func(tx storage.Tx) error {
		vm, err := tx.VMs().Get(b.ctx, storage.System, id)
		if err != nil {
			return err
		}
		if vm.Observed = s; s == domain.Deleted {
			vm.EndedAt = &vm.UpdatedAt
		}
		return tx.VMs().Update(b.ctx, vm)
	})
}

// Forks count each, and all or none are made.
func TestQuotaOfForks(t *testing.T) {
	t.Parallel()
	b := newBench(t, roomy, quota(domain.Quota{VMs: 4, Snapshots: 1}))
	origin, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	must(t, b.observe(origin.ID, domain.Running))
	_, err = b.ForkVM(b.ctx, b.by, origin.ID, 4, vmm.CreateVM{})
	refusal(t, err, "quota.vms")
	_, err = b.ForkVM(b.ctx, b.by, origin.ID, 3, vmm.CreateVM{}) // whose snapshot is nobody's share
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	refusal(t, err, "quota.vms")
	_, err = b.CreateSnapshot(b.ctx, b.by, origin.ID, vmm.CreateSnapshot{Name: "one"})
	must(t, err)
	_, err = b.CreateSnapshot(b.ctx, b.by, origin.ID, vmm.CreateSnapshot{Name: "two"})
	refusal(t, err, "quota.snapshots")
}

// A request that is repeated with its key takes nothing anew.
func TestQuotaOfRepeatedRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t, roomy, quota(domain.Quota{VMs: 1}))
	req := vmm.CreateVM{IdempotencyKey: "k", RequestDigest: "d"}
	first, err := b.CreateVM(b.ctx, b.by, req)
	must(t, err)
	again, err := b.CreateVM(b.ctx, b.by, req)
	must(t, err)
	if again.ID != first.ID {
		t.Errorf("%s and %s", first.ID, again.ID)
	}
}

func TestWhoseQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t, roomy)
	other := &domain.Project{ID: domain.NewID(), Name: "other", CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Projects().Insert(b.ctx, other) }))
	admin := vmm.Caller{ProjectID: b.by.ProjectID, Admin: true}
	one := int64(1)
	for _, name := range []string{"other", other.ID.String()} {
		if _, err := b.GetQuota(b.ctx, b.by, name); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("a stranger reads %s: %v", name, err)
		}
		q, err := b.SetQuota(b.ctx, admin, name, domain.QuotaOverride{VMs: &one})
		if err != nil || q.ProjectID != other.ID || q.Limits.VMs != 1 {
			t.Errorf("%s: %+v, %v", name, q, err)
		}
	}
	for _, own := range []string{"", "p", b.by.ProjectID.String()} {
		if q, err := b.GetQuota(b.ctx, b.by, own); err != nil || q.ProjectID != b.by.ProjectID || q.Limits.VMs != 0 {
			t.Errorf("%q: %+v, %v", own, q, err)
		}
	}
	if _, err := b.SetQuota(b.ctx, b.by, "", domain.QuotaOverride{}); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("no administrator sets: %v", err)
	}
	if _, err := b.SetQuota(b.ctx, admin, "absent", domain.QuotaOverride{}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("absent: %v", err)
	}
	bad := int64(-1)
	var e *errors.Error
	if _, err := b.SetQuota(b.ctx, admin, "", domain.QuotaOverride{DiskBytes: &bad}); !errors.As(err, &e) || e.Field != "body.disk_bytes" {
		t.Errorf("a bad limit: %v", err)
	}
}

// Creating in a project with many VMs costs the same with a quota as without,
// but for one sum over a covering index.
func BenchmarkCreateWithQuota(b *testing.B) {
	for _, n := range []int{0, 1000} {
		for _, q := range []domain.Quota{{}, {VMs: 1 << 30, MilliCPU: 1 << 50, MemoryBytes: 1 << 60, DiskBytes: 1 << 60, CreatesPerMinute: 1 << 30}} {
			b.Run(fmt.Sprintf("vms=%d/quota=%t", n, q.VMs > 0), func(b *testing.B) {
				l := newBench(b, roomy, quota(q))
				for range n {
					if _, err := l.CreateVM(l.ctx, l.by, vmm.CreateVM{}); err != nil {
						b.Fatal(err)
					}
				}
				for b.Loop() {
					if _, err := l.CreateVM(l.ctx, l.by, vmm.CreateVM{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
