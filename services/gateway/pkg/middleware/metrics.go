package middleware

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/services/core/pkg/scrape"
)

// Metrics are the gateway's own, in a registry of its own.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	streams  *prometheus.GaugeVec
}

// NewMetrics makes the gateway's metrics and takes in those of other parts.
// Returns an error when two collectors describe the same metric.
func NewMetrics(others ...prometheus.Collector) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aetherium_http_requests_total", Help: "Requests answered, by route pattern, method and status.",
		}, []string{"route", "method", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_http_request_duration_seconds", Help: "Time to the end of the answer, by route pattern.",
			Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aetherium_http_requests_in_flight", Help: "Requests being answered now, streams included.",
		}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "aetherium_streams_open", Help: "Streams open now, by kind.",
		}, []string{"kind"}),
	}
	var err error
	m.registry, err = scrape.Registry(append([]prometheus.Collector{m.requests, m.latency, m.inFlight, m.streams}, others...)...)
	return m, err
}

// Handler serves the metrics in the formats Prometheus asks for.
func (m *Metrics) Handler() http.Handler { return scrape.Handler(m.registry) }

// StreamOpened counts a stream of a kind until the returned function is called.
func (m *Metrics) StreamOpened(kind string) (closed func()) {
	g := m.streams.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}

func (m *Metrics) begin() { m.inFlight.Inc() }

func (m *Metrics) end(route, method string, status int, took time.Duration) {
	m.inFlight.Dec()
	method = knownMethod(method)
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.latency.WithLabelValues(route, method).Observe(took.Seconds())
}

// knownMethod bounds the label: a client may send any word as a method.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "OTHER"
}
