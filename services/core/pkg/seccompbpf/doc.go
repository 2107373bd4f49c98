// Package seccompbpf compiles the system call filter of an OCI configuration
// (runtime-spec, config-linux.md, "Seccomp") to the program that the kernel runs
// (seccomp(2), "Seccomp filters are expressed as Berkeley Packet Filter
// programs"), so that it is made once and not by the runtime at every start.
//
// The program finds a call's number by bisection: ten steps, not hundreds, in
// front of every system call that the kernel cannot answer from its cache.
package seccompbpf
