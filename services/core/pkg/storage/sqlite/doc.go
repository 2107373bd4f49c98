// Package sqlite keeps the store in one SQLite file, for one server process.
//
// The file is in WAL mode with synchronous=NORMAL: a commit is durable against
// the death of the process at once, and against a power cut at the next
// checkpoint (the file is never damaged by either; the last moments may be
// lost, and the worker reconciles with what really runs). One connection
// writes, a few read. Checkpoints run beside the writer so that no commit
// waits for the disk.
package sqlite
