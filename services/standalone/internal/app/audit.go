package app

import (
	"context"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
)

// openAudit opens the audit log and keeps bringing it into the database. shut
// is called when nothing is recorded any more.
func (n *node) openAudit(ctx context.Context) (log *audit.Log, shut func() error, err error) {
	log, err = audit.Open(ctx, audit.Options{
		Dir: filepath.Join(n.settings.DataDir, "audit"), Store: n.store, Log: n.log,
		Keep: time.Duration(n.settings.Keep.Audit), Lenient: n.settings.Audit.Lenient,
	})
	if err != nil {
		return nil, nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- log.Run(running) }()
	return log, func() error {
		cancel()
		return errors.Join(<-done, log.Close())
	}, nil
}
