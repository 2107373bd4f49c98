// Package ws serves streams: the output and input of executions, events and
// watched directories, over WebSocket and as server-sent events.
//
// Every stream can be taken up again: executions by the offset of their
// output, events by their cursor. A stream therefore never buffers for a slow
// client: what it has not taken stays in the journal, and a client that takes
// nothing for too long is cut off and comes back where it was. Closing a
// stream never ends a command.
package ws
