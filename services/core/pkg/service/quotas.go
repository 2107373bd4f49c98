package service

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// quotaWindow is what creations are counted in.
const quotaWindow = time.Minute

// ErrBeyondQuota is the cause of a refusal of what is more than the quota is in
// all: it would not be given if nothing were taken.
var ErrBeyondQuota = errors.Plain("it is more than the quota is in all")

// withinQuota checks that a project may have more, in the transaction that
// gives it more, so that two requests never take the same share. A VM that is
// itself counted already is left out of what the project has.
// Returns QuotaExceeded, with RetryAfter where time alone helps, and with the cause
// ErrBeyondQuota where nothing does.
func (s *Service) withinQuota(ctx context.Context, tx storage.Tx, project domain.ID, more domain.Quota, except domain.ID) error {
	override, err := tx.Quotas().Override(ctx, project)
	if err != nil {
		return err
	}
	limits := override.Over(s.config.Quota)
	if limits.CreatesPerMinute > 0 && more.CreatesPerMinute > 0 {
		if err := s.withinPace(ctx, tx, project, limits.CreatesPerMinute, more.CreatesPerMinute); err != nil {
			return err
		}
	}
	limits.CreatesPerMinute = 0
	if asked := bounded(limits, more); asked.VMs+asked.MilliCPU+asked.MemoryBytes+asked.DiskBytes > 0 {
		held, err := tx.Quotas().Held(ctx, project, except)
		if err != nil {
			return err
		}
		if err := exceeded(limits, held, more); err != nil {
			return err
		}
	}
	if asked := bounded(limits, more); asked.Snapshots+asked.Templates > 0 {
		var kept domain.Quota
		if kept.Snapshots, kept.Templates, err = tx.Quotas().Kept(ctx, project); err != nil {
			return err
		}
		return exceeded(limits, kept, more)
	}
	return nil
}

// quotaParts names what a quota is made of.
var quotaParts = []struct {
	field, what string
	of          func(domain.Quota) int64
}{
	{"vms", "VMs", func(q domain.Quota) int64 { return q.VMs }},
	{"milli_cpu", "CPU (thousandths of a core)", func(q domain.Quota) int64 { return q.MilliCPU }},
	{"memory_bytes", "memory bytes", func(q domain.Quota) int64 { return q.MemoryBytes }},
	{"disk_bytes", "disk bytes", func(q domain.Quota) int64 { return q.DiskBytes }},
	{"snapshots", "snapshots", func(q domain.Quota) int64 { return q.Snapshots }},
	{"templates", "templates", func(q domain.Quota) int64 { return q.Templates }},
}

// bounded is more where there is a limit at all: what need not be counted is not.
func bounded(limits, more domain.Quota) domain.Quota {
	keep := func(limit, n int64) int64 { return n * min(limit, 1) }
	return domain.Quota{
		VMs: keep(limits.VMs, more.VMs), MilliCPU: keep(limits.MilliCPU, more.MilliCPU),
		MemoryBytes: keep(limits.MemoryBytes, more.MemoryBytes), DiskBytes: keep(limits.DiskBytes, more.DiskBytes),
		Snapshots: keep(limits.Snapshots, more.Snapshots), Templates: keep(limits.Templates, more.Templates),
	}
}

// exceeded names the first limit that does not hold.
func exceeded(limits, use, more domain.Quota) error {
	for _, p := range quotaParts {
		limit, used, asked := p.of(limits), p.of(use), p.of(more)
		// Who asks for nothing more of a thing is not refused because of it.
		if limit == 0 || asked == 0 || asked <= limit-used {
			continue
		}
		if asked > limit {
			return errors.Wrap(ErrBeyondQuota, errors.QuotaExceeded, "the project's quota of %s is %d in all (%d are taken), and %d more were asked for", p.what, limit, used, asked).
				WithField("quota." + p.field).WithHint("ask for less, or have an administrator raise the quota (`aetherium quota` shows it)")
		}
		return errors.New(errors.QuotaExceeded, "the project's quota of %s is used up: %d of %d are taken, and %d more were asked for", p.what, used, limit, asked).
			WithField("quota." + p.field).WithHint("delete what is not needed, or have an administrator raise the quota (`aetherium quota` shows it)")
	}
	return nil
}

