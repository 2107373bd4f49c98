package serve

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
)

// OpenAudit opens the audit log and keeps bringing it into the database. shut
// is called when nothing is recorded any more.
func OpenAudit(ctx context.Context, o audit.Options) (log *audit.Log, shut func() error, err error) {
	log, err = audit.Open(ctx, o)
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
