package worker

import (
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// trace times the phases of one start.
type trace struct {
	last   time.Time
	phases []vmm.Phase
	handle vmm.Handle // of a machine that was just made, to be stored with the state
	// greeted: the agent has shaken hands before, with the client that is at hand.
	greeted bool
	// configured: it has been told all that the VM asks for.
	configured bool
}

func newTrace() *trace { return &trace{last: time.Now()} }

// phase ends the present phase.
func (t *trace) phase(name string) {
	now := time.Now()
	t.phases = append(t.phases, vmm.Phase{Name: name, Took: now.Sub(t.last)})
	t.last = now
}
