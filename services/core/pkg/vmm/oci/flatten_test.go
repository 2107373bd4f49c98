package oci_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A snapshot's files are seen on the host as its machine saw them, with the
// owners that they have there, and nothing stays mounted.
func TestFlatten(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, way)
			l.boot(spec("m"))
			l.furnish("m") // among others, removes /etc/group
			l.sh("m", "mv /var/lib/dir /var/lib/moved; echo new >/var/lib/moved/file2; rm -rf /mnt; mkdir /mnt; echo x >/mnt/x")
			_, err := l.Snapshot(t.Context(), "m", "snap", domain.SnapshotDisk)
			must(t, err)
			l.sh("m", "echo later >/root/r")
			called := false
			var dir string
			must(t, l.Flatten(t.Context(), "snap", shared.template, func(f vmm.Flat) error {
				called, dir = true, f.Dir
				for name, want := range map[string]string{
					"root/r": "r\n", "var/lib/moved/file": "template\n", "var/lib/moved/file2": "new\n", "mnt/x": "x\n", "etc/passwd": "",
				} {
					got, err := os.ReadFile(filepath.Join(f.Dir, name))
					if err != nil || want != "" && string(got) != want {
						t.Errorf("%s: %q, %v", name, got, err)
					}
				}
				for _, gone := range []string{"etc/group", "var/lib/dir"} {
					if _, err := os.Lstat(filepath.Join(f.Dir, gone)); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("%s: %v", gone, err)
					}
				}
				for name, want := range map[string][2]uint32{"root/r": {0, 0}, "home/user/u": {1000, 1000}, "root/n": {65534, 7}, "usr/bin": {0, 0}} {
					var st unix.Stat_t
					must(t, unix.Lstat(filepath.Join(f.Dir, name), &st))
					got := [2]uint32{st.Uid, st.Gid}
					if f.ID != nil {
						got = [2]uint32{f.ID(st.Uid), f.ID(st.Gid)}
					}
					if got != want {
						t.Errorf("%s belongs to %v", name, got)
					}
				}
				if _, err := os.Stat(filepath.Join(f.Upper, "root/r")); err != nil {
					t.Error(err)
				}
				if err := os.WriteFile(filepath.Join(f.Dir, "root/r"), nil, 0o600); !errors.Is(err, unix.EROFS) {
					t.Errorf("it can be written to: %v", err)
				}
				mounts, err := os.ReadFile("/proc/self/mountinfo")
				must(t, err)
				if strings.Contains(string(mounts), "oci-s-snap") {
					t.Error("the mount is in the file system")
				}
				return nil
			}))
			if !called {
				t.Fatal("nothing was shown")
			}
			if _, err := os.Stat(dir + "/root/r"); err == nil {
				t.Error("what was shown is still there")
			}
			mine := errors.Plain("mine")
			if err := l.Flatten(t.Context(), "snap", shared.template, func(vmm.Flat) error { return mine }); !errors.Is(err, mine) {
				t.Errorf("the reader's error: %v", err)
			}
			if err := l.Flatten(t.Context(), "other", shared.template, nil); !errors.HasCode(err, errors.NotFound) {
				t.Errorf("an absent snapshot: %v", err)
			}
			must(t, l.DeleteSnapshot(t.Context(), "snap"))
		})
	}
}
