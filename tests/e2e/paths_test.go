package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// A VM that lays links into what is copied out of it gets nowhere: nothing is
// written outside of the target, and no link in it leads outside.
func TestCopyOutStaysInside(t *testing.T) {
	t.Parallel()
	c := connect(t)
	vm := bounded(t, c)
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	mustShell(t, c, vm.ID, `mkdir -p tree/sub && cd tree && echo kept > f && ln -s `+outside+` abs && ln -s ../outside up && ln -s ../../../../../../../etc/passwd passwd && ln -s f near && echo x > sub/evil`)
	target := filepath.Join(base, "tree")
	_, stderr, _ := invoke(t, "", "cp", vm.ID+":tree", target)
	for _, name := range []string{"abs", "up", "passwd"} {
		if _, err := os.Lstat(filepath.Join(target, name)); err == nil {
			t.Errorf("%s is there", name)
		}
		if !strings.Contains(stderr, name+" is left out") {
			t.Errorf("nobody was told of %s: %s", name, stderr)
		}
	}
	for _, name := range []string{"f", "near"} {
		if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(got) != "kept\n" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// The user's own link stands where the VM has a directory.
	mine := filepath.Join(base, "mine")
	if err := os.Mkdir(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(mine, "sub")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := invoke(t, "", "cp", vm.ID+":tree/.", mine); code == 0 || !strings.Contains(stderr, "sub") {
		t.Errorf("through a link: %d %s", code, stderr)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

// Names and links in what is sent to a VM lead nowhere but below the target,
// and the rights are those of the user in the VM.
func TestCopyInStaysInside(t *testing.T) {
	t.Parallel()
	ctx, c := limited(t), connect(t)
	vm := bounded(t, c)
	for name, headers := range map[string][]tar.Header{
		"climbs":           {{Name: "../evil", Typeflag: tar.TypeReg}},
		"climbs inside":    {{Name: "a/../../evil", Typeflag: tar.TypeReg}},
		"absolute":         {{Name: "/home/user/evil", Typeflag: tar.TypeReg}},
		"through a link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"an absolute link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/home/user"}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"a hard link":      {{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../.bashrc"}},
		"a device":         {{Name: "evil", Typeflag: tar.TypeBlock, Devmajor: 8}},
		"a link by a link": {{Name: "d", Typeflag: tar.TypeDir}, {Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "d/l/evil", Typeflag: tar.TypeReg}},
	} {
		err := c.WriteTar(ctx, client.File{VM: vm.ID, Path: "target"}, bytes.NewReader(rawTar(t, headers...)))
		if err != nil && !errors.HasCode(err, errors.InvalidArgument) && !errors.HasCode(err, errors.PermissionDenied) {
			t.Errorf("%s: %v", name, err)
		}
		if out := mustShell(t, c, vm.ID, "ls ~/evil /home/evil /evil 2>/dev/null; find target -type b; rm -rf target"); out != "" {
			t.Errorf("%s: it wrote %q", name, out)
		}
	}
	for _, path := range []string{"/etc/evil", "../../etc/evil", "/proc/1/root/etc/evil", "/dev/.aetherium/fc-agent", "/root/evil"} {
		_, err := c.WriteFile(ctx, client.File{VM: vm.ID, Path: path}, strings.NewReader("x"), 1, 0o644)
		if !errors.HasCode(err, errors.PermissionDenied) && !errors.HasCode(err, errors.InvalidArgument) && !errors.HasCode(err, errors.NotFound) {
			t.Errorf("write to %s: %v", path, err)
		}
	}
	for _, path := range []string{"/etc/shadow", "../../etc/shadow", "/proc/1/environ", "/proc/1/root/etc/shadow"} {
		if n, err := c.ReadFile(ctx, client.File{VM: vm.ID, Path: path}, &bytes.Buffer{}); err == nil {
			t.Errorf("%d bytes were read from %s", n, path)
		}
	}
}

// rawTar is an archive of entries that hold one byte, if they may.
func rawTar(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("x"))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
