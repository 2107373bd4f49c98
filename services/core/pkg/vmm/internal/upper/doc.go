// Package upper packs what overlayfs keeps of a machine's files, and unpacks it
// on another host. Who unpacks trusts nothing: not who packed, and not the guest
// whose files they are. Nothing is made but below the directory, no link is
// followed, and sizes, counts, depths and attributes are bounded.
//
// The form is a mark, then entries, directories before what is in them, each as
// four bytes of length (big endian) and JSON; a regular file's content follows as
// package sparse writes it. A length of zero ends it. An entry says how deep it
// is and its name there, so that it can only be in a directory that was made
// before, and names are never paths.
package upper
