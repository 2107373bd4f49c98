// Package lane carries the attachment to one execution over a connection of
// its own, for a command that writes much: HTTP/2 and protobuf cost more than
// the bytes themselves then, in copies and in the frames that keep many streams
// apart. What is said is the same as on ExecutionService.Attach.
//
// The connection begins as a request for [Path] with "Upgrade: [Protocol]".
// After 101 both sides send frames: a kind (1 byte), the length of what follows
// (4, big endian), and that.
//
//   - A message is an AttachRequest or an AttachResponse as protobuf.
//   - Output, from the agent alone, is a stream (1 byte), an offset (8, big
//     endian) and data.
//   - An error, from the agent alone and its last word, is a Connect code (4,
//     big endian) and a text.
//
// A lane ends with its execution, unless the request had "[HeaderMany]: [Many]" and
// the answer had it too, or it was begun by a call (see below). Then the host may begin another attachment behind an
// execution's End, which is the last that the agent says of it. What the host said
// of the one before, and came after that, is between its End and the message that
// begins the next: it is dropped. After an error the lane ends all the same.
//
// # Calls
//
// The calls that a host makes before and beside a machine's commands can be made
// by such frames as well, without HTTP: where a processor is emulated, HTTP/2 and
// Connect are a good part of what a machine that goes on from memory does before
// its first answer. Such a connection begins with [Hello] in place of a request.
// The host sends calls:
//
//   - A call is a method (1 byte) and its message as protobuf.
//
// and the agent answers each, in turn, by a message or an error. After the call
// Attach the connection is a lane.
package lane
