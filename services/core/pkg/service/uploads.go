package service

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// noteEvery is after how many bytes of an upload its row tells of them, and
	// noteAfter after how long it does in any case, until its worker has all of it.
	noteEvery = 16 << 20
	noteAfter = time.Minute
	// maxNoted is how long it may take until the next are there: an upload that
	// nobody notes any more, because the process has ended, counts no longer then.
	maxNoted = 10 * time.Minute
	// maxDrop bounds how long it may take to be rid of one that is not kept.
	maxDrop = 30 * time.Second
)

// SaveUpload implements vmm.Templates. It goes to a worker that would build from it;
// whichever builds is sent it.
func (s *Service) SaveUpload(ctx context.Context, by vmm.Caller, name string, r io.Reader) (*domain.Upload, error) {
	now := s.time()
	u := domain.Upload{ID: domain.NewID(), ProjectID: by.ProjectID, Name: name, CreatedAt: now, ExpiresAt: now.Add(maxNoted)}
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		u.WorkerID, err = s.worker(ctx, tx, s.config.BuildDriver)
		return err
	})
	if err != nil {
		return nil, err
	}
	node, err := s.reach(ctx, u.WorkerID)
	if err != nil {
		return nil, err
	}
	if err := s.store.Update(ctx, func(tx storage.Tx) error { return tx.Uploads().Insert(ctx, &u) }); err != nil {
		return nil, err
	}
	from := &arriving{ctx: ctx, s: s, row: u, r: r}
	stop := from.keepNoting()
	whole := u
	whole.SizeBytes, whole.SHA256, err = node.KeepUpload(ctx, u.ProjectID, u.ID, "", from)
	stop()
	after := context.WithoutCancel(ctx) // whoever sent it may have gone
	if err == nil {
		whole.ExpiresAt = now.Add(upload.TTL)
		err = s.store.Update(after, func(tx storage.Tx) error { return tx.Uploads().Update(after, &whole) })
	}
	if err != nil {
		s.dropUpload(after, node, from)
		return nil, err
	}
	return &whole, nil
}

// dropUpload is rid of an upload that is not kept, as far as anybody knows. Where its
// worker cannot be asked it may have all of it, and so it counts.
func (s *Service) dropUpload(ctx context.Context, node Node, from *arriving) {
	ctx, cancel := context.WithTimeout(ctx, maxDrop)
	defer cancel()
	row := from.noted()
	gone := node.DropUpload(ctx, row.ProjectID, row.ID)
	err := s.store.Update(ctx, func(tx storage.Tx) error {
		if gone == nil {
			return tx.Uploads().Delete(ctx, row.ProjectID, row.ID)
		}
		row.ExpiresAt = s.time().Add(upload.TTL)
		return tx.Uploads().Update(ctx, &row)
	})
	if err = errors.Join(gone, err); err != nil {
		s.log.WarnContext(ctx, "a broken upload counts until it has expired", "upload", row.ID, "error", err)
	}
}

// arriving is an upload on its way. What is on its way counts.
type arriving struct {
	ctx  context.Context
	s    *Service
	r    io.Reader
	left int64 // until it is noted again

	mu   sync.Mutex
	row  domain.Upload
	when time.Time // it was noted last
}

func (a *arriving) Read(p []byte) (int, error) {
	if a.left <= 0 {
		if err := a.note(); err != nil {
			return 0, err
		}
		a.left = noteEvery
	}
	n, err := a.r.Read(p)
	a.mu.Lock()
	a.row.SizeBytes += int64(n)
	a.mu.Unlock()
	a.left -= int64(n)
	return n, err
}

// note stores how much there is. While the database is away that waits for the next
// time, as long as what was noted before holds.
func (a *arriving) note() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.s.time()
	err := a.s.noteUpload(a.ctx, &a.row)
	if err == nil {
		a.when = now
	} else if errors.HasCode(err, errors.Unavailable) && now.Sub(a.when) < maxNoted/2 {
		err = nil
	}
	return err
}

// noted gives the row as it is.
func (a *arriving) noted() domain.Upload {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.row
}

// keepNoting notes it in time, until stop is called.
func (a *arriving) keepNoting() (stop func()) {
	ticks, done := time.NewTicker(noteAfter), make(chan struct{})
	var noting sync.WaitGroup
	noting.Go(func() {
		for {
			select {
			case <-ticks.C:
				_ = a.note() // what counts against it is told to who reads on
			case <-done:
				return
			}
		}
	})
	return func() {
		ticks.Stop()
		close(done)
		noting.Wait()
	}
}

