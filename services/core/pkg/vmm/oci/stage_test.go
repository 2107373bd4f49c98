package oci

import (
	"os"
	"testing"
)

func TestOnStage(t *testing.T) {
	t.Parallel()
	needed := []string{"/usr/sbin/runc", "/run/aetherium-x/oci"}
	for mount, want := range map[string]bool{
		"/": true, "/proc": true, "/sys": true, "/dev": true, "/sys/fs/cgroup": true, "/sys/fs/cgroup/memory": true,
		"/usr": true, "/run": true, "/run/aetherium-x": true, "/run/aetherium-x/oci": true,
		"/run/aetherium-x/oci/m/1/root": false, "/run/aetherium-x/net/pairs/a/net": false, "/home": false, "/us": false,
		"/dev/shm": false, "/sys/kernel/tracing": false, "/proc/sys/fs/binfmt_misc": false, "/sys/fs/cgroupx": false,
	} {
		if got := onStage(mount, needed); got != want {
			t.Errorf("%s: %v", mount, got)
		}
	}
}

func TestUnescapeOctal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{`/a\040b`: "/a b", `/\134`: `/\`, `/a\04`: `/a\04`, `/\999`: `/\999`, ``: ``, `\`: `\`} {
		if got := unescapeOctal(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// What is mounted on the stage is seen nowhere else.
func TestStageIsApart(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mount namespaces need root")
	}
	dir := t.TempDir()
	s, err := openStage(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	tree, err := plainTree("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	look := func() (entries int, mounts []string) {
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		if mounts, err = mountPoints(); err != nil {
			t.Error(err)
		}
		return len(names), mounts
	}
	for range 2 { // the second does not see the first
		err = onOwnThread(func() error {
			if err := s.enter(); err != nil {
				return err
			}
			if n, mounts := look(); n != 0 || len(mounts) > 64 {
				t.Errorf("%d entries, mounts %v", n, mounts)
			}
			if err := attachTree(tree, dir); err != nil {
				return err
			}
			if n, _ := look(); n == 0 {
				t.Error("nothing is mounted on the stage")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := look(); n != 0 {
			t.Errorf("%d entries on the host", n)
		}
		if tree, err = plainTree("/proc"); err != nil {
			t.Fatal(err)
		}
	}
}
