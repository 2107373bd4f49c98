// Package worker is the node: it owns the VMs placed on it. It converges each
// to what is wanted, holds the sessions with their guest agents, enforces
// deadlines and limits by its own clock, records usage, and after a restart
// takes up everything that still runs.
//
// What is wanted is in the store; what is so is asked of the drivers. The
// worker keeps nothing that it cannot learn again from those two and the
// journals, so it can be killed at any moment.
package worker
