// Package cli is the command line `aetherium`. It talks to the API only.
//
// Exit codes: what a command run in a VM exits with is passed on by run, exec,
// shell and attach (128+n after signal n). Of our own: 0 success, 1 the
// request failed, 2 the command line was wrong, 130 and 143 interrupted; and
// where a code could be mistaken for the command's, as with docker: 125 we
// failed, 126 the program cannot be executed, 127 there is no such program.
package cli
