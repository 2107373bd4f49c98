// Package fake is a driver whose machines are directories: it runs the real
// guest agent in this process and commands as the current user, in a home
// directory of their own, with nothing between them and the host. It needs no
// privileges and starts a machine in a millisecond, which makes it right for
// tests of what stands on drivers, and wrong for everything else.
//
// What it takes seriously is the channel: each machine has one byte stream, as
// a virtio-serial port is one, which can be cut, whose bytes outlive its ends,
// and over which the multiplexer of package mux runs.
//
// Its memory, which it keeps after [Node.KeepMemory], is a makeshift: in a
// machine that is paused in mode memory the processes stand still where they
// are, and in a machine that is made from a memory snapshot the commands that
// ran in the origin begin anew, under the IDs that they had there.
//
// A [Node] is the host: it keeps the machines. A [Driver] is one worker's view
// of it; a new one finds the machines that an earlier one made, as after a
// restart. A node makes errors on demand, see [Node.FailNext] and its like.
package fake
