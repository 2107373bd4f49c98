// Package oci is the driver that makes machines with an OCI runtime (runc,
// crun, runsc) through its command line.
//
// A machine is a container with namespaces of its own. Its user and network
// namespaces are a pair made beforehand by package network; the runtime joins
// them and makes the rest. Its root is an overlay of the template's root
// filesystem and an upper layer on the machine's volume, both seen through
// mounts that map IDs, so that files carry the IDs the guest sees: one template
// serves every ID range, and a fork needs no change of owners. Its first
// process is the guest agent, which serves on a listening socket that the
// driver binds where no guest can reach it and passes as descriptor 3.
//
// Nothing about a machine is kept in this process only. Each has a record in
// the state directory that is written before the deed, and everything made for
// it has a name that follows from the instance and the machine's ID, so that
// any later process finds all of it.
package oci
