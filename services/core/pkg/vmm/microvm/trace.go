package microvm

import (
	"context"
	"slices"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// trace measures a start.
type trace struct {
	last   time.Time
	phases []vmm.Phase
}

func beginTrace() *trace { return &trace{last: time.Now()} }

// phase ends one.
func (t *trace) phase(name string) {
	now := time.Now()
	t.phases = append(t.phases, vmm.Phase{Name: name, Took: now.Sub(t.last)})
	t.last = now
}

// agent ends the phases up to the agent's answer, of which a guest that has
// booted can tell more than the host sees.
func (t *trace) agent(a guest.Agent) {
	began := t.last
	t.phase("guest")
	all := t.phases[len(t.phases)-1].Took
	var parts []vmm.Phase
	var at time.Duration
	for _, p := range a.Phases {
		if p.At < at || p.At > all || len(parts) > 16 {
			return // of an earlier life, or not to be believed
		}
		parts = append(parts, vmm.Phase{Name: "guest-" + p.Name, Took: p.At - at})
		at = p.At
	}
	if len(parts) == 0 {
		return
	}
	// The kernel's clock starts when it does; what is left is before and after.
	parts = append(parts, vmm.Phase{Name: "guest-answer", Took: t.last.Sub(began) - at})
	t.phases = append(t.phases[:len(t.phases)-1], parts...)
}

// keepTrace keeps a start's trace while the machine runs.
func (d *Driver) keepTrace(id string, t *trace) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.traces[id] = t.phases
}

// Trace implements vmm.Tracer.
func (d *Driver) Trace(_ context.Context, id string) ([]vmm.Phase, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.traces[id]), nil
}
