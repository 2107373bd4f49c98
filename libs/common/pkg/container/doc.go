// Package container holds what a main function wires a program with, and
// nothing that a package should be given: constructors with exact parameters
// are the wiring.
//
//   - [Slot]: a typed place that is filled exactly once; an empty one fails at
//     the start and not at three in the morning.
//   - [Registry]: named ways to open one kind of thing (drivers, stores),
//     registered visibly in cmd/*.
//   - [App]: services that start in order and stop in reverse, each within a
//     deadline, as soon as the first of them ends.
package container
