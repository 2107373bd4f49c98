// Package measured times the transactions of a store.
package measured

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Store is a store whose transactions are timed.
type Store struct {
	storage.Store
	took *prometheus.HistogramVec
}

// New wraps a store.
func New(s storage.Store) *Store {
	return &Store{s, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "aetherium_db_transaction_duration_seconds", Help: "Transactions with the wait for their turn, by kind (read, write) and outcome (done, failed).",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"kind", "outcome"})}
}

// Collectors are the metrics for Prometheus.
func (s *Store) Collectors() []prometheus.Collector { return []prometheus.Collector{s.took} }

// View implements storage.Store.
func (s *Store) View(ctx context.Context, f func(storage.Tx) error) error {
	return s.time("read", func() error { return s.Store.View(ctx, f) })
}

// Read implements storage.Store.
func (s *Store) Read(ctx context.Context, f func(storage.Tx) error) error {
	return s.time("read", func() error { return s.Store.Read(ctx, f) })
}

// Update implements storage.Store.
func (s *Store) Update(ctx context.Context, f func(storage.Tx) error) error {
	return s.time("write", func() error { return s.Store.Update(ctx, f) })
}

func (s *Store) time(kind string, do func() error) error {
	begun := time.Now()
	outcome := "failed" // unless it returns, and nothing is wrong
	defer func() { s.took.WithLabelValues(kind, outcome).Observe(time.Since(begun).Seconds()) }()
	err := do()
	if err == nil {
		outcome = "done"
	}
	return err
}
