package guest

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// sendRoom is how much the kernel holds of what an agent has not read yet. It
// must be more than what agents write to a disk at once (1 MiB): with the
// usual 208 KiB whoever sends waits for the disk, and then the disk for him.
const sendRoom = 2 << 20

// roomy widens what can be under way to an agent on this host.
func roomy(dial Dial) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if local, ok := conn.(*net.UnixConn); ok && err == nil {
			widen(local)
		}
		return conn, err
	}
}

// widen goes beyond the limit for everybody (net.core.wmem_max) where it may.
func widen(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendRoom)
	})
	if err == nil && refused != nil {
		_ = conn.SetWriteBuffer(sendRoom) // as much of it as is allowed
	}
}
