// Package workerd is a worker that is a process of its own: it has the VMs on its
// host, and gateways reach it by its node link.
package workerd

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet/identity"
	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/scrape"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/core/pkg/watch/relay"
)

const (
	// stopLimit bounds an orderly end.
	stopLimit = 30 * time.Second
	// Waiting for a gateway to join by.
	joinPatience = time.Minute
	joinPause    = time.Second
	// callLimit bounds a call of another process, and the end of one at a stop.
	callLimit = 5 * time.Second
	// instanceLength is of what names things on the host: interfaces and cgroups.
	instanceLength = 12
)

// daemon is what is open.
type daemon struct {
	settings node.Settings
	log      *slog.Logger
	in       *installation.Installation
	identity *identity.Identity
	gateway  identity.Gateway
	relay    *relay.Relay[domain.ID]
	changes  watch.Changes[domain.ID]
	host     *host.Host
	tracing  *tracing.Tracing

	collectors []prometheus.Collector // beside its own
	logs       serverlog.Source       // the process's own lines; nil: in no file
}

// Serve runs the worker until ctx ends. collectors are metrics beside its own,
// logs the files that it logs to, if any; ready is called once gateways reach it.
func Serve(ctx context.Context, s node.Settings, log *slog.Logger, collectors []prometheus.Collector, logs *serverlog.Files, ready func() error) (err error) {
	d := &daemon{settings: s, log: log, collectors: collectors}
	if logs != nil {
		d.logs = logs
	}
	defer func() { err = errors.Join(err, d.close()) }()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Worker.Address)
	if err != nil {
		return errors.Wrap(err, errors.Conflict, "gateways cannot be listened to on %s", s.Worker.Address).WithField("worker.address")
	}
	defer func() { _ = listener.Close() }()
	address, err := advertised(s.Worker, listener.Addr())
	if err != nil {
		return err
	}
	if d.tracing, err = tracing.Open(ctx, s.Tracing.Config("aetherium-worker", log)); err != nil {
		return err
	}
	if d.in, err = installation.Open(ctx, s.Common, installation.Options{Serves: true, Logger: log}); err != nil {
		return err
	}
	if err := d.join(ctx, address); err != nil {
		return err
	}
	if err := d.open(ctx, address, true); err != nil {
		return err
	}
	return d.run(ctx, listener, ready)
}

// advertised is where gateways are told to reach the worker.
func advertised(w node.Worker, listening net.Addr) (string, error) {
	address := w.Advertise
	if address == "" {
		address = w.Address
	}
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", address).WithField("worker.advertise")
	}
	if port == "0" {
		if _, port, err = net.SplitHostPort(listening.String()); err != nil {
			return "", errors.Wrap(err, errors.Internal, "where gateways are listened to is not known")
		}
	}
	return net.JoinHostPort(name, port), nil
}

// join finds out who the worker is. A gateway that is asked for that may start
// later than this worker.
func (d *daemon) join(ctx context.Context, address string) (err error) {
	if d.gateway, err = identity.NewGateway(d.settings.Worker.Gateway); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	for told := false; ; told = true {
		d.identity, err = identity.Join(ctx, identity.Joining{
			Dir: d.settings.DataDir, Gateway: d.gateway, Token: d.settings.Worker.Token.Reveal(),
			Name: cmp.Or(d.settings.Worker.Name, host.Name()), Address: address, Now: d.in.Now,
		})
		if !errors.HasCode(err, errors.Unavailable) {
			return err
		}
		if !told {
			d.log.Warn("the gateway does not answer; waiting for it", "gateway", d.settings.Worker.Gateway, "error", err)
		}
		select {
		case <-time.After(joinPause):
		case <-patience.Done():
			return err
		}
	}
}

// open opens what stands on the installation.
func (d *daemon) open(ctx context.Context, address string, serves bool) (err error) {
	s := d.settings
	hub := new(watch.Hub[domain.ID])
	d.changes = hub
	if d.in.Redis != nil {
		d.relay = relay.Start(relay.Config[domain.ID]{Client: d.in.Redis, Name: d.in.ID, Hub: hub, Backstop: relay.Backstop, Logger: d.log})
		d.changes = d.relay
	}
	id := d.identity.WorkerID()
	d.host, err = host.Open(ctx, host.Settings{Common: s.Common, Host: s.Host}, d.in, host.Options{
		Instance: id.String()[:instanceLength], Worker: id, Name: s.Worker.Name, Address: address, Queue: d.in.WorkerQueue(id),
		Serves: serves, Changes: d.changes, Tracing: d.tracing, Logger: d.log,
	})
	return err
}

