// Package app is the whole product in one process: gateway, worker, embedded
// store and queue. Constructors with exact parameters are the wiring.
package app

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/gateway/pkg/serve"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// stopLimit bounds an orderly end.
const stopLimit = 30 * time.Second

// Serve runs the server until ctx ends. collectors are metrics beside its own,
// logs where lines of servers can be read, if anywhere;
// ready is called once it serves.
func Serve(ctx context.Context, s settings.Settings, log *slog.Logger, collectors []prometheus.Collector, logs serverlog.Source, ready func() error) (err error) {
	n, err := open(ctx, s, log, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	project, err := n.in.FirstProject(ctx)
	if err != nil {
		return err
	}
	if err := serve.FirstKey(ctx, n.in.Store, project, s.KeyFile(), log); err != nil {
		return err
	}
	who, err := serve.OpenAccess(s.Auth, n.in, n.service, log)
	if err != nil {
		return err
	}
	if err := n.host.Worker.Start(ctx); err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		err = errors.Join(err, n.host.Worker.Stop(stop))
	}()
	if err := n.runner.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.runner.Stop(ctx)) }()
	base, err := n.host.EnsureBase(ctx, project)
	if err != nil {
		return err
	}
	foreseen, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.host.Foresee(foreseen, n.service, project, base)
	}()
	defer func() { cancel(); <-done }()
	return serve.Run(ctx, s.Common, s.Front, serve.Deps{
		Installation: n.in, Service: n.service, Access: who, Tracing: n.tracing, Log: log, Logs: logs,
		Queue: queue.Joined(func(context.Context) ([]queue.Inspector, error) {
			return []queue.Inspector{n.host.Queue, n.runs}, nil
		}),
		Collectors: slices.Concat(collectors, n.host.Worker.Collectors(), n.host.Metrics.Collectors(n.host.Queue)),
	}, func(string) error { return ready() })
}

// Down ends every VM that runs, and removes everything of this installation
// from the host but the data directory. No server may run.
func Down(ctx context.Context, s settings.Settings, log *slog.Logger) (err error) {
	if !installation.Made(s.Common) {
		return nil // nothing was ever made
	}
	n, err := open(ctx, s, log, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	return n.host.Down(ctx)
}
