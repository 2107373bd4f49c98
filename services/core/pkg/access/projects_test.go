package access_test

import (
	"context"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// turns is a store that tells how many spans of usage each turn to write removes at
// most, and is told before each.
type turns struct {
	storage.Store
	project domain.ID
	begins  func()
	most    float64
}

func (s *turns) spans(ctx context.Context, tx storage.Tx) (float64, error) {
	sum, err := tx.Usage().Sum(ctx, storage.UsageFilter{ProjectID: s.project})
	return sum.CPUSeconds, err // each has used one
}

func (s *turns) Update(ctx context.Context, f func(storage.Tx) error) error {
	s.begins()
	return s.Store.Update(ctx, func(tx storage.Tx) error {
		before, err := s.spans(ctx, tx)
		if err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		after, err := s.spans(ctx, tx)
		s.most = max(s.most, before-after)
		return err
	})
}

// A project with a long past goes in turns that others can wait for, and one whose
// deletion was cut short goes when it is deleted again.
func TestALargeProjectGoesInSmallTurns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const n = 3500
	now := b.clock()
	spans := make([]domain.Usage, n)
	for i := range spans {
		from := now.Add(time.Duration(i) * time.Second)
		spans[i] = domain.Usage{ProjectID: b.other, VMID: domain.NewID(), From: from, To: from.Add(time.Second), CPUSeconds: 1}
	}
	kept := spans[0]
	kept.ProjectID = b.admin.ProjectID
	b.update(func(tx storage.Tx) error { return tx.Usage().Record(t.Context(), append(spans, kept)...) })

	ctx, cut := context.WithCancel(t.Context())
	s := &turns{Store: b.store, project: b.other}
	begun := 0
	s.begins = func() {
		if begun++; begun == 3 {
			cut()
		}
	}
	b.deps.Store = s
	service := access.New(b.deps)
	if err := service.DeleteProject(ctx, b.admin, "other"); !errors.Is(err, context.Canceled) {
		t.Fatalf("cut short: %v", err)
	}
	left := func(project domain.ID) (sum domain.Usage) {
		t.Helper()
		if err := b.store.View(t.Context(), func(tx storage.Tx) (err error) {
			sum, err = tx.Usage().Sum(t.Context(), storage.UsageFilter{ProjectID: project})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if some := left(b.other).CPUSeconds; some == 0 || some == n {
		t.Errorf("%v spans are left of %d", some, n)
	}
	if _, err := service.GetProject(t.Context(), b.admin, "other"); err != nil {
		t.Errorf("half gone: %v", err)
	}
	if err := service.DeleteProject(t.Context(), b.admin, "other"); err != nil {
		t.Fatal(err)
	}
	if left(b.other).CPUSeconds != 0 || left(b.admin.ProjectID).CPUSeconds != 1 {
		t.Errorf("%+v is left, and %+v of another", left(b.other), left(b.admin.ProjectID))
	}
	if s.most > 1000 {
		t.Errorf("%v spans go in one turn", s.most)
	}
}
