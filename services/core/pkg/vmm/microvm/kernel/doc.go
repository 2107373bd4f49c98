// Package kernel makes what guests boot: a kernel, for monitors that want it
// uncompressed too, and an initrd that holds the guest agent as /init and the
// modules that it loads (see internal/agent/boot). The kernel is a
// distribution's, made for virtual machines, or the user's own.
package kernel
