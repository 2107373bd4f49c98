// Package app is the whole product in one process: gateway, worker, embedded
// store and queue. Constructors with exact parameters are the wiring.
package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// stopLimit bounds an orderly end.
const stopLimit = 30 * time.Second

// Serve runs the server until ctx ends. ready is called once it serves.
func Serve(ctx context.Context, s settings.Settings, log *slog.Logger, ready func() error) (err error) {
	n, err := open(ctx, s, log, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	project, err := n.bootstrap(ctx)
	if err != nil {
		return err
	}
	who, err := n.openAccess()
	if err != nil {
		return err
	}
	if err := n.worker.Start(ctx); err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		err = errors.Join(err, n.worker.Stop(stop))
	}()
	base, err := n.ensureBase(ctx, project)
	if err != nil {
		return err
	}
	foreseen, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.foresee(foreseen, project, base)
	}()
	defer func() { cancel(); <-done }()
	return n.serve(ctx, who, ready)
}

// serve runs the gateway on the started node.
func (n *node) serve(ctx context.Context, who *credentials, ready func() error) (err error) {
	uploads, err := api.NewUploadDir(filepath.Join(n.settings.DataDir, "uploads"), nil)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the upload directory cannot be made")
	}
	uploads.Bound(int64(n.settings.Quotas.Uploads))
	proxies, err := n.settings.Listen.Proxies()
	if err != nil {
		return err
	}
	audit, shut, err := n.openAudit(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shut()) }()
	config := gateway.Config{
		Address: n.settings.Listen.Address, Hosts: n.settings.Listen.Hosts, PreviewDomain: n.settings.Listen.PreviewDomain, Version: version.Version,
		Origins: n.settings.Listen.Origins, TrustedProxies: proxies, Limits: n.settings.Limits.Config(),
	}
	var trusted []byte
	if config.TLSAddress, config.TLSElsewhere = n.settings.TLSAddress(); config.TLSAddress != "" {
		if config.TLS, trusted, err = n.openTLS(); err != nil {
			return err
		}
	}
	started := now()
	var server *gateway.Server
	g, err := gateway.New(config, gateway.Deps{
		VMs: n.service, Tasks: n.service, Authenticator: who.authenticator, Projects: who.lookup, Access: who.service, Tokens: who.tokens, Idempotency: api.NewMemoryIdempotency(nil), Uploads: uploads, Audit: audit, Logger: n.log,
		Queue:      n.queue,
		Collectors: append(n.worker.Collectors(), n.queueMetrics.Collectors(n.queue)...),
		Ready:      func(ctx context.Context) error { return n.store.Ping(ctx) },
		Status:     func(ctx context.Context) (wire.Status, error) { return n.status(ctx, server.URL(), started) },
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
	unnamed, err := n.serveNames(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unnamed()) }()
	touch, cancel := context.WithCancel(ctx)
	flushed := make(chan error, 1)
	go func() { flushed <- who.keys.Run(touch) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-flushed)
	}()
	if err := n.announce(server.URL()); err != nil {
		return err
	}
	n.log.Info("serving", "url", server.URL(), "tls_url", server.Endpoints().TLSURL, "key_file", n.settings.KeyFile(), "version", version.Version)
	if err := ready(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-server.Done():
		return server.Err()
	}
}

// announce writes the files by which the command line finds the server.
func (n *node) announce(url string) error {
	text, err := json.Marshal(map[string]string{"url": url, "key_file": n.settings.KeyFile()})
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the server cannot be announced")
	}
	file := n.settings.ClientFile()
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // it holds no secret
		return errors.Wrap(err, errors.Internal, "the server cannot be announced")
	}
	return os.Rename(tmp, file)
}

func (n *node) status(ctx context.Context, url string, started time.Time) (wire.Status, error) {
	s := wire.Status{
		Version: version.Version, PID: os.Getpid(), URL: url, DataDir: n.settings.DataDir, StartedAt: started, UptimeMS: time.Since(started).Milliseconds(),
	}
	err := n.store.View(ctx, func(tx storage.Tx) error {
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

// Down ends every VM that runs, and removes everything of this installation
// from the host but the data directory. No server may run.
func Down(ctx context.Context, s settings.Settings, log *slog.Logger) (err error) {
	if !installed(s) {
		return nil // nothing was ever made
	}
	n, err := open(ctx, s, log, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.worker.Start(ctx); err != nil {
		return err
	}
	if err := n.worker.Drain(ctx, "shutdown"); err != nil {
		return errors.Join(err, n.worker.Stop(ctx))
	}
	return n.teardown(ctx)
}

// teardown removes everything from the host but the data directory. The order
// is that in which one thing stands on another.
func (n *node) teardown(ctx context.Context) error {
	var err error
	for _, d := range n.drivers.drivers {
		if t, ok := d.(vmm.Teardowner); ok {
			err = errors.Join(err, t.Teardown(ctx))
		}
	}
	if err := errors.Join(err, n.worker.Stop(ctx)); err != nil {
		return err
	}
	if err := n.network.Teardown(ctx); err != nil {
		return err
	}
	if err := n.close(); err != nil {
		return err
	}
	if err := n.disk.Unmount(ctx); err != nil {
		return err
	}
	return removeRuntimeDir(n.runtimeDir)
}
