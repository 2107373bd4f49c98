package cli_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/internal/cli/apifake"
)

// A hostile VM's tar goes through the whole command, and stays inside.
func TestCopyFromAHostileVM(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeSymlink, Name: "escape", Linkname: "../.."},
		{Typeflag: tar.TypeReg, Name: "fine", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "escape/pwned", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "../pwned", Mode: 0o644},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	fake := apifake.New(t, func(s *apifake.Server) { s.Tar = b.Bytes() })
	if err := os.Mkdir(filepath.Join(fake.Dir("web"), "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "a", "target")
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := program(fake, "cp", "web:d/.", target)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "do not trust this VM") {
		t.Errorf("%v: %s", err, out)
	}
	if strings.Contains(string(out), "\x1b") {
		t.Errorf("the VM steers the terminal: %q", out)
	}
	err = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if d.Name() == "pwned" && filepath.Dir(name) != filepath.Join(target, "escape") {
			t.Errorf("%s was written", name)
		}
		if d.Type()&os.ModeSymlink != 0 {
			t.Errorf("%s leads outside", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCopiedFileReplacesTheOldOneAsAWhole(t *testing.T) {
	t.Parallel()
	fake := apifake.New(t)
	dir := t.TempDir()
	old := filepath.Join(dir, "file")
	link := filepath.Join(dir, "link")
	if err := os.WriteFile(old, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fake.Dir("web"), "f"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := program(fake, "cp", "web:f", link).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(old)
	info, _ := os.Stat(old)
	list, _ := os.ReadDir(dir)
	if string(got) != "new" || err != nil || info.Mode().Perm() != 0o640 || len(list) != 2 {
		t.Errorf("%q, %v, %v, %v", got, err, info.Mode(), list)
	}
	if out, err := program(fake, "cp", "web:f", os.DevNull).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
