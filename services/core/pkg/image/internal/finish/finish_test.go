package finish_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/finish"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
)

// rootfs makes a tree: names ending in "/" are directories, values starting
// with "-> " links, with "#!" executables.
func rootfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		at := filepath.Join(root, name)
		dir := filepath.Dir(at)
		if strings.HasSuffix(name, "/") {
			dir = at
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir == at {
			continue
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, at)
		} else {
			mode := fs.FileMode(0o644)
			if strings.HasPrefix(content, "#!") {
				mode = 0o755
			}
			err = os.WriteFile(at, []byte(content), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func apply(t *testing.T, root string, env map[string]string) ([]string, error) {
	t.Helper()
	tr, err := tree.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	var notes []string
	err = finish.Apply(tr, finish.Options{Env: env, KeepOwner: os.Geteuid() == 0, Note: func(s string) { notes = append(notes, s) }})
	return notes, err
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func debian() map[string]string {
	return map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
		"etc/group":  "root:x:0:\nshadow:x:42:\n", "etc/shadow": "root:*:1:0:99999:7:::\n", "etc/gshadow": "root:*::\nshadow:*::\n",
		"etc/sudoers": "Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n", "etc/skel/.bashrc": "# rc\n", "etc/profile": "PATH=/bin\n",
		"usr/bin/bash": "#!/bin/sh\n", "usr/bin/python3.11": "#!/bin/sh\n", "usr/bin/python3": "-> python3.11", "bin": "-> usr/bin",
		"etc/resolv.conf": "-> /run/systemd/resolve/stub-resolv.conf", "dev/null": "left over", "tmp/": "", "run/lock/": "",
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	root := rootfs(t, debian())
	for range 2 { // doing it again changes nothing
		if notes, err := apply(t, root, nil); err != nil || len(notes) != 0 {
			t.Fatal(notes, err)
		}
	}
	for name, want := range map[string]string{
		"etc/passwd":              "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\nuser:x:1000:1000::/home/user:/bin/bash\n",
		"etc/group":               "root:x:0:\nshadow:x:42:\nuser:x:1000:\n",
		"etc/shadow":              "root:*:1:0:99999:7:::\nuser:!:19000:0:99999:7:::\n",
		"etc/gshadow":             "root:*::\nshadow:*::\nuser:!::\n",
		"etc/sudoers":             debian()["etc/sudoers"],
		"etc/sudoers.d/aetherium": "# Root in a VM is an unprivileged user of its host.\nuser ALL=(ALL:ALL) NOPASSWD: ALL\n",
		"home/user/.bashrc":       "# rc\n",
		"etc/resolv.conf":         "",
		"etc/hostname":            "localhost\n",
	} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]fs.FileMode{
		"tmp": fs.ModeDir | fs.ModeSticky | 0o777, "var/tmp": fs.ModeDir | fs.ModeSticky | 0o777, "proc": fs.ModeDir | 0o555, ".aetherium": fs.ModeDir | 0o755,
		"dev": fs.ModeDir | 0o755, "etc/sudoers.d/aetherium": 0o440, "etc/shadow": 0o640, "etc/resolv.conf": 0o644, "root": fs.ModeDir | 0o700, "home/user": fs.ModeDir | 0o755,
	} {
		st, err := os.Lstat(filepath.Join(root, name))
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
	if names, _ := os.ReadDir(filepath.Join(root, "dev")); len(names) != 0 {
		t.Errorf("/dev has %v", names)
	}
	if to, err := os.Readlink(filepath.Join(root, "usr/bin/python")); err != nil || to != "python3" {
		t.Errorf("python: %q, %v", to, err)
	}
	if _, err := os.Stat(filepath.Join(root, "run/lock")); err != nil {
		t.Error("what /run held is gone:", err)
	}
}

func TestOtherImages(t *testing.T) {
	t.Parallel()
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		root := rootfs(t, nil)
		if _, err := apply(t, root, nil); err != nil {
			t.Fatal(err)
		}
		if got := read(t, root, "etc/passwd"); got != "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n" {
			t.Errorf("passwd %q", got)
		}
		for _, name := range []string{"etc/shadow", "etc/sudoers", "usr/bin/python"} {
			if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was made: %v", name, err)
			}
		}
	})
	t.Run("the user ID is taken", func(t *testing.T) {
		t.Parallel()
		root := rootfs(t, map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/bash\n", "etc/group": "node:x:1000:\nx:x:1001:\n"})
		notes, err := apply(t, root, nil)
		if err != nil || len(notes) != 1 {
			t.Fatal(notes, err)
		}
		if got := read(t, root, "etc/passwd"); !strings.Contains(got, "user:x:1002:1002:") {
			t.Errorf("passwd %q", got)
		}
	})
	t.Run("the user is there", func(t *testing.T) {
		t.Parallel()
		root := rootfs(t, map[string]string{"etc/passwd": "user:x:1500:100::/data:/bin/zsh\n", "etc/group": "users:x:100:\n", "etc/sudoers": "root ALL=(ALL) ALL"})
		for range 2 {
			if _, err := apply(t, root, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, root, "etc/passwd"); got != "root:x:0:0:root:/root:/bin/sh\nuser:x:1500:100::/data:/bin/zsh\n" {
			t.Errorf("passwd %q", got)
		}
		if got := read(t, root, "etc/sudoers"); got != "root ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n" {
			t.Errorf("sudoers %q", got)
		}
		if st, err := os.Stat(filepath.Join(root, "data")); err != nil || !st.IsDir() {
			t.Error(err)
		}
	})
	for name, passwd := range map[string]string{"user is root": "user:x:0:0::/root:/bin/sh\n", "malformed": "user:x\n", "home outside": "user:x:1000:1000::/../../home:/bin/sh\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := apply(t, rootfs(t, map[string]string{"etc/passwd": passwd}), nil); !errors.HasCode(err, errors.InvalidArgument) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}

// An image can lay links wherever the finishing writes.
func TestHostileLinks(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	for _, name := range []string{"passwd", "shadow", "sudoers", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte("host:x:0:0::/:/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := rootfs(t, map[string]string{
		"etc/passwd": "-> " + outside + "/passwd", "etc/shadow": "-> ../../../../../../../../.." + outside + "/shadow", "etc/sudoers": "-> " + outside + "/sudoers",
		"etc/resolv.conf": "-> " + outside + "/resolv.conf", "etc/sudoers.d": "-> " + outside, "etc/profile.d": "-> " + outside, "proc": "-> " + outside,
		"dev": "-> " + outside, "tmp": "-> " + outside, "run": "-> /", ".aetherium": "-> ..", "home": "-> " + outside, "etc/skel/.bashrc": "-> /etc/shadow",
	})
	_, err := apply(t, root, nil)
	names, _ := os.ReadDir(outside)
	if len(names) != 4 {
		t.Errorf("outside there are %v", names)
	}
	for _, n := range names {
		if b, _ := os.ReadFile(filepath.Join(outside, n.Name())); string(b) != "host:x:0:0::/:/bin/sh\n" {
			t.Errorf("%s was changed: %q", n.Name(), b)
		}
	}
	// Dangling links where directories must be (such as /etc/profile.d) are the image's fault.
	if err != nil && !errors.HasCode(err, errors.InvalidArgument) {
		t.Error(err)
	}
	for _, name := range []string{"proc", "dev", "tmp", "run", ".aetherium"} {
		if st, err := os.Lstat(filepath.Join(root, name)); err != nil || !st.IsDir() {
			t.Errorf("%s is no directory of its own: %v", name, err)
		}
	}
}

// The login profile is read by a real shell.
func TestLoginPath(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs a shell")
	}
	root := rootfs(t, debian())
	if _, err := apply(t, root, map[string]string{"PATH": "/go/bin:/opt/it's here:/usr/bin:relative:"}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sh, "-c", `. "$1"; echo "$PATH|$LANG|${IFS-unset}|$aetherium_path"`, "sh", filepath.Join(root, "etc/profile.d/aetherium.sh"))
	cmd.Env = []string{"PATH=/bin:/usr/bin:/usr/games"}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "/go/bin:/opt/it's here:/usr/bin:/bin:/usr/games|C.UTF-8| \t\n|\n" {
		t.Errorf("%q, %v", out, err)
	}
}
