// Package execution runs commands and keeps what the host must not lose of
// them: the output that it has not acknowledged, the input that the command
// has not read, and how the command ended.
//
// Output is counted in bytes of stdout and stderr (or of the terminal)
// together, in the order in which the agent read them. At most [WindowBytes]
// are held per execution; then the agent stops reading and the command blocks
// in its write, as on any full pipe.
//
// An execution ends when its main process has ended and its output is read: up
// to end of file, or, where a background process keeps the output open, what
// had been written [Linger] after the exit. What such a process writes later is
// read and thrown away, so that it neither stalls nor dies of SIGPIPE.
package execution
