package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aetherium/aetherium/tests/internal/server"
	"github.com/aetherium/aetherium/tests/scenarios/chaos/history"
)

// lookEvery is how often the hosts are looked at, and readFor how long the rows
// of machines may take to be read: the database may be paused.
const (
	lookEvery = 300 * time.Millisecond
	readFor   = 2 * time.Second
)

// watch looks at what runs on the hosts of workers until ctx ends; looks gives
// what was seen by then. The VM of a machine is known from its row, which is
// there for as long as the machine: one that was never seen is of no VM.
func (f *field) watch(ctx context.Context) (looks func() []history.Look) {
	var all []history.Look
	look := f.running()
	owner := map[string]string{} // the VM that has a machine, or had it
	var looking sync.WaitGroup
	looking.Go(func() {
		for ; ctx.Err() == nil; wait(ctx, lookEvery) {
			all = append(all, history.Look{At: time.Now(), Running: look()})
		}
	})
	looking.Go(func() {
		for ; ctx.Err() == nil; wait(ctx, lookEvery) {
			reading, cancel := context.WithTimeout(ctx, readFor)
			places, err := f.workers[0].Places(reading)
			cancel()
			if err != nil {
				continue // it is one of the faults
			}
			for machine, p := range places {
				if p.VM != "" {
					owner[machine] = p.VM
				}
			}
		}
	})
	return func() []history.Look {
		looking.Wait()
		for _, l := range all {
			for i, r := range l.Running {
				l.Running[i].VM = owner[r.Machine]
			}
		}
		return all
	}
}

// running makes a look at what runs on the host of each worker.
func (f *field) running() (look func() []history.Running) {
	machines := server.Running(f.workers)
	return func() (all []history.Running) {
		for s, ids := range machines() {
			for _, id := range ids {
				all = append(all, history.Running{Machine: id, Worker: nameOf(s)})
			}
		}
		return all
	}
}

// misplaced waits until everything on the hosts is where its row says, or tells
// what is not.
func (f *field) misplaced(ctx context.Context) []string {
	look := f.running()
	for {
		running := look() // first: the row of a machine is there before it
		rows, err := f.workers[0].Places(ctx)
		places := map[string]history.Place{}
		for id, p := range rows {
			places[id] = history.Place(p)
		}
		wrong := history.CheckPlaces(running, places)
		if err != nil {
			wrong = []string{fmt.Sprintf("the rows of machines: %v", err)}
		}
		if len(wrong) == 0 || ctx.Err() != nil {
			return wrong
		}
		wait(ctx, 200*time.Millisecond)
	}
}

// ran counts the machines that were seen.
func ran(looks []history.Look) int {
	machines := map[string]bool{}
	for _, l := range looks {
		for _, r := range l.Running {
			machines[r.Machine] = true
		}
	}
	return len(machines)
}
