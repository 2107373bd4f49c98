package app

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/runner"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// tracingLimit bounds the sending of the last spans.
const tracingLimit = 5 * time.Second

// node is everything below the gateway.
type node struct {
	in      *installation.Installation
	host    *host.Host
	service *service.Service
	runs    queue.Queue
	runner  *runner.Runner
	tracing *tracing.Tracing
	log     *slog.Logger
}

// open opens everything; on an error what was opened is closed again.
func open(ctx context.Context, s settings.Settings, log *slog.Logger, serves bool) (n *node, err error) {
	n = &node{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := os.MkdirAll(s.DataDir, 0o711); err != nil { //nolint:gosec // the mapped roots of VMs walk through it
		return n, errors.Wrap(err, errors.Internal, "the data directory %s cannot be made", s.DataDir)
	}
	if serves {
		if n.tracing, err = tracing.Open(ctx, s.Tracing.Config("aetherium-standalone", log)); err != nil {
			return n, err
		}
	}
	if n.in, err = installation.Open(ctx, s.Common, installation.Options{Alone: true, Serves: serves, Logger: log}); err != nil {
		return n, err
	}
	changes := new(watch.Hub[domain.ID])
	n.host, err = host.Open(ctx, host.Settings{Common: s.Common, Host: s.Host}, n.in, host.Options{
		Instance: n.in.ID, Queue: n.in.ID, Serves: serves, Changes: changes, Tracing: n.tracing, Logger: log,
	})
	if err != nil {
		return n, err
	}
	if n.runs, err = runner.OpenQueue(n.in.Redis, asynq.Config{
		Name: n.in.RunQueue(), Owner: n.in.ID, Metrics: n.host.Metrics, Logger: log,
	}); err != nil {
		return n, err
	}
	n.service = service.New(s.Service.Config(s.Common, n.host.Builder, s.Tools.Default), service.Deps{
		Store: n.in.Store, Nodes: service.OneNode{Only: n.host.Worker}, Sealer: n.in.Sealer, Changes: changes,
		Runs: runner.Waker{Queue: n.runs, Log: log}, Now: n.in.Now, Log: log,
	})
	n.runner = runner.New(runner.Config{PerProject: s.Service.Tasks.Concurrent}, runner.Deps{
		Store: n.in.Store, Service: n.service, Sealer: n.in.Sealer, Queue: n.runs, Changes: changes, Now: n.in.Now, Log: log,
	})
	return n, nil
}

// close closes what open opened, last first.
func (n *node) close() error {
	var err error
	if n.runner != nil {
		err = n.runner.Stop(context.Background())
	}
	if n.host != nil {
		err = errors.Join(err, n.host.Close())
	}
	if n.in != nil {
		err = errors.Join(err, n.in.Close())
	}
	n.tracing.Finish(tracingLimit, n.log)
	return err
}