// noteUpload stores how much of an upload there is. Returns QuotaExceeded where the
// project may have no more.
func (s *Service) noteUpload(ctx context.Context, u *domain.Upload) error {
	now, most := s.time(), s.config.MaxUploads
	u.ExpiresAt = now.Add(maxNoted)
	var held int64
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if err = tx.Uploads().Update(ctx, u); err == nil && most > 0 {
			held, err = tx.Uploads().Held(ctx, u.ProjectID, now)
		}
		return err
	})
	if err == nil && most > 0 && held >= most {
		return errors.New(errors.QuotaExceeded, "the project's quota of upload bytes is used up: %d of %d are taken", held, most).
			WithField("quota.uploads").WithHint("uploads are kept for a day; build from them, and wait")
	}
	return err
}

// NamedUpload implements vmm.Templates.
func (s *Service) NamedUpload(ctx context.Context, by vmm.Caller, name string) (u *domain.Upload, err error) {
	err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
		u, err = tx.Uploads().Named(ctx, by.ProjectID, name, s.time())
		return err
	})
	return u, err
}

// upload finds one that is whole. Returns NotFound.
func (s *Service) upload(ctx context.Context, by vmm.Caller, id domain.ID) (u *domain.Upload, err error) {
	err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
		u, err = tx.Uploads().Get(ctx, by.ProjectID, id, s.time())
		return err
	})
	if errors.HasCode(err, errors.NotFound) || err == nil && u.SHA256 == "" {
		return nil, errors.New(errors.NotFound, "there is no upload %s", id).WithHint("an upload is kept for a day")
	}
	return u, err
}

// OpenUpload implements vmm.Templates.
func (s *Service) OpenUpload(ctx context.Context, by vmm.Caller, id domain.ID) (io.ReadCloser, error) {
	u, err := s.upload(ctx, by, id)
	if err != nil {
		return nil, err
	}
	return s.openUpload(ctx, u)
}

func (s *Service) openUpload(ctx context.Context, u *domain.Upload) (io.ReadCloser, error) {
	node, err := s.reach(ctx, u.WorkerID)
	if err != nil {
		return nil, err
	}
	return node.OpenUpload(ctx, u.ProjectID, u.ID)
}

// uploadsOf finds what a source has by the IDs of uploads.
func (s *Service) uploadsOf(ctx context.Context, by vmm.Caller, src domain.TemplateSource) (all []*domain.Upload, err error) {
	for _, id := range []string{src.Tar, src.Context} {
		if !domain.IsID(id) {
			continue
		}
		u, err := s.upload(ctx, by, domain.ID(id))
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// builder chooses the worker for a build: one that has what was sent for it, if it
// takes any and has the driver.
func (s *Service) builder(ctx context.Context, tx storage.Tx, driver string, sent []*domain.Upload) (domain.ID, error) {
	for _, u := range sent {
		w, err := s.choose(ctx, tx, need{
			what: "build", bound: u.WorkerID, prefer: hasDriver(driver), free: freeMemory,
			unable: func(w *domain.Worker) error {
				if hasDriver(driver)(w) {
					return nil
				}
				return errors.New(errors.Unsupported, "the worker has no driver %q", driver)
			},
		})
		if err == nil {
			return w.ID, nil
		}
		switch errors.CodeOf(err) {
		case errors.CapacityExhausted, errors.Unavailable, errors.Unsupported: // another one is sent it
		default:
			return "", err
		}
	}
	return s.worker(ctx, tx, driver)
}

// bring has a worker have uploads that are on others.
func (s *Service) bring(ctx context.Context, to domain.ID, uploads []*domain.Upload) error {
	for _, u := range uploads {
		if u.WorkerID == to {
			continue
		}
		node, err := s.reach(ctx, to)
		if err != nil {
			return err
		}
		if has, err := node.OpenUpload(ctx, u.ProjectID, u.ID); err == nil { // of a build before
			if err := has.Close(); err != nil {
				return err
			}
			continue
		}
		r, err := s.openUpload(ctx, u)
		if err != nil {
			return err
		}
		_, _, err = node.KeepUpload(ctx, u.ProjectID, u.ID, u.SHA256, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}
