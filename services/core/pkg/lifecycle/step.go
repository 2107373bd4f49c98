package lifecycle

import "github.com/aetherium/aetherium/libs/types/pkg/domain"

// MachineStatus is what the driver says of the VM's machine.
type MachineStatus string

// The machine statuses. Absent covers a VM that never had one.
const (
	MachineAbsent  MachineStatus = "absent"
	MachineCreated MachineStatus = "created" // disk and configuration are there, nothing runs
	MachineRunning MachineStatus = "running"
	MachinePaused  MachineStatus = "paused"
	MachineBroken  MachineStatus = "broken" // half made or half removed
)

// View is everything a step depends on.
type View struct {
	Desired  domain.DesiredState
	Observed domain.ObservedState
	Machine  MachineStatus
	// Attached is true while the worker holds a session with the machine's
	// agent whose handshake answered.
	Attached bool
	// Launched is true once the VM has been ready at least once: its disk then
	// holds a user's data and is never made anew behind their back. One whose disk
	// is in the storage loses nothing with its machine.
	Launched bool
}

// Step is one thing for the worker to do. Every step is idempotent.
type Step string

// The steps.
const (
	None    Step = "none"    // as wanted, or nothing leads on
	Create  Step = "create"  // make a machine, start it and attach
	Start   Step = "start"   // start the existing machine and attach
	Attach  Step = "attach"  // the machine runs: shake hands, take up its executions
	Pause   Step = "pause"   //
	Resume  Step = "resume"  //
	Stop    Step = "stop"    // end the machine, keep its disk
	Delete  Step = "delete"  // remove machine and disk, leave the tombstone
	Rebuild Step = "rebuild" // remove what is half made of a VM that was never ready, then create
	Settle  Step = "settle"  // the world is as wanted: only write it down
	Ended   Step = "ended"   // the machine ended by itself: write down why
	Fail    Step = "fail"    // no step can give what is wanted
)

// Next names the step that leads from what is to what is wanted.
func Next(v View) Step {
	if v.Observed == domain.Deleted {
		return None
	}
	if v.Desired == domain.WantDeleted {
		return Delete
	}
	if v.Observed == domain.Failed {
		return None
	}
	switch v.Machine {
	case MachineBroken:
		if v.Launched {
			return Fail
		}
		return Rebuild
	case MachineAbsent:
		return nextAbsent(v)
	case MachineCreated:
		return nextCreated(v)
	case MachineRunning:
		return nextRunning(v)
	case MachinePaused:
		return nextPaused(v)
	}
	return None
}

func nextAbsent(v View) Step {
	if v.Launched {
		// The disk was there and is not: nothing can bring it back.
		return Fail
	}
	if v.Desired == domain.WantStopped && v.Observed == domain.Stopped {
		return None
	}
	if v.Observed == domain.Paused {
		// It rests in the storage, with what it had in its memory.
		switch v.Desired {
		case domain.WantPaused:
			return None
		case domain.WantStopped:
			return Settle
		}
	}
	// A VM that is wanted stopped or paused is made first: its disk is what was asked for.
	return Create
}

func nextCreated(v View) Step {
	switch v.Desired {
	case domain.WantStopped:
		if v.Observed == domain.Stopped {
			return None
		}
		return Settle
	case domain.WantRunning, domain.WantPaused:
		if ran(v.Observed) {
			return Ended
		}
		return Start
	}
	return None
}

// ran reports whether a machine that does not run now is news in state s.
func ran(s domain.ObservedState) bool {
	switch s {
	case domain.Running, domain.Pausing, domain.Paused, domain.Resuming, domain.Unreachable:
		return true
	}
	return false
}

func nextRunning(v View) Step {
	switch v.Desired {
	case domain.WantStopped:
		return Stop
	case domain.WantPaused:
		if !v.Launched {
			return Attach // pausing a machine that was never ready would keep a half-started guest
		}
		return Pause
	case domain.WantRunning:
		if !v.Attached {
			return Attach
		}
		if v.Observed != domain.Running {
			return Settle
		}
	}
	return None
}

func nextPaused(v View) Step {
	switch v.Desired {
	case domain.WantStopped:
		return Stop
	case domain.WantRunning:
		return Resume
	case domain.WantPaused:
		if v.Observed != domain.Paused {
			return Settle
		}
	}
	return None
}

// Settled is the observed state that Settle writes for what the driver says.
func Settled(m MachineStatus) domain.ObservedState {
	switch m {
	case MachineRunning:
		return domain.Running
	case MachinePaused:
		return domain.Paused
	}
	return domain.Stopped
}

// Underway is the observed state to show while a step runs; "" for steps that
// show none.
func Underway(s Step) domain.ObservedState {
	switch s {
	case Create, Rebuild:
		return domain.Creating
	case Start:
		return domain.Starting
	case Pause:
		return domain.Pausing
	case Resume:
		return domain.Resuming
	case Stop:
		return domain.Stopping
	case Delete:
		return domain.Deleting
	}
	return ""
}

// Converged reports whether a VM is where it is wanted, or can go no further.
func Converged(desired domain.DesiredState, observed domain.ObservedState) bool {
	if observed.Terminal() {
		return true
	}
	switch desired {
	case domain.WantRunning:
		return observed == domain.Running
	case domain.WantPaused:
		return observed == domain.Paused
	case domain.WantStopped:
		return observed == domain.Stopped
	}
	return false
}
