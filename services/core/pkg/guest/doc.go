// Package guest is the host side of the guest agent: it starts and supervises
// executions, moves files and reaches ports, over any stream of bytes that a
// driver's Dial yields.
//
// A [Client] makes single calls. A [Session] supervises the executions of one
// machine for one epoch: it drains their output into the journal, acknowledges
// it, and loses and doubles no byte however often the channel or this process
// breaks.
//
// What the agent says is input from an attacker, for the guest owns it: every
// message is bounded in size, checked, and waited for with a limit where
// somebody waits. An agent that breaks the protocol costs its own executions
// an error of code GuestFault, and the host nothing.
package guest
