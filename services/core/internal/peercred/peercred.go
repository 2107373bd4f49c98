// Package peercred tells who is at the other end of a unix socket.
package peercred

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Of tells who connected to a socket, or has made it listen (SO_PEERCRED of
// unix(7)). Returns Internal for what is no socket of the kernel's.
func Of(conn net.Conn) (*unix.Ucred, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.New(errors.Internal, "this is no unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		peer, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return peer, optErr
}
