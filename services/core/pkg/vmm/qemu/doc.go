// Package qemu runs guests in QEMU: a [microvm.Engine] of its `microvm` machine,
// with hardware virtualisation (KVM) where a guest was seen to boot with it, and
// in software (TCG) everywhere else.
//
// A monitor runs under an ID of its own, in a root that shows nothing but QEMU
// and the guest's files, without capabilities, under QEMU's own system call
// filter. Sockets, the network device and the saved memory are handed to it
// open. It outlives this process, which finds it again by its sockets.
//
// A guest's memory is always private to its monitor. A saved one is a file that
// a second monitor, which never runs the guest, was sent over the migration
// protocol; guests that go on from it map it copy on write. So nothing that any
// guest does changes a saved memory, and what they leave alone they share.
package qemu
