package service

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a service measures.
type metrics struct {
	placed *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "aetherium_placement_duration_seconds", Help: "Choosing the worker and driver of a VM, by outcome (placed, refused).",
		Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"outcome"})}
}

// Collectors are the service's metrics for Prometheus.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.metrics.placed}
}

func (m *metrics) ended(begun time.Time, err error) {
	outcome := "placed"
	if err != nil {
		outcome = "refused"
	}
	m.placed.WithLabelValues(outcome).Observe(time.Since(begun).Seconds())
}
