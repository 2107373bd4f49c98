// Package firecracker is the microVM engine that runs guests in Firecracker,
// each started by Firecracker's jailer: in a root of its own, under the guest's
// ID, in its control group and network namespace, with Firecracker's seccomp
// filters on.
//
// What a monitor sees is mounted in a namespace that ends with it: nothing is
// left on the host when it or this process is killed. The part of the guest's
// directory that it can write to is run, with the sockets; the others are this
// package's own books.
//
// A monitor restored by userfaultfd is the child of a page server (package
// pager), which is the first process of their process namespace: when it dies,
// the kernel ends the guest, and when the guest ends, so does the server.
package firecracker
