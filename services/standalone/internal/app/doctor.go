package app

import (
	"context"
	"log/slog"

	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// Examine looks at the host without a server: what VMs need of it, and whether
// its programs find previews by their names.
func Examine(ctx context.Context, s settings.Settings, log *slog.Logger) (host.Doctor, error) {
	d, err := host.Examine(ctx, host.Settings{Common: s.Common, Host: s.Host}, log)
	if err == nil {
		d.Findings = append(d.Findings, examineNames(ctx, s))
	}
	return d, err
}
