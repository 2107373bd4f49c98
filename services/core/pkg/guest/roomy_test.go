package guest

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRoomyWidensLocalConnections(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
	room := func(dial Dial) (size int) {
		conn, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { size, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) }); err != nil {
			t.Fatal(err)
		}
		return size
	}
	if usual, wide := room(dial), room(roomy(dial)); wide <= usual {
		t.Errorf("%d bytes, and %d without", wide, usual)
	}
	here, there := net.Pipe()
	defer func() { _ = there.Close() }()
	conn, err := roomy(func(context.Context) (net.Conn, error) { return here, nil })(t.Context())
	if err != nil || conn != here {
		t.Errorf("another kind of connection: %v, %v", conn, err)
	}
	if conn, err := roomy(func(context.Context) (net.Conn, error) { return nil, net.ErrClosed })(t.Context()); conn != nil || err == nil {
		t.Errorf("a failed dial: %v, %v", conn, err)
	}
}