// withinPace checks how many VMs a project made in the last minute.
func (s *Service) withinPace(ctx context.Context, tx storage.Tx, project domain.ID, limit, more int64) error {
	refused := errors.New(errors.QuotaExceeded, "the project may make %d VMs in a minute, and %d more were asked for", limit, more).
		WithField("quota.creates_per_minute")
	if more > limit {
		refused.Err = ErrBeyondQuota
		return refused.WithHint("ask for fewer at a time")
	}
	now := s.time()
	// When this one has left the window there is room.
	last, found, err := tx.Quotas().NthCreated(ctx, project, limit-more+1, now.Add(-quotaWindow))
	if err != nil || !found {
		return err
	}
	wait := min(max(last.Add(quotaWindow).Sub(now), time.Millisecond), quotaWindow)
	return refused.WithRetryAfter(wait).WithHint("wait, or have an administrator raise the quota (`aetherium quota` shows it)")
}

// quotaOf is what VMs count for.
func quotaOf(vms ...*domain.VM) domain.Quota {
	q := domain.Quota{VMs: int64(len(vms)), CreatesPerMinute: int64(len(vms))}
	for _, vm := range vms {
		r := vm.Spec.Resources
		q.MilliCPU += r.MilliCPU
		q.MemoryBytes += r.MemoryBytes
		q.DiskBytes += r.DiskBytes
	}
	return q
}

// project finds the project that a caller may look at: its own, or for
// administrators any, by ID or name. Returns NotFound.
func (s *Service) project(ctx context.Context, tx storage.Tx, by vmm.Caller, idOrName string) (domain.ID, error) {
	if idOrName == "" || idOrName == by.ProjectID.String() {
		return by.ProjectID, nil
	}
	find := func() (*domain.Project, error) { return tx.Projects().ByName(ctx, idOrName) }
	if domain.IsID(idOrName) {
		find = func() (*domain.Project, error) { return tx.Projects().Get(ctx, domain.ID(idOrName)) }
	}
	p, err := find()
	switch {
	case err == nil && (by.Admin || p.ID == by.ProjectID):
		return p.ID, nil
	case err != nil && !errors.HasCode(err, errors.NotFound):
		return "", err
	}
	return "", notFound("project", idOrName)
}

// GetQuota implements vmm.Quotas.
func (s *Service) GetQuota(ctx context.Context, by vmm.Caller, project string) (domain.ProjectQuota, error) {
	var out domain.ProjectQuota
	err := s.store.View(ctx, func(tx storage.Tx) error {
		id, err := s.project(ctx, tx, by, project)
		if err != nil {
			return err
		}
		out, err = s.quota(ctx, tx, id)
		return err
	})
	return out, err
}

func (s *Service) quota(ctx context.Context, tx storage.Tx, project domain.ID) (domain.ProjectQuota, error) {
	out := domain.ProjectQuota{ProjectID: project}
	var err error
	if out.Override, err = tx.Quotas().Override(ctx, project); err != nil {
		return out, err
	}
	out.Limits = out.Override.Over(s.config.Quota)
	if out.Use, err = tx.Quotas().Held(ctx, project, ""); err != nil {
		return out, err
	}
	if out.Use.CreatesPerMinute, err = tx.Quotas().Created(ctx, project, s.time().Add(-quotaWindow)); err != nil {
		return out, err
	}
	out.Use.Snapshots, out.Use.Templates, err = tx.Quotas().Kept(ctx, project)
	return out, err
}

// SetQuota implements vmm.Quotas.
func (s *Service) SetQuota(ctx context.Context, by vmm.Caller, project string, o domain.QuotaOverride) (domain.ProjectQuota, error) {
	var out domain.ProjectQuota
	if !by.Admin {
		return out, errors.New(errors.PermissionDenied, "quotas are set by administrators")
	}
	if err := o.Over(domain.Quota{}).Validate("body"); err != nil {
		return out, err
	}
	err := s.store.Update(ctx, func(tx storage.Tx) error {
		id, err := s.project(ctx, tx, by, project)
		if err != nil {
			return err
		}
		if err := tx.Quotas().PutOverride(ctx, id, o); err != nil {
			return err
		}
		out, err = s.quota(ctx, tx, id)
		return err
	})
	return out, err
}
