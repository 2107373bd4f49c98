// Package trail records the changes that requests make or ask for in the audit
// log: each request of an operation that is no reading one leaves one record,
// before its answer goes out, whether it was done, failed or was refused.
// Streams record what is done over them: the start of an execution, each
// signal, and once for each stream that it sent input, ended it or resized the
// terminal; all but the start before they are done, with the status 202.
//
// What a client of a VM's agent changes in it is recorded as it would be if it
// had asked the API for the same: the VM's token says in whose project, and
// nobody in particular asked.
//
// A change is refused while it could not be recorded. Refusals of credentials
// and of rate limits are bounded: those of a client that come in a flood are
// counted, and the next that is recorded tells how many were not. So are the
// changes in a VM, and what is sent to its commands.
package trail
