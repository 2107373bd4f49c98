package oci_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/volume"
)

// withVolume is a machine that has a volume at /mnt/v.
func withVolume(id, dir string) vmm.Spec {
	s := spec(id)
	s.Mounts = []vmm.HostMount{{Source: dir, Target: "/mnt/v"}}
	return s
}

// Machines have a volume at the same time, each of their users writes to it,
// and what is in it is bounded and outlives them, and the driver.
func TestVolumes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const limit = 32 * mib
	id := domain.NewID()
	dir, err := volume.New(l.pool).Make(t.Context(), id, limit)
	must(t, err)
	l.boot(withVolume("one", dir))
	l.boot(withVolume("two", dir))
	if got := l.as("one", 1000, "echo from one >/mnt/v/f; mkdir /mnt/v/d; stat -c '%u %g %a' /mnt/v/f"); got != "1000 1000 644" {
		t.Errorf("one: %q", got)
	}
	if got := l.as("two", 1000, "cat /mnt/v/f; echo from two >>/mnt/v/f; stat -c %u /mnt/v/f; rm -r /mnt/v/d; ls /mnt/v"); got != "from one\n1000\nf" {
		t.Errorf("two: %q", got)
	}
	// What a root makes there to be run as root is that to nobody outside.
	l.sh("one", "touch /mnt/v/root; chmod 4755 /mnt/v/root")
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "f"), &st))
	if above, err := os.Stat(filepath.Dir(dir)); err != nil || st.Uid != 1000 || above.Mode().Perm() != 0o700 {
		t.Errorf("on disk it is %d's, below %v, %v", st.Uid, above.Mode(), err)
	}
	if l.pool.Enforced() {
		if got := l.sh("one", "dd if=/dev/zero of=/mnt/v/big bs=1M count=64 conv=fsync 2>/dev/null || echo refused"); got != "refused" {
			t.Errorf("beyond its size: %q", got)
		}
		l.sh("one", "rm -f /mnt/v/big")
	}

	must(t, l.Stop(t.Context(), "one", 0))
	must(t, l.Start(t.Context(), "one"))
	l.reopen()
	if got := l.sh("one", "cat /mnt/v/f") + l.sh("two", "cat /mnt/v/f"); got != "from one\nfrom twofrom one\nfrom two" {
		t.Errorf("later: %q", got)
	}
	must(t, l.Delete(t.Context(), "one"))
	must(t, l.Delete(t.Context(), "two"))
	files, err := volume.New(l.pool).Open(id)
	must(t, err)
	_, r, err := files.Read(t.Context(), "f")
	must(t, err)
	text, err := io.ReadAll(r)
	if must(t, errors.Join(err, r.Close(), files.Close())); string(text) != "from one\nfrom two\n" {
		t.Errorf("in the end: %q", text)
	}
	must(t, volume.New(l.pool).Delete(t.Context(), id))
}

// Subvolumes would be in nobody's quota, and keep their volume from going.
func TestNoSubvolumesAreMade(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	const none = ^uintptr(0) // as a descriptor
	for request, want := range map[uintptr]syscall.Errno{
		0x50009401: syscall.EPERM, 0x5000940e: syscall.EPERM, 0x50009417: syscall.EPERM, 0x50009418: syscall.EPERM,
		0x15000940e: syscall.EPERM, 0xd000940e: syscall.EPERM, // the kernel looks at less of it
		0x40049409: syscall.EBADF, 0x4020940d: syscall.EBADF, 0x5413: syscall.EBADF, 0x40086602: syscall.EBADF, 0x5000940f: syscall.EBADF, 0x50009437: syscall.EBADF,
	} {
		got, err := l.post("one", "/syscall", fmt.Sprintf("%d %d %d", unix.SYS_IOCTL, none, request))
		if err != nil || strings.TrimSpace(got) != fmt.Sprint(int(want)) {
			t.Errorf("%#x: %s, want %d (%v)", request, got, int(want), err)
		}
	}
}
