package service

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ListWorkers implements vmm.Fleet.
func (s *Service) ListWorkers(ctx context.Context, _ vmm.Caller) ([]*domain.Worker, error) {
	var ws []*domain.Worker
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		ws, err = tx.Workers().All(ctx)
		return err
	})
	return ws, err
}

// Drivers implements vmm.Fleet.
func (s *Service) Drivers(ctx context.Context, _ vmm.Caller) ([]domain.DriverInfo, error) {
	node, err := s.nodes.Any()
	if err != nil {
		return nil, err
	}
	return node.Drivers(ctx)
}

// ListEvents implements vmm.Events.
func (s *Service) ListEvents(ctx context.Context, by vmm.Caller, after int64, limit int) ([]domain.Event, error) {
	var es []domain.Event
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		es, err = tx.Outbox().List(ctx, storage.EventFilter{ProjectID: by.ProjectID, After: after, Limit: limit})
		return err
	})
	return es, err
}

// LastEvent implements vmm.Events.
func (s *Service) LastEvent(ctx context.Context) (int64, error) {
	var newest int64
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		_, newest, err = tx.Outbox().Bounds(ctx)
		return err
	})
	return newest, err
}

// EventsChanged implements vmm.Events.
func (s *Service) EventsChanged() <-chan struct{} { return s.store.Changed() }
