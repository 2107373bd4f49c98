package service

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/archive"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ListArchives implements vmm.Archives.
func (s *Service) ListArchives(ctx context.Context, by vmm.Caller, p vmm.Page) (list vmm.List[*domain.Archive], err error) {
	err = s.store.View(ctx, func(tx storage.Tx) error {
		list, err = tx.Archives().List(ctx, by.ProjectID, p)
		return err
	})
	return list, err
}

// ReadArchive implements vmm.Archives.
func (s *Service) ReadArchive(ctx context.Context, by vmm.Caller, id domain.ID) (a *domain.Archive, records io.ReadCloser, err error) {
	err = s.store.View(ctx, func(tx storage.Tx) error {
		a, err = tx.Archives().Get(ctx, by.ProjectID, id)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	records, err = archive.Read(ctx, s.sealer, a)
	return a, records, err
}
