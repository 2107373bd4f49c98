// Package domain holds the product's nouns: VM, Execution, Task, Template,
// Snapshot, Worker, Project, and what is always true of them. It does no I/O.
//
// Sizes are bytes, durations are time.Duration, CPU is in thousandths of a
// core, times are UTC.
package domain
