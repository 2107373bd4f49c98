package main

import (
	"runtime"
	"sync"
)

// spareThreads is more than the agent has at work at once while a machine is in need.
const spareThreads = 12

// hoardThreads makes threads ahead of the need for them. Go's runtime keeps
// those that idle, and ends the process where it wants one more and gets none:
// commands that use up the machine's processes would end the agent, and with it
// the machine.
func hoardThreads(n int) {
	var there sync.WaitGroup
	there.Add(n)
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			runtime.LockOSThread() // so that each has a thread of its own
			defer runtime.UnlockOSThread()
			there.Done()
			there.Wait()
		})
	}
	all.Wait()
}
