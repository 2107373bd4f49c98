package nodelink

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Metrics are what clients of nodes measure. A nil one measures nothing.
type Metrics struct {
	took *prometheus.HistogramVec
}

// NewMetrics makes the metrics of a process.
func NewMetrics() *Metrics {
	return &Metrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "aetherium_link_call_duration_seconds", Help: "Calls of workers until the first of the answer, by call and outcome (done, refused by the worker, unreachable).",
		Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"call", "outcome"})}
}

// Collectors are the metrics for Prometheus.
func (m *Metrics) Collectors() []prometheus.Collector { return []prometheus.Collector{m.took} }

func (m *Metrics) answered(call string, begun time.Time, err error) {
	if m == nil {
		return
	}
	outcome := "done"
	switch {
	case errors.HasCode(err, errors.Unavailable):
		outcome = "unreachable"
	case err != nil:
		outcome = "refused"
	}
	m.took.WithLabelValues(call, outcome).Observe(time.Since(begun).Seconds())
}
