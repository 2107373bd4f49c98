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
package lane
