package service

import (
	"context"
	"io"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// noteEvery is after how many bytes of an upload its row tells of them, and
	// noteAfter after how long it does in any case.
	noteEvery = 16 << 20
	noteAfter = time.Minute
	// maxNoted is how long it may take until the next are there: an upload that
	// nobody notes any more, because the process has ended, counts no longer then.
	maxNoted = 10 * time.Minute
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
	whole := u
	whole.SizeBytes, whole.SHA256, err = node.KeepUpload(ctx, u.ProjectID, u.ID, &arriving{ctx: ctx, s: s, row: u, r: r})
	if err == nil {
		whole.ExpiresAt = now.Add(upload.TTL)
		err = s.store.Update(ctx, func(tx storage.Tx) error { return tx.Uploads().Update(ctx, &whole) })
	}
	if err != nil {
		// Were it to stay, it would count until it has expired.
		forget := context.WithoutCancel(ctx)
		gone := s.store.Update(forget, func(tx storage.Tx) error { return tx.Uploads().Delete(forget, u.ProjectID, u.ID) })
		if gone != nil {
			s.log.WarnContext(ctx, "the row of a broken upload stays until it has expired", "upload", u.ID, "error", gone)
		}
		return nil, err
	}
	return &whole, nil
}

// arriving is an upload on its way. What is on its way counts.
type arriving struct {
	ctx  context.Context
	s    *Service
	row  domain.Upload
	r    io.Reader
	left int64     // until it is noted again
	when time.Time // at the latest
}

func (a *arriving) Read(p []byte) (int, error) {
	if now := a.s.time(); a.left <= 0 || now.After(a.when) {
		if err := a.s.noteUpload(a.ctx, &a.row); err != nil {
			return 0, err
		}
		a.left, a.when = noteEvery, now.Add(noteAfter)
	}
	n, err := a.r.Read(p)
	a.row.SizeBytes += int64(n)
	a.left -= int64(n)
	return n, err
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
		_, sum, err := node.KeepUpload(ctx, u.ProjectID, u.ID, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if sum != u.SHA256 {
			return errors.New(errors.Internal, "the upload %s came to be another on its way", u.ID)
		}
	}
	return nil
}
