package serve

import (
	"context"
	"log/slog"

	"github.com/aetherium/aetherium/services/gateway/pkg/names"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// serveNames serves the preview domain's names where that was asked for. The
// function ends it.
func serveNames(ctx context.Context, s settings.Front, log *slog.Logger) (end func() error, err error) {
	if s.Names.Address == "" {
		return func() error { return nil }, nil
	}
	answers, err := s.NameAnswers()
	if err != nil {
		return nil, err
	}
	server, err := names.Listen(ctx, s.Names.Address, s.Listen.PreviewDomain, answers)
	if err != nil {
		return nil, err
	}
	log.Info("serving names", "address", server.Addr().String(), "domain", s.Listen.PreviewDomain, "answers", answers)
	return server.Close, nil
}
