// Package networktest keeps tests of machines' networks apart.
package networktest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

const (
	ranges = 16
	room   = (1<<31 - network.DefaultIDHigh) / ranges
)

// IDs is a range of user IDs (high is exclusive) that nobody else on this host
// has until the test's end. It is for an instance whose leases are not the
// host's, as in a lab with a network of its own: user IDs are the one thing that
// is the host's all the same, and whoever tears its network down looks at all of
// the host's processes. The ranges lie above those that instances have by default.
func IDs(t testing.TB) (low, high uint32) {
	t.Helper()
	for {
		for n := range uint32(ranges) {
			low := network.DefaultIDHigh + n*room
			if take(t, n, nspair.Range{Base: low, Count: room}) {
				return low, low + room
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("other tests have all ranges of user IDs")
		}
	}
}

// take locks a range, unless another test has it or has left processes in it.
func take(t testing.TB, n uint32, ids nspair.Range) bool {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("aetherium-test-ids.%d", n)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ok := false
	defer func() {
		if !ok {
			_ = f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return false
	} else if err != nil {
		t.Fatal(err)
	}
	used, err := nspair.Processes()
	if err != nil {
		t.Fatal(err)
	}
	if ok = !used.In(ids); ok {
		t.Cleanup(func() { _ = f.Close() })
	}
	return ok
}
