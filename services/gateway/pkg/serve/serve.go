// Package serve runs a gateway with all that it stands on.
package serve

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	core "github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/webhook"
	"github.com/aetherium/aetherium/services/gateway/pkg/answers"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// stopLimit bounds an orderly end.
const stopLimit = 30 * time.Second

// Deps is what a gateway serves.
type Deps struct {
	Installation *installation.Installation
	Service      *service.Service
	Access       *Access
	Fleet        api.Fleet // takes in workers; nil: there is the process's own alone
	Queue        queue.Inspector
	Logs         serverlog.Source // lines of servers; nil: nowhere
	Collectors   []prometheus.Collector
	Tracing      *tracing.Tracing // nil: no spans
	Log          *slog.Logger
}

// Run serves until ctx ends. ready is called once it does, with where, and once
// the command line finds the server by what is in the data directory.
func Run(ctx context.Context, common core.Common, s settings.Front, d Deps, ready func(url string) error) (err error) {
	proxies, err := s.Listen.Proxies()
	if err != nil {
		return err
	}
	in, who := d.Installation, d.Access
	records, shut, err := OpenAudit(ctx, audit.Options{
		Dir: filepath.Join(common.DataDir, "audit"), Store: in.Store, Log: d.Log,
		Keep: time.Duration(common.Keep.Audit), Lenient: s.Audit.Lenient, Now: in.Now,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shut()) }()
	config := gateway.Config{
		Address: s.Listen.Address, Hosts: s.Listen.Hosts, PreviewDomain: s.Listen.PreviewDomain, Version: version.Version,
		Origins: s.Listen.Origins, TrustedProxies: proxies, Limits: s.Limits.Config(),
	}
	var trusted []byte
	if config.TLSAddress, config.TLSElsewhere = s.TLSAddress(); config.TLSAddress != "" {
		if config.TLS, trusted, err = openTLS(s, filepath.Join(common.DataDir, "tls"), in, d.Log); err != nil {
			return err
		}
	}
	told, err := s.Webhooks.Config()
	if err != nil {
		return err
	}
	teller := webhook.NewDeliverer(told, in.Store, in.Sealer, d.Log)
	kept := answers.New(in.Store, in.Sealer, in.Now)
	var links proxy.Links // in memory
	if d.Fleet == nil {   // there is no other gateway
		if err := kept.Forget(ctx); err != nil {
			return err
		}
	} else {
		links = proxy.NewSignedLinks(kept, in.Now)
	}
	started := time.Now().UTC().Truncate(time.Microsecond)
	var server *gateway.Server
	g, err := gateway.New(config, gateway.Deps{
		VMs: d.Service, Tasks: d.Service, Authenticator: who.Authenticator, Projects: who.Lookup, Access: who.Service, Tokens: who.Tokens,
		Idempotency: kept, Notes: kept, Audit: records, Logger: d.Log,
		Queue:      d.Queue,
		Logs:       d.Logs,
		Links:      links,
		Fleet:      d.Fleet,
		Webhooks:   webhook.New(webhook.Deps{Store: in.Store, Sealer: in.Sealer, Targets: told.Targets, Now: in.Now}),
		Collectors: slices.Concat(d.Collectors, d.Service.Collectors(), in.Collectors(), teller.Collectors()),
		Tracing:    d.Tracing,
		Now:        in.Now,
		Ready:      func(ctx context.Context) error { return in.Store.Ping(ctx) },
		Status: func(ctx context.Context) (wire.Status, error) {
			return status(ctx, in.Store, wire.Status{URL: server.URL(), DataDir: common.DataDir, StartedAt: started})
		},
		Endpoints: func() wire.Endpoints {
			e := server.Endpoints()
			e.Certificates = string(trusted)
			return e
		},
	})
	if err != nil {
		return err
	}
	server = gateway.NewServer(g)
	if err := server.Start(ctx); err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		err = errors.Join(err, server.Stop(stop))
	}()
	unseen, err := serveMetrics(ctx, common, s.Listen.Metrics, g.Metrics(), in.Store.Ping)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unseen()) }()
	unnamed, err := serveNames(ctx, s, d.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unnamed()) }()
	beside, cancel := context.WithCancel(ctx)
	flushed, toldAll := make(chan error, 1), make(chan struct{})
	go func() { flushed <- who.Keys.Run(beside) }()
	go func() { defer close(toldAll); teller.Run(beside) }()
	defer func() {
		cancel()
		<-toldAll
		err = errors.Join(err, <-flushed)
	}()
	d.Log.Info("serving", "url", server.URL(), "tls_url", server.Endpoints().TLSURL, "version", version.Version)
	if err := announce(common, server.URL()); err != nil {
		return err
	}
	if err := ready(server.URL()); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		server.Leave(time.Duration(s.Listen.StopDelay))
		return nil
	case <-server.Done():
		return server.Err()
	}
}

// status completes what a server says of itself.
func status(ctx context.Context, store storage.Store, s wire.Status) (wire.Status, error) {
	s.Version, s.PID, s.UptimeMS = version.Version, os.Getpid(), time.Since(s.StartedAt).Milliseconds()
	err := store.View(ctx, func(tx storage.Tx) error {
		counts, err := tx.VMs().Count(ctx, storage.System)
		if err != nil {
			return err
		}
		s.VMs = make(map[string]int, len(counts))
		for state, c := range counts {
			s.VMs[string(state)] = int(c)
		}
		workers, err := tx.Workers().All(ctx)
		s.Workers = len(workers)
		return err
	})
	return s, err
}

// announce writes the file by which the command line finds the server.
func announce(s core.Common, url string) error {
	text, err := json.Marshal(map[string]string{"url": url, "key_file": s.KeyFile()})
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the server cannot be announced")
	}
	file := s.ClientFile()
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // it holds no secret
		return errors.Wrap(err, errors.Internal, "the server cannot be announced")
	}
	return os.Rename(tmp, file)
}
