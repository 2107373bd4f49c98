package attack

import (
	"testing"
	"time"
)

// ownKernelAttacks are what a kernel of its own gives a guest to reach for: the
// hardware that its monitor makes up, and its own end.
var ownKernelAttacks = map[string]func(*testing.T, *bed, *machine){
	// What others have in common with it is below its drives.
	"drives": func(t *testing.T, _ *bed, m *machine) { m.intrude(t, 3, "drives") },
	"ports":  attackHardware,
	"crash":  attackCrash,
}

// attackHardware writes junk to the ports of every device. The monitor may end
// of it, and nobody else.
func attackHardware(t *testing.T, _ *bed, m *machine) {
	m.begin(t, "ports").let()
	select {
	case <-m.ended(t):
	case <-time.After(junkTime): // one that hangs is not told from one that goes on
	}
	m.anew(t)
}

// junkTime is how long junk is written: as much as that is.
const junkTime = 3 * time.Second

// attackCrash has the kernel fall over: the machine has ended then, and is told to have.
func attackCrash(t *testing.T, _ *bed, m *machine) {
	m.begin(t, "crash").let()
	if _, err := m.driver.Wait(limited(t), m.id); err != nil {
		t.Errorf("its end is not told: %v", err)
	}
	m.anew(t)
}
