// Package volume keeps the files of volumes: each is a directory of bounded
// size on the node's disk, that VMs mount and that is read and written from
// outside. Whatever is in it was put there by guests, while they go on changing
// it: no path leads out of the directory, through a link or onto another file
// system, and nothing but a regular file is ever read.
package volume
