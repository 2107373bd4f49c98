// Package fsys works on the machine's files with the rights of an OS user.
//
// Everything that resolves a path runs inside [osuser.Do]; reading and writing
// an open file does not, because the kernel asks for rights at open. Paths come
// from outside and are bounded; what they lead to is decided by the kernel.
package fsys
