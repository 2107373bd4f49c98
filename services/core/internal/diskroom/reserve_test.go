package diskroom_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/diskroom"
	"golang.org/x/sys/unix"
)

func TestReserve(t *testing.T) {
	t.Parallel()
	dirs := map[string]string{"disk": t.TempDir()}
	if os.Geteuid() == 0 {
		for name, size := range map[string]string{"tmpfs": "8m", "tmpfs without a limit": "0"} {
			dirs[name] = t.TempDir()
			if err := unix.Mount("none", dirs[name], "tmpfs", 0, "size="+size); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dirs[name], 0); err != nil {
					t.Error(err)
				}
			})
		}
	}
	const mib = 1 << 20
	for name, dir := range dirs {
		f, err := os.Create(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, size := range []int64{3 * mib, 6 * mib, mib} { // what is there counts
			if err := diskroom.Reserve(f, size); err != nil {
				t.Errorf("%s: %d MiB: %v", name, size/mib, err)
			}
		}
		if name == "tmpfs without a limit" {
			continue
		}
		if err := diskroom.Reserve(f, 1<<60); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: more than there is: %v", name, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != 6*mib || st.Blocks*512 < 6*mib || st.Blocks*512 > 7*mib {
			t.Errorf("%s: of 6 MiB %d have room, the file is %d long, %v", name, st.Blocks*512, st.Size, err)
		}
	}
}
