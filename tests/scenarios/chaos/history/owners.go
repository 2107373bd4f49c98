package history

import (
	"fmt"
	"slices"
	"time"
)

// Running is a machine that has processes on the host of a worker, and the VM
// that has it: empty where none was ever seen to.
type Running struct{ Machine, VM, Worker string }

// Look is what ran on the hosts of all workers when somebody looked at them, one
// after the other.
type Look struct {
	At      time.Time
	Running []Running
}

// Place is where the installation has a machine, and for which VM: none for one
// of a pool.
type Place struct{ Worker, VM string }

// CheckOwners says which machine or VM ran on two workers at once. A VM that
// moves ends at one worker before it begins at another, but a look takes its
// time: it may see the VM at one before it ends there, and a moment later at the
// other. What two looks in a row see at the same two workers, in the same machines, ran
// at both when the first of them was over.
func CheckOwners(looks []Look) (wrong []string) {
	told := map[string]bool{}
	var before map[string][]Running
	for _, l := range looks {
		now := map[string][]Running{} // by what ran there
		for _, r := range l.Running {
			now["machine "+r.Machine] = append(now["machine "+r.Machine], r)
			if r.VM != "" {
				now["VM ("+r.VM+")"] = append(now["VM ("+r.VM+")"], r)
			}
		}
		for what, all := range now {
			var still []string
			for _, r := range all {
				was := func(b Running) bool { return b.Machine == r.Machine && b.Worker == r.Worker }
				if slices.ContainsFunc(before[what], was) && !slices.Contains(still, r.Worker) {
					still = append(still, r.Worker)
				}
			}
			if len(still) > 1 && !told[what] {
				told[what] = true
				slices.Sort(still)
				wrong = append(wrong, fmt.Sprintf("%s: %s ran on %v at once", l.At.Format(time.TimeOnly+".000"), what, still))
			}
		}
		before = now
	}
	slices.Sort(wrong)
	return wrong
}

// CheckPlaces says which machine runs where the installation does not have it,
// when everything works again and nothing is under way.
func CheckPlaces(running []Running, places map[string]Place) (wrong []string) {
	for _, r := range running {
		switch p, ok := places[r.Machine]; {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("machine %s runs on %s, and has no row", r.Machine, r.Worker))
		case p.Worker != r.Worker:
			wrong = append(wrong, fmt.Sprintf("machine %s of VM (%s) runs on %s, and its row says %s", r.Machine, p.VM, r.Worker, p.Worker))
		}
	}
	slices.Sort(wrong)
	return wrong
}
