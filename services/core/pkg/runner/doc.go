// Package runner carries out runs: tasks that have a VM made, a command run in
// it and what came of it kept. It holds nothing that is not in the task's row but
// which projects wait for room, which each process finds out by itself. A
// run's VM and command have their IDs before they are made, so whoever takes a
// run up finds what was begun, and follows it: a command runs once for each
// attempt whatever dies on the way.
package runner
