package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// metrics are what a deliverer measures.
type metrics struct {
	took     *prometheus.HistogramVec
	disabled *prometheus.CounterVec
	full     prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_webhook_attempt_duration_seconds", Help: "Attempts to tell a webhook an event, by outcome (delivered, or what went wrong).",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}, []string{"outcome"}),
		disabled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aetherium_webhooks_disabled_total", Help: "Webhooks that are told nothing more, by reason (gone, failing).",
		}, []string{"reason"}),
		full: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aetherium_webhooks_full", Help: "Webhooks of which as many deliveries wait as may, so that further events wait for these. Every gateway tells all of them.",
		}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.took, m.disabled, m.full}
}

func (m *metrics) attempted(code string, took time.Duration) {
	if code == "" {
		code = string(domain.DeliveryDelivered)
	}
	m.took.WithLabelValues(code).Observe(took.Seconds())
}
