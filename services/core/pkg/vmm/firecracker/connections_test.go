package firecracker

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// Who only listens to a guest that is saved hears of it; others' connections stay, and
// those that were closed are not kept.
func TestConnectionsEndWithASave(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		other, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = conn.Close(), other.Close() })
		return conn
	}
	var c connections
	saved, another := microvm.Guest{Dir: "/a"}, microvm.Guest{Dir: "/b"}
	listens, stays := dial(), dial()
	c.add(saved, listens)
	c.add(another, stays)
	for range 10 * leastLimit {
		conn := dial()
		c.add(saved, conn)
		_ = conn.Close()
	}
	if n := len(c.of[saved.Dir]); n > 2*leastLimit {
		t.Errorf("%d connections are kept, one of them open", n)
	}
	heard := make(chan error, 1)
	go func() {
		_, err := listens.Read(make([]byte, 1))
		heard <- err
	}()
	c.end(saved)
	if err := <-heard; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who listens hears %v", err)
	}
	if closed(stays) || !closed(listens) {
		t.Error("another guest's connection was closed, or this one's was not")
	}
	if len(c.of) != 1 {
		t.Errorf("%d guests are kept", len(c.of))
	}
}
