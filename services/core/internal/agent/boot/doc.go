// Package boot takes a kernel that has just started to a machine that programs
// can run in. The agent is its first process, in an initramfs that holds
// nothing but the agent and the kernel's modules: it loads them, puts the
// machine's disks together, mounts what programs expect of a machine, and lets
// go of the initramfs. At the end it powers the machine off: the first process
// must never just end (init(1); the kernel panics).
package boot
