package boot

import (
	"time"

	"golang.org/x/sys/unix"
)

// Phase is a point that the boot came to.
type Phase struct {
	Name string
	At   time.Duration // since the kernel's start
}

type trace struct{ phases []Phase }

// reach notes that a phase is over.
func (t *trace) reach(name string) {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
		t.phases = append(t.phases, Phase{name, time.Duration(now.Nano())})
	}
}
