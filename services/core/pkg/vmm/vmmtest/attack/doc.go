// Package attack is what a driver's machines must withstand: the attempts of a
// hostile guest, as root in a machine, to reach its host, the worker and its
// neighbours. It is the conformance suite's hostile half (package vmmtest).
//
// A driver's test puts itself on a host of its own by [OnOwnHost] or
// [MoveToOwnHost], makes a [Lab] there and calls [Run]. The attempts are a
// program, testdata/intruder, that is put into the machine through the ordinary
// agent and run as root. It tells what was refused; what must be true on the
// host and for a neighbour afterwards is looked at from outside.
//
// What an attempt that succeeds would harm is the lab: network, mount and
// process namespaces of its own, without a route out, in which the internet,
// the metadata addresses and the private networks are fakes.
package attack
