// Package storage is the durable state of the control plane as interfaces:
// [Store] runs transactions, and a [Tx] hands out one small repository for
// each kind of thing. Implementations live below (sqlite, …) and all pass
// the suite in storetest.
//
// # Tenancy
//
// Methods of tenant-bound repositories take the project first. A thing of
// another project is NotFound, exactly as one that does not exist. The zero
// project means the system itself (the worker, sweeps) and sees everything.
//
// # Errors
//
// NotFound, AlreadyExists, Conflict ("changed meanwhile") and InvalidArgument
// (a bad cursor) carry messages that are safe to show. A database that cannot
// be reached or is busy for too long is Unavailable, a full disk NoSpace, and
// everything else Internal.
//
// # Values
//
// Times are kept to the microsecond and come back in UTC. Sealed fields are
// stored as they are given; sealing is the caller's work. Insert and Update
// set the Revision of the value they are given; after a transaction that did
// not commit, read the value again.
package storage
