// Package archive streams directory trees as PAX tar (POSIX.1-2001) with the
// rights of an OS user, and unpacks such streams without ever leaving the
// directory they are unpacked into.
//
// Content, symbolic and hard links, modes, modification times and extended
// attributes user.* travel; owners do not: what is unpacked belongs to the user
// who unpacks. Sockets, devices and pipes are left out when packing and refused
// when unpacking.
package archive

const (
	// MaxEntries bounds the entries of one archive.
	MaxEntries = 1_000_000
	// MaxName bounds the name of an entry, in bytes.
	MaxName = 4096
	// MaxDepth bounds the directories above an entry.
	MaxDepth = 256

	xattrRecord   = "SCHILY.xattr." // what star, GNU tar, bsdtar and Docker write
	xattrPrefix   = "user."
	maxXattrs     = 256
	maxXattrBytes = 256 << 10
)
