package worker

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Depot has builds and snapshots where all workers get them. *depot.Depot is one.
type Depot interface {
	Name() string
	Send(ctx context.Context, build domain.ID) (domain.Packed, error)
	Fetch(ctx context.Context, build domain.ID, rootfs domain.Artifact) (image.Result, error)
	SendSnapshot(ctx context.Context, s *domain.Snapshot, pack func(io.Writer) error) (domain.Packed, error)
	FetchSnapshot(ctx context.Context, s *domain.Snapshot, unpack func(io.Reader) error) error
	Drop(ctx context.Context, p domain.Packed) error
	Held(ctx context.Context) ([]domain.ID, error)
	Collect(ctx context.Context, before time.Time, used func(context.Context) (map[string]bool, error)) (int, error)
}

const (
	collectEvery = time.Hour
	// collectAge is more than it takes from sending files to a row that says so.
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

// dropPacked removes a build or a snapshot from the storage, if it is there; where
// it cannot, sweepStorage does.
func (w *Worker) dropPacked(ctx context.Context, what string, id domain.ID, p *domain.Packed) {
	if w.Depot == nil || p == nil {
		return
	}
	if err := w.Depot.Drop(ctx, *p); err != nil {
		w.Log.Warn("a "+what+" is left in the storage", what, id, "error", err)
	}
}

// sweepStorage removes what is in the storage, and has been for long, of builds
// and snapshots that are gone or never came to be.
func (w *Worker) sweepStorage(ctx context.Context) error {
	if w.Depot == nil || !w.stored.due(w.Now()) {
		return nil
	}
	removed, err := w.Depot.Collect(ctx, w.Now().Add(-collectAge), w.packed)
	if removed > 0 {
		w.Log.Info("what nobody uses was removed from the storage", "objects", removed)
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

// packed tells the digests of all builds and snapshots that are in the storage.
func (w *Worker) packed(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	note := func(p *domain.Packed) {
		if p != nil {
			used[p.Digest] = true
		}
	}
	err := each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.Build], error) {
		return tx.Builds().List(ctx, storage.BuildFilter{Page: p})
	}, func(b *domain.Build) { note(b.Packed()) })
	if err == nil {
		err = each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.Snapshot], error) {
			return tx.Snapshots().List(ctx, storage.SnapshotFilter{IncludeEphemeral: true, Page: p})
		}, func(s *domain.Snapshot) { note(s.Packed) })
	}
	return used, err
}

// each reads a list page by page, and does something with what is in it between
// the transactions.
func each[T any](ctx context.Context, s storage.Store, list func(storage.Tx, storage.Page) (storage.List[T], error), do func(T)) error {
	for p := (storage.Page{Limit: storage.MaxPage}); ; {
		var l storage.List[T]
		err := s.View(ctx, func(tx storage.Tx) (err error) {
			l, err = list(tx, p)
			return err
		})
		if err != nil {
			return err
		}
		for _, item := range l.Items {
			do(item)
		}
		if l.Next == "" {
			return nil
		}
		p.Cursor = l.Next
	}
}