func (d *daemon) run(ctx context.Context, listener net.Listener, ready func() error) (err error) {
	project, err := d.in.FirstProject(ctx)
	if err != nil {
		return err
	}
	own := d.host.Worker
	if err := own.Start(ctx); err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		err = errors.Join(err, own.Stop(stop))
	}()
	base, err := d.host.EnsureBase(ctx, project)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer func() { cancel(); beside.Wait() }()
	beside.Go(func() { d.host.Foresee(running, d.service(), project, base) })
	beside.Go(func() { d.identity.Keep(running, d.gateway, d.log) })
	ended := make(chan error, 2)
	stop := d.serve(listener, nodelink.NewServer(d.tracing.Calls(nodelink.Handler(own, untilStop(ctx, d.logs), d.log)), d.identity.ServerTLS(), d.log), ended)
	defer stop()
	if at := d.settings.Worker.Metrics; at != "" {
		metrics, err := d.metrics()
		if err != nil {
			return err
		}
		told, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
		if err != nil {
			return errors.Wrap(err, errors.Conflict, "metrics cannot be served on %s", at).WithField("worker.metrics")
		}
		defer d.serve(told, metrics, ended)()
	}
	d.log.Info("serving", "worker", own.ID(), "address", listener.Addr().String(), "version", version.Version)
	if err := ready(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-own.Removed():
		return errors.New(errors.Gone, "the worker was removed from the installation").
			WithHint("what is on its host is nobody's: wipe it, and have it join again by a token")
	case err := <-ended:
		return err
	}
}

// serve serves until the function that it returns is called: what is under way
// then has a while to end.
func (d *daemon) serve(l net.Listener, s *http.Server, ended chan<- error) (stop func()) {
	go func() {
		var err error
		if s.TLSConfig != nil {
			err = s.ServeTLS(l, "", "")
		} else {
			err = s.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			ended <- errors.Wrap(err, errors.Internal, "the server on %s ended", l.Addr())
		}
	}()
	return func() {
		grace, cancel := context.WithTimeout(context.Background(), callLimit)
		defer cancel()
		if s.Shutdown(grace) != nil {
			_ = s.Close() // streams last as long as what they tell of
		}
	}
}

// lasting is a source whose streams end when the worker stops, which would wait
// for them.
type lasting struct {
	serverlog.Source
	stopping context.Context //nolint:containedctx // the worker's
}

func untilStop(stopping context.Context, logs serverlog.Source) serverlog.Source {
	if logs == nil {
		return nil
	}
	return lasting{logs, stopping}
}

// Follow implements serverlog.Source.
func (l lasting) Follow(ctx context.Context, f serverlog.Filter, after string, to serverlog.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.stopping, func() { cancel(errors.New(errors.Unavailable, "the worker stops")) })()
	return l.Source.Follow(ctx, f, after, to)
}

// service is what knows what VMs are like that nobody has said anything of.
func (d *daemon) service() *service.Service {
	s := d.settings
	return service.New(settings.DefaultService().Config(s.Common, d.host.Builder, s.Tools.Default), service.Deps{
		Store: d.in.Store, Nodes: service.OneNode{Only: d.host.Worker}, Sealer: d.in.Sealer, Changes: d.changes, Now: d.in.Now, Log: d.log,
	})
}

// metrics serves what is measured, and whether the worker is well.
func (d *daemon) metrics() (*http.Server, error) {
	token, err := scrape.Token(d.settings.Metrics.TokenFile)
	if err != nil {
		return nil, err
	}
	registry, err := scrape.Registry(slices.Concat(d.collectors, d.host.Worker.Collectors(), d.host.Metrics.Collectors(d.host.Queue), d.in.Collectors())...)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "metrics cannot be served")
	}
	return scrape.Server(scrape.Handler(registry), token, d.in.Store.Ping), nil
}

// close closes what is open, last first.
func (d *daemon) close() error {
	var err error
	if d.host != nil {
		err = d.host.Close()
	}
	if d.relay != nil {
		d.relay.Close()
	}
	if d.in != nil {
		err = errors.Join(err, d.in.Close())
	}
	d.tracing.Finish(callLimit, d.log)
	return err
}

// Down ends every VM of this worker, and removes everything that it made on the
// host but the data directory. No worker may run on that.
func Down(ctx context.Context, s node.Settings, log *slog.Logger) (err error) {
	d := &daemon{settings: s, log: log}
	defer func() { err = errors.Join(err, d.close()) }()
	d.identity, err = identity.Open(s.DataDir, nil)
	if errors.HasCode(err, errors.NotFound) {
		return nil // it never had a VM
	}
	if err != nil {
		return err
	}
	if d.in, err = installation.Open(ctx, s.Common, installation.Options{Logger: log}); err != nil {
		return err
	}
	if err := d.open(ctx, "", false); err != nil {
		return err
	}
	return d.host.Down(ctx)
}
