// Package journal keeps the output of executions in bounded files.
//
// The guest agent holds only the last MiB of what a command wrote; the journal
// is the truth: it serves readers that come late, outlives the machine, and
// tells after a restart how far the output was taken. A [Store] owns one
// directory; a [Journal] is the output of one execution in one epoch of its VM.
//
// # On disk
//
// A short output lies in packs, files that many journals share; a long one
// continues in segment files of its own, named
// <vm>-<epoch>-<execution>-<offset of the first byte>.j, so that a directory
// listing is their index and a dropped segment needs no bookkeeping. A segment
// is a magic line and frames; a frame is a checksum, a length, an offset, a
// kind and data.
//
// Each piece is written by one write(2) and never synced: what the kernel
// took survives the death of this process, which is what is promised. A piece
// that was cut off half-way is dropped when the store is opened again; the
// agent still holds its bytes, because they were not acknowledged. After a
// crash of the host the machine is gone as well, and whatever the file system
// kept is served with gaps where it is damaged.
//
// # Bounds
//
// When a journal passes its bound its oldest part goes, and readers are told
// of the gap. Readers hold one file and one buffer each. They never delay the
// writer, but for those that ask for it: see [Reader.Hold].
//
// # Elsewhere
//
// A journal that has ended never changes. [Store.Pack] copies such journals, and
// [Store.Unpack] makes them anew in another store, where readers see the same.
// What is elsewhere, too, goes first where room is short: [Store.Relieve].
package journal
