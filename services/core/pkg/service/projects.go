package service

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// EmptyProject removes what a project without VMs still has on nodes: the data
// of its snapshots, of builds that nobody else uses, and the output of what ran
// in it. The rest of its rows is for the caller to remove.
func (s *Service) EmptyProject(ctx context.Context, project domain.ID) error {
	by := vmm.Caller{ProjectID: project, Name: "server"}
	var snapshots []*domain.Snapshot
	var templates []*domain.Template
	err := s.store.View(ctx, func(tx storage.Tx) error {
		all := storage.Page{Limit: storage.MaxPage}
		for {
			list, err := tx.Snapshots().List(ctx, storage.SnapshotFilter{ProjectID: project, IncludeEphemeral: true, Page: all})
			if err != nil {
				return err
			}
			snapshots = append(snapshots, list.Items...)
			if all.Cursor = list.Next; list.Next == "" {
				break
			}
		}
		for {
			list, err := tx.Templates().List(ctx, storage.TemplateFilter{ProjectID: project, Page: all})
			if err != nil {
				return err
			}
			templates = append(templates, list.Items...)
			if all.Cursor = list.Next; list.Next == "" {
				return nil
			}
		}
	})
	if err != nil {
		return err
	}
	for _, snap := range snapshots {
		if err := s.DeleteSnapshot(ctx, by, snap.ID); err != nil && !errors.HasCode(err, errors.NotFound) {
			return err
		}
	}
	for _, tmpl := range templates {
		if err := s.DeleteTemplate(ctx, by, tmpl.ID.String()); err != nil && !errors.HasCode(err, errors.NotFound) {
			return err
		}
	}
	return s.everywhere(ctx, func(n Node) error { return n.ForgetProject(ctx, project) })
}
