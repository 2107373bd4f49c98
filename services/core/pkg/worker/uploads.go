package worker

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
)

func (w *Worker) openUploads() (err error) {
	w.uploads, err = upload.Open(filepath.Join(w.config.DataDir, "uploads"), w.Now)
	if err != nil {
		err = errors.Wrap(err, errors.Internal, "the directory of uploads cannot be made")
	}
	return err
}

// KeepUpload implements service.Node.
func (w *Worker) KeepUpload(ctx context.Context, project, id domain.ID, want string, r io.Reader) (bytes int64, sum string, err error) {
	return w.uploads.Keep(ctx, project, id, want, r)
}

// DropUpload implements service.Node.
func (w *Worker) DropUpload(_ context.Context, project, id domain.ID) error {
	return w.uploads.Drop(project, id)
}

// OpenUpload implements service.Node.
func (w *Worker) OpenUpload(_ context.Context, project, id domain.ID) (io.ReadCloser, error) {
	path, err := w.uploads.Path(project, id)
	if err != nil {
		return nil, err
	}
	return os.Open(path) //nolint:gosec // of IDs
}

// found is a build's source with the paths here of what it has by the IDs of uploads.
func (w *Worker) found(b *domain.Build) (domain.TemplateSource, error) {
	src := b.Source
	for _, at := range []*string{&src.Tar, &src.Context} {
		if !domain.IsID(*at) {
			continue
		}
		path, err := w.uploads.Path(b.ProjectID, domain.ID(*at))
		if err != nil {
			return src, err
		}
		*at = path
	}
	return src, nil
}
