package worker

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// trace times the phases of one start.
type trace struct {
	began  time.Time
	last   time.Time
	phases []vmm.Phase
	kind   startKind
	handle vmm.Handle // of a machine that was just made, to be stored with the state
	// greeted: the agent has shaken hands before, with the client that is at hand.
	greeted bool
	// configured: it has been told all that the VM asks for.
	configured bool
	// unclaimed: the machine is the pool's by its row, until the VM's says that it runs.
	unclaimed bool
	// named: it gets its VM's name meanwhile.
	named *outcome
}

// startKind is how a VM came to run.
type startKind string

const (
	startCold   startKind = "cold"   // from its disk
	startMemory startKind = "memory" // from another's memory
	startPool   startKind = "pool"   // in a machine that ran already
	startResume startKind = "resume" // from its own memory
	startTaken  startKind = "taken"  // it ran, and its worker came back
)

func newTrace(kind startKind) *trace {
	now := time.Now()
	return &trace{began: now, last: now, kind: kind}
}

// phase ends the present phase.
func (t *trace) phase(name string) {
	now := time.Now()
	t.phases = append(t.phases, vmm.Phase{Name: name, Took: now.Sub(t.last)})
	t.last = now
}

// spans tells of the phases in the trace of the request that they serve.
func (t *trace) spans(ctx context.Context) {
	at, whole := t.began, t.began
	for _, p := range t.phases {
		if strings.Contains(p.Name, ".") { // a part of the phase before it
			tracing.Within(ctx, "start "+p.Name, whole, whole.Add(p.Took))
			whole = whole.Add(p.Took)
			continue
		}
		tracing.Within(ctx, "start "+p.Name, at, at.Add(p.Took))
		at, whole = at.Add(p.Took), at
	}
}

// Of what a driver tells; part of it comes from guests.
const maxDriverPhases = 32

var phaseForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// driverPhases puts what a driver saw of a start behind the phase in which it
// did that.
func (w *Worker) driverPhases(ctx context.Context, driver vmm.Driver, machine domain.ID, t *trace) {
	tracer, ok := driver.(vmm.Tracer)
	if !ok {
		return
	}
	at := slices.IndexFunc(t.phases, func(p vmm.Phase) bool { return p.Name == "start" || p.Name == "resume" })
	if at < 0 {
		return
	}
	parts, err := tracer.Trace(ctx, string(machine))
	if err != nil {
		w.Log.Debug("driver's trace not read", "machine", machine, "error", err)
		return
	}
	var fit []vmm.Phase
	for _, p := range parts {
		if phaseForm.MatchString(p.Name) && p.Took >= 0 && len(fit) < maxDriverPhases {
			fit = append(fit, vmm.Phase{Name: t.phases[at].Name + "." + p.Name, Took: p.Took})
		}
	}
	t.phases = slices.Insert(t.phases, at+1, fit...)
}
