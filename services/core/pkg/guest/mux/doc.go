// Package mux carries many connections over one stream of bytes that outlives
// its ends: a virtio-serial port or an attached stdio, where either side may
// die and return, and what it had begun to write is still in the pipe.
//
// Both ends run a [Mux] over a function that (re)opens the stream. Three
// layers make connections of it:
//
//   - Packets. The stream is cut into packets by consistent overhead byte
//     stuffing (Cheshire and Baker, 1999): a zero byte ends a packet and occurs
//     nowhere in it. Whatever is left over from an earlier life ends at the
//     next zero; nothing that a guest sends as data can look like a packet, as
//     it could if packets were found by a magic number. A CRC-32C covers each.
//   - Lives. Each time it opens the stream an end draws a random number, its
//     life, and says hello. Two ends are linked once each has named the other's
//     life; data packets name both lives and are counted. A packet of another
//     pair of lives is left over and ignored; a hello of a new life, or a hole
//     in the count, ends the link, and with it every connection on it.
//   - Streams. On a link runs yamux: connections with flow control of their
//     own, so that a slow one holds up no other and memory is bounded.
//
// A hole is noticed by the next packet. While both ends live the stream itself
// loses nothing; it is at the breaks that it does, and those begin with a hello.
//
// Connections of a link that ended fail with an error; new ones work as soon as
// the other side is back. A connection cannot be closed one way only (yamux).
package mux
