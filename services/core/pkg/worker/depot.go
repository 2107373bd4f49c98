package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Depot has builds where all workers get them. *depot.Depot is one.
type Depot interface {
	Name() string
	Send(ctx context.Context, build domain.ID) (domain.Packed, error)
	Fetch(ctx context.Context, build domain.ID, rootfs domain.Artifact) (image.Result, error)
	Drop(ctx context.Context, p domain.Packed) error
	Held(ctx context.Context) ([]domain.ID, error)
	Collect(ctx context.Context, before time.Time, used func(context.Context) (map[string]bool, error)) (int, error)
}

const (
	collectEvery = time.Hour
	// collectAge is more than a build takes from sending its files to its row.
	collectAge = 24 * time.Hour
)

// stored is when what nobody uses was last removed from the storage.
type stored struct {
	mu   sync.Mutex
	last time.Time
}

// send has other workers get a build's files. Where that fails the build stays
// as good as it is: on this worker. The error is the context's.
func (w *Worker) send(ctx context.Context, build domain.ID) (*domain.Packed, error) {
	if w.Depot == nil {
		return nil, nil
	}
	p, err := w.Depot.Send(ctx, build)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		w.Log.Warn("a build is not in the storage; its VMs are made on this worker alone", "build", build, "error", err)
		w.builds.say(build, "warning: it is on this worker alone: "+errors.Public(err).Message)
		return nil, nil
	}
	w.builds.say(build, fmt.Sprintf("stored: %d bytes, %s", p.Bytes, p.Digest))
	return &p, nil
}

// rootFS gives a build's files, which are fetched once where another worker has
// made them. Returns NotFound, and what Depot.Fetch does.
func (w *Worker) rootFS(ctx context.Context, id domain.ID) (image.Result, error) {
	r, err := w.Images.Get(ctx, string(id))
	if !errors.HasCode(err, errors.NotFound) {
		return r, err
	}
	missing := errors.Wrap(err, errors.NotFound, "the template's root filesystem is not on this worker")
	if w.Depot == nil {
		return r, missing
	}
	defer w.fetches.lock(id)()
	if r, err = w.Images.Get(ctx, string(id)); !errors.HasCode(err, errors.NotFound) {
		return r, err // who had the lock has fetched it
	}
	b, err := w.loadBuild(ctx, id)
	if err != nil {
		return r, err
	}
	if b.Packed() == nil {
		return r, missing
	}
	begun := w.Now()
	if r, err = w.Depot.Fetch(ctx, id, *b.RootFS()); err != nil {
		return r, err
	}
	w.Log.Info("a build was fetched", "build", id, "bytes", b.Packed().Bytes, "took", w.Now().Sub(begun))
	if b.WorkerID == w.id {
		return r, nil
	}
	// Only what chooses workers goes by it.
	if err := w.Store.Update(ctx, func(tx storage.Tx) error { return tx.Builds().Copied(ctx, b, w.id) }); err != nil {
		w.Log.Warn("others do not know of a build that was fetched", "build", id, "error", err)
	}
	return r, nil
}

// sweepCopies removes builds of other workers that are gone by now.
func (w *Worker) sweepCopies(ctx context.Context) error {
	if w.Depot == nil {
		return nil
	}
	held, err := w.Depot.Held(ctx)
	for _, id := range held {
		if w.builds.needed(id) {
			continue
		}
		_, gone := w.loadBuild(ctx, id)
		if errors.HasCode(gone, errors.NotFound) {
			err = errors.Join(err, w.Images.Delete(ctx, string(id)))
		}
	}
	return err
}

// dropPacked removes a build from the storage; where it cannot, sweepStorage does.
func (w *Worker) dropPacked(ctx context.Context, b *domain.Build) {
	p := b.Packed()
	if w.Depot == nil || p == nil {
		return
	}
	if err := w.Depot.Drop(ctx, *p); err != nil {
		w.Log.Warn("a build is left in the storage", "build", b.ID, "error", err)
	}
}

// sweepStorage removes what is in the storage, and has been for long, of builds
// that are gone or never came to be.
func (w *Worker) sweepStorage(ctx context.Context) error {
	if w.Depot == nil || !w.stored.due(w.Now()) {
		return nil
	}
	removed, err := w.Depot.Collect(ctx, w.Now().Add(-collectAge), w.packed)
	if removed > 0 {
		w.Log.Info("builds that nobody uses were removed from the storage", "builds", removed)
	}
	return err
}

func (s *stored) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.last) < collectEvery {
		return false
	}
	s.last = now
	return true
}

// packed tells the digests of all builds that are in the storage.
func (w *Worker) packed(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	f := storage.BuildFilter{Page: storage.Page{Limit: storage.MaxPage}}
	for {
		var list storage.List[*domain.Build]
		err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
			list, err = tx.Builds().List(ctx, f)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, b := range list.Items {
			if p := b.Packed(); p != nil {
				used[p.Digest] = true
			}
		}
		if list.Next == "" {
			return used, nil
		}
		f.Cursor = list.Next
	}
}
