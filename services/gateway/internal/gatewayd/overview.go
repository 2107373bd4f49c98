package gatewayd

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// lookLimit bounds a scrape while database or queue are away.
const lookLimit = 5 * time.Second

// overview tells of the whole installation, of workers too that cannot be
// scraped. Every gateway tells the same.
type overview struct {
	store              storage.Store
	queue              queue.Inspector
	log                *slog.Logger
	workers, vms, jobs *prometheus.Desc
}

func newOverview(store storage.Store, q queue.Inspector, log *slog.Logger) *overview {
	state := []string{"state"}
	return &overview{
		store: store, queue: q, log: log,
		workers: prometheus.NewDesc("aetherium_fleet_workers", "Workers by state (ready, cordoned, away).", state, nil),
		vms:     prometheus.NewDesc("aetherium_fleet_vms", "VMs that are not deleted, by state.", state, nil),
		jobs:    prometheus.NewDesc("aetherium_fleet_queue_jobs", "Jobs of all workers by state (scheduled, waiting, running, dead).", state, nil),
	}
}

// Describe implements prometheus.Collector.
func (o *overview) Describe(ch chan<- *prometheus.Desc) {
	ch <- o.workers
	ch <- o.vms
	ch <- o.jobs
}

// Collect implements prometheus.Collector. What cannot be had is left out.
func (o *overview) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	gauge := func(what *prometheus.Desc, n int, state string) {
		ch <- prometheus.MustNewConstMetric(what, prometheus.GaugeValue, float64(n), state)
	}
	workers := map[domain.WorkerState]int{domain.WorkerReady: 0, domain.WorkerCordoned: 0, domain.WorkerAway: 0}
	vms := map[string]int{}
	err := o.store.View(ctx, func(tx storage.Tx) error {
		all, err := tx.Workers().All(ctx)
		if err != nil {
			return err
		}
		for _, w := range all {
			workers[w.State]++
		}
		counts, err := tx.VMs().Count(ctx, storage.System)
		for state, n := range counts {
			vms[string(state)] = int(n)
		}
		return err
	})
	if err != nil {
		o.log.Debug("the installation is not counted", "error", err)
		return
	}
	for state, n := range workers {
		gauge(o.workers, n, string(state))
	}
	for state, n := range vms {
		gauge(o.vms, n, state)
	}
	jobs, err := o.queue.Count(ctx)
	if err != nil {
		o.log.Debug("jobs are not counted", "error", err)
		return
	}
	for state, n := range jobs {
		gauge(o.jobs, n, string(state))
	}
}
