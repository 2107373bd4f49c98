// Package gatewayd is a gateway that is a process of its own. It has no state but
// what the installation's processes share: any gateway answers for any worker.
package gatewayd

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
	"github.com/aetherium/aetherium/services/core/pkg/fleet/nodes"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/runner"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/watch/relay"
	"github.com/aetherium/aetherium/services/gateway/pkg/serve"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// stopLimit bounds the end of what runs beside the server.
const stopLimit = 5 * time.Second

// Logs is where a gateway finds lines of servers: in Loki, which has all of them, or
// in its own files, and by the workers. Both may be nil.
type Logs struct {
	Loki *serverlog.Loki
	File *serverlog.Files
}

func (l Logs) source(workers serverlog.Peers) serverlog.Source {
	if l.Loki != nil {
		return l.Loki
	}
	return serverlog.NewFleet(l.File, workers)
}

// Serve runs the gateway until ctx ends. collectors are metrics beside its own;
// ready is called once it serves, with where.
func Serve(ctx context.Context, s settings.Gateway, log *slog.Logger, collectors []prometheus.Collector, logs Logs, ready func(url string) error) (err error) {
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return errors.Wrap(err, errors.Internal, "the data directory %s cannot be made", s.DataDir)
	}
	spans, err := tracing.Open(ctx, s.Tracing.Config("aetherium-gateway", log))
	if err != nil {
		return err
	}
	defer spans.Finish(stopLimit, log)
	in, err := installation.Open(ctx, s.Common, installation.Options{Serves: true, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	authority, err := openAuthority(ctx, s.Workers, in)
	if err != nil {
		return err
	}
	changes := relay.Start(relay.Config[domain.ID]{
		Client: in.Redis, Name: in.ID, Hub: new(watch.Hub[domain.ID]), Backstop: relay.Backstop, Logger: log,
	})
	defer changes.Close()
	calls := nodelink.NewMetrics()
	workers := nodes.New(nodes.Config{Store: in.Store, TLS: authority.ClientTLS, Metrics: calls, Logger: log})
	defer workers.Close()
	jobs := &queues{in: in, log: log, open: map[string]*asynq.Queue{}}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		err = errors.Join(err, jobs.close(stop))
	}()
	runs, err := runner.OpenQueue(in.Redis, asynq.Config{Name: in.RunQueue(), Logger: log})
	if err != nil {
		return err
	}
	config := s.Service.Config(s.Common, s.VM.Builder(), s.Tools.Default)
	config.AwayAfter = time.Duration(s.Workers.AwayAfter)
	cases := service.New(config, service.Deps{
		Store: in.Store, Nodes: workers, Sealer: in.Sealer, Changes: changes,
		Runs: runner.Waker{Queue: runs, Log: log}, Now: in.Now, Log: log,
	})
	attendant := runner.New(runner.Config{PerProject: s.Service.Tasks.Concurrent}, runner.Deps{
		Store: in.Store, Service: cases, Sealer: in.Sealer, Queue: runs, Changes: changes, Now: in.Now, Log: log,
	})
	defer func() { err = errors.Join(err, attendant.Stop(context.WithoutCancel(ctx))) }()
	project, err := in.FirstProject(ctx)
	if err != nil {
		return err
	}
	if err := serve.FirstKey(ctx, in.Store, project, s.KeyFile(), log); err != nil {
		return err
	}
	who, err := serve.OpenAccess(s.Auth, in, cases, log)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer func() { cancel(); beside.Wait() }()
	beside.Go(func() { workers.Run(running) })
	beside.Go(func() { forgetUploads(running, s.DataDir, log) })
	beside.Go(func() { cases.Run(running) })
	if err := attendant.Start(ctx); err != nil {
		return err
	}
	return serve.Run(ctx, s.Common, s.Front, serve.Deps{
		Installation: in, Service: cases, Access: who, Queue: queue.Joined(jobs.all), Tracing: spans, Log: log, Logs: logs.source(workers),
		Fleet:      fleet.New(fleet.Deps{Store: in.Store, Authority: authority, Now: in.Now}),
		Collectors: slices.Concat(collectors, calls.Collectors(), []prometheus.Collector{newOverview(in.Store, queue.Joined(jobs.all), log)}),
	}, ready)
}

// openAuthority is whom gateways and workers know each other by.
func openAuthority(ctx context.Context, s settings.Workers, in *installation.Installation) (*fleet.Authority, error) {
	if s.CAFile != "" {
		return fleet.Load(s.CAFile, s.CAKeyFile, in.Now)
	}
	return fleet.Open(ctx, in.Store, in.Sealer, in.Now)
}

// forgetUploads removes what gateways of older versions kept of uploads, when its day is
// over. Nobody finds it any more.
func forgetUploads(ctx context.Context, dataDir string, log *slog.Logger) {
	hours := time.NewTicker(time.Hour)
	defer hours.Stop()
	for dir := filepath.Join(dataDir, "uploads"); ; {
		err := upload.Sweep(ctx, dir, time.Now())
		if err == nil {
			_ = os.Remove(dir) // when it is empty
			_, err = os.Stat(dir)
		}
		if errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Warn("uploads of an older version are still there", "error", err)
		}
		select {
		case <-hours.C:
		case <-ctx.Done():
			return
		}
	}
}
