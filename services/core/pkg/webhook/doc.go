// Package webhook tells projects' events to receivers of theirs by HTTP, as
// Standard Webhooks has it: signed, with an ID that is the same at every
// attempt, and tried again until it is received or given up.
//
// What is to be told is in the store. An event becomes a delivery of each
// webhook that wants it, in one transaction with the webhook's place in the
// outbox; a process claims deliveries for a time, attempts them, and notes what
// came of it. Any number of processes do so side by side. One that dies in
// between leaves a claim that ends, after which another attempts it again: a
// message is told at least once, and its ID shows that it is the same.
package webhook
