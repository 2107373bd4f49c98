package archive_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/archive"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// self is the user that runs the tests.
func self() *osuser.User {
	return &osuser.User{Name: "self", UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Home: "/"}
}

func TestCleanName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"a": "a", "./a": "a", "a/": "a", "a//b": "a/b", "a/./b": "a/b", ".": ".", "./": ".", "..a": "..a", "a..": "a..", "a/...": "a/...",
		strings.Repeat("x/", archive.MaxDepth) + "x": strings.Repeat("x/", archive.MaxDepth) + "x",
	} {
		if got, err := archive.CleanName(name); got != want || err != nil {
			t.Errorf("%.40q: %.40q %v", name, got, err)
		}
	}
	for name, code := range map[string]errors.Code{
		"": errors.InvalidArgument, "/": errors.InvalidArgument, "/a": errors.InvalidArgument, "..": errors.InvalidArgument,
		"../a": errors.InvalidArgument, "a/..": errors.InvalidArgument, "a/../b": errors.InvalidArgument, "a\x00b": errors.InvalidArgument,
		strings.Repeat("x", archive.MaxName+1):   errors.TooLarge,
		strings.Repeat("x/", archive.MaxDepth+1): errors.TooLarge,
	} {
		if _, err := archive.CleanName(name); !errors.HasCode(err, code) {
			t.Errorf("%.40q: %v, want %s", name, err, code)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	for _, seed := range []string{"a", "../a", "/a", "a/./../b", "./", "a\x00", "..", "...", "a/..", "\\..\\a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := archive.CleanName(name)
		if err != nil {
			return
		}
		if !filepath.IsLocal(clean) || strings.Contains(clean, "\x00") || len(clean) > archive.MaxName {
			t.Errorf("%q became %q", name, clean)
		}
	})
}

// FuzzUnpack unpacks what a fuzzer makes of archives and looks whether anything
// outside the directory changed.
func FuzzUnpack(f *testing.F) {
	pack := func(headers ...*tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if h.Typeflag == tar.TypeReg {
				h.Size = 3
			}
			if err := w.WriteHeader(h); err != nil {
				f.Fatal(err)
			}
			if h.Size > 0 {
				_, _ = w.Write([]byte("bad"))
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(pack(&tar.Header{Typeflag: tar.TypeReg, Name: "a"}))
	f.Add(pack(&tar.Header{Typeflag: tar.TypeReg, Name: "../outside"}))
	f.Add(pack(&tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, &tar.Header{Typeflag: tar.TypeReg, Name: "l/outside"}))
	f.Add(pack(&tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "../outside"}, &tar.Header{Typeflag: tar.TypeReg, Name: "l"}))
	f.Add(pack(&tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}, &tar.Header{Typeflag: tar.TypeSymlink, Name: "d/l", Linkname: "../../outside"}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		base := t.TempDir()
		outside, target := filepath.Join(base, "outside"), filepath.Join(base, "target")
		if err := os.WriteFile(outside, []byte("intact"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := archive.Unpack(self(), target, bytes.NewReader(stream))
		if err != nil && errors.CodeOf(err) == errors.Internal {
			t.Errorf("an archive from outside is an internal error: %v", err)
		}
		list, _ := os.ReadDir(base)
		for _, e := range list {
			if e.Name() != "outside" && e.Name() != "target" {
				t.Errorf("%s was made outside", e.Name())
			}
		}
		info, err := os.Lstat(outside)
		if err != nil || info.Mode() != 0o644 {
			t.Fatalf("outside is now %v %v", info, err)
		}
		if b, _ := os.ReadFile(outside); string(b) != "intact" {
			t.Errorf("outside is now %q", b)
		}
	})
}

func TestUnpackOntoAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	var empty bytes.Buffer
	if err := tar.NewWriter(&empty).Close(); err != nil {
		t.Fatal(err)
	}
	if err := archive.Unpack(self(), file, &empty); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a file as the directory: %v", err)
	}
	if text, err := os.ReadFile(file); string(text) != "kept" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

// What is laid over a system's tree gets its owner, and goes through links to
// directories instead of replacing them.
func TestUnpackForOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files away")
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700},
		{Typeflag: tar.TypeDir, Name: "lib/", Mode: 0o700},
		{Typeflag: tar.TypeReg, Name: "lib/tool", Mode: 0o4755, Size: 1},
		{Typeflag: tar.TypeSymlink, Name: "lib/link", Linkname: "/nowhere"},
		{Typeflag: tar.TypeDir, Name: "out/", Mode: 0o700},
		{Typeflag: tar.TypeDir, Name: "new/", Mode: 0o750},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("x")[:h.Size])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	outside := t.TempDir()
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.Mkdir(dir+"/usr", 0o755), os.Symlink("usr", dir+"/lib"), os.Symlink(outside, dir+"/out"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.UnpackFor(self(), &archive.Owner{UID: 7, GID: 8}, dir, &b); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		".": "0:0 755", "usr": "0:0 755", "usr/tool": "7:8 4755", "usr/link": "7:8 777", "new": "7:8 750", "out": "7:8 700", "lib": "0:0 777",
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if target, err := os.Readlink(dir + "/lib"); err != nil || target != "usr" {
		t.Errorf("the link is gone: %q, %v", target, err)
	}
	if list, _ := os.ReadDir(outside); len(list) > 0 {
		t.Errorf("it led outside: %v", list)
	}
}
