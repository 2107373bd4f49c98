// Package microvm makes machines with a kernel of their own. A [Driver] keeps
// their records, disks, networks and control groups, tells each who it is, and
// takes and restores snapshots of disk and memory; what runs the guest, the
// virtual machine monitor, is an [Engine]: QEMU or Firecracker.
package microvm
