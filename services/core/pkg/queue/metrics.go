package queue

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what queues count. A nil one counts nothing.
type Metrics struct {
	waited *prometheus.HistogramVec
	took   *prometheus.HistogramVec
}

// NewMetrics makes the metrics of a process.
func NewMetrics() *Metrics {
	return &Metrics{
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_queue_wait_duration_seconds", Help: "From when a job is due until it runs, by kind.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"kind"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_queue_run_duration_seconds", Help: "Attempts of jobs, by kind and outcome (done, retried, snoozed, dead, canceled).",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}, []string{"kind", "outcome"}),
	}
}

// Started counts an attempt whose job was due for a time.
func (m *Metrics) Started(kind string, waited time.Duration) {
	if m != nil {
		m.waited.WithLabelValues(kind).Observe(max(0, waited).Seconds())
	}
}

// Ended counts an attempt that took a time.
func (m *Metrics) Ended(kind string, v Verdict, took time.Duration) {
	if m != nil {
		m.took.WithLabelValues(kind, string(v)).Observe(took.Seconds())
	}
}

// Collectors are the metrics for Prometheus, with the jobs that a queue has
// when it is asked.
func (m *Metrics) Collectors(q Inspector) []prometheus.Collector {
	return []prometheus.Collector{m.waited, m.took, &counts{queue: q, jobs: prometheus.NewDesc(
		"aetherium_queue_jobs", "Jobs by state (scheduled, waiting, running, dead); none while the queue cannot be reached.", []string{"state"}, nil)}}
}

// countTimeout bounds a scrape while the queue is away.
const countTimeout = 2 * time.Second

type counts struct {
	queue Inspector
	jobs  *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *counts) Describe(ch chan<- *prometheus.Desc) { ch <- c.jobs }

// Collect implements prometheus.Collector.
func (c *counts) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	counted, err := c.queue.Count(ctx)
	if err != nil {
		return
	}
	for state, n := range counted {
		ch <- prometheus.MustNewConstMetric(c.jobs, prometheus.GaugeValue, float64(n), string(state))
	}
}
