package worker

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// maxPhaseNames bounds the names of phases that are told apart: some come from
// drivers, and what is not known in advance must not grow the metrics for ever.
const maxPhaseNames = 128

// maxCollect bounds how long what is read when it is asked for may take.
const maxCollect = 5 * time.Second

// metrics are what a worker counts.
type metrics struct {
	starts *prometheus.HistogramVec
	phases *prometheus.HistogramVec
	execs  *prometheus.HistogramVec
	output prometheus.Histogram
	packs  *prometheus.CounterVec
	packed *prometheus.CounterVec

	mu    sync.Mutex
	names map[string]bool
}

var startBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

var execBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

func newMetrics() *metrics {
	return &metrics{
		names: make(map[string]bool),
		starts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_vm_start_duration_seconds", Buckets: startBuckets,
			Help: "From the first step of a VM's start or resumption until it runs, by driver and kind (cold, memory, pool, resume, taken).",
		}, []string{"driver", "kind"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_vm_start_phase_duration_seconds", Buckets: startBuckets,
			Help: "Phases of starts; one with a dot in its name is a part of the phase named before the dot.",
		}, []string{"driver", "kind", "phase"}),
		execs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aetherium_execution_start_duration_seconds", Buckets: execBuckets,
			Help: "From when a command was asked for at the worker until the guest confirmed its start, by outcome (started, failed).",
		}, []string{"outcome"}),
		output: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "aetherium_execution_first_output_duration_seconds", Buckets: execBuckets,
			Help: "From when a command was asked for at the worker until its first output is in its journal.",
		}),
		packs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aetherium_output_packs_total",
			Help: "Objects with output of ended executions, by what happened: stored, store_failed, fetched, fetch_failed.",
		}, []string{"event"}),
		packed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aetherium_output_pack_bytes_total", Help: "Bytes of objects with output, by what happened: stored, fetched.",
		}, []string{"event"}),
	}
}

// Collectors are the worker's metrics for Prometheus.
func (w *Worker) Collectors() []prometheus.Collector {
	all := []prometheus.Collector{w.metrics.starts, w.metrics.phases, w.metrics.execs, w.metrics.output, booted{w}}
	if w.Stored != nil {
		all = append(all, w.metrics.packs, w.metrics.packed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "aetherium_output_unstored_executions",
			Help: "Executions that have ended, or may have, and whose output is not known to be in the storage.",
		}, func() float64 { return float64(w.Journals.Uncarried()) }))
	}
	return all
}

// booted tells of the memories that drivers keep of booted machines.
type booted struct{ w *Worker }

var (
	bootedEvents = prometheus.NewDesc("aetherium_booted_memories_total",
		"Memories of booted machines, by what happened: made, used (a machine went on from one), missed (one booted, for there was none), failed.",
		[]string{"driver", "event"}, nil)
	bootedKept = prometheus.NewDesc("aetherium_booted_memories", "Memories of booted machines that are kept.", []string{"driver"}, nil)
	bootedSize = prometheus.NewDesc("aetherium_booted_memory_bytes", "What kept memories of booted machines take of the disk.", []string{"driver"}, nil)
)

// Describe implements prometheus.Collector.
func (booted) Describe(to chan<- *prometheus.Desc) {
	to <- bootedEvents
	to <- bootedKept
	to <- bootedSize
}

// Collect implements prometheus.Collector.
func (b booted) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), maxCollect)
	defer cancel()
	for name, d := range b.w.Deps.Drivers {
		k, ok := d.(vmm.BootKeeper)
		if !ok {
			continue
		}
		c, err := k.Booted(ctx)
		if err != nil {
			b.w.Log.Debug("kept memories not counted", "driver", name, "error", err)
			continue
		}
		for event, n := range map[string]int64{"made": c.Made, "used": c.Used, "missed": c.Missed, "failed": c.Failed} {
			to <- prometheus.MustNewConstMetric(bootedEvents, prometheus.CounterValue, float64(n), name, event)
		}
		to <- prometheus.MustNewConstMetric(bootedKept, prometheus.GaugeValue, float64(c.Kept), name)
		to <- prometheus.MustNewConstMetric(bootedSize, prometheus.GaugeValue, float64(c.Bytes), name)
	}
}

// started counts a start that came to its end.
func (m *metrics) started(driver string, t *trace) {
	m.starts.WithLabelValues(driver, string(t.kind)).Observe(time.Since(t.began).Seconds())
	for _, p := range t.phases {
		m.phases.WithLabelValues(driver, string(t.kind), m.name(p.Name)).Observe(p.Took.Seconds())
	}
}

// began counts a command that was to start.
func (m *metrics) began(at time.Time, err error) {
	outcome := "started"
	if err != nil {
		outcome = "failed"
	}
	m.execs.WithLabelValues(outcome).Observe(time.Since(at).Seconds())
}

// name is a phase's label.
func (m *metrics) name(phase string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.names[phase] {
		if len(m.names) >= maxPhaseNames {
			return "other"
		}
		m.names[phase] = true
	}
	return phase
}

// stored counts output that was to be stored.
func (m *metrics) stored(p *domain.OutputPack, err error) {
	m.carried("stored", "store_failed", p, err)
}

// fetched counts output that was to be fetched.
func (m *metrics) fetched(p *domain.OutputPack, err error) {
	m.carried("fetched", "fetch_failed", p, err)
}

func (m *metrics) carried(done, failed string, p *domain.OutputPack, err error) {
	if err != nil {
		m.packs.WithLabelValues(failed).Inc()
		return
	}
	m.packs.WithLabelValues(done).Inc()
	m.packed.WithLabelValues(done).Add(float64(p.Packed.Bytes))
}
