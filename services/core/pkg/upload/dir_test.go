package upload_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
)

type brokenReader struct{ io.Reader }

func (b brokenReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestDir(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "uploads")
	now := time.Now()
	d, err := upload.Open(root, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	project, id := domain.NewID(), domain.NewID()
	n, sum, err := d.Keep(t.Context(), project, id, "", strings.NewReader("abc"))
	if err != nil || n != 3 || sum != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Fatalf("%d bytes, %s, %v", n, sum, err)
	}
	path, err := d.Path(project, id)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "abc" {
		t.Fatalf("%q, %v", content, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %o", info.Mode().Perm())
	}
	if _, _, err := d.Keep(t.Context(), project, domain.NewID(), "", brokenReader{strings.NewReader("half")}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("half an upload was kept: %v", err)
	}
	if _, _, err := d.Keep(t.Context(), project, domain.NewID(), "", strings.NewReader("")); !errors.HasCode(err, errors.InvalidArgument) {
		t.Fatalf("nothing was kept: %v", err)
	}
	if _, _, err := d.Keep(t.Context(), project, domain.NewID(), strings.Repeat("0", 64), strings.NewReader("abc")); !errors.HasCode(err, errors.Internal) {
		t.Fatalf("another one than was sent was kept: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := d.Keep(gone, project, domain.NewID(), "", strings.NewReader("abc")); !errors.Is(err, context.Canceled) {
		t.Fatalf("what nobody is told of was kept: %v", err)
	}
	if _, _, err := d.Keep(t.Context(), project, id, sum, strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Fatalf("left are %v", files)
	}
	if _, err := d.Path(domain.NewID(), id); !errors.HasCode(err, errors.NotFound) {
		t.Fatalf("another project: %v", err)
	}
	for _, name := range []domain.ID{"", "..", "../" + project} {
		if _, err := d.Path(name, id); err == nil {
			t.Errorf("a path of the project %q", name)
		}
		if _, _, err := d.Keep(t.Context(), project, name, "", strings.NewReader("abc")); err == nil {
			t.Errorf("the ID %q is one", name)
		}
		if err := d.Forget(name); err == nil {
			t.Errorf("forgot the project %q", name)
		}
	}
	files := func() (n int) {
		_ = filepath.WalkDir(root, func(_ string, e os.DirEntry, _ error) error {
			if !e.IsDir() {
				n++
			}
			return nil
		})
		return n
	}
	if files() != 1 {
		t.Fatalf("%d files are left", files())
	}
	other := domain.NewID()
	if _, _, err := d.Keep(t.Context(), other, id, "", strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	if err := d.Forget(other); err != nil || files() != 1 {
		t.Fatalf("%d files are left, %v", files(), err)
	}
	// One who began to build from it at the last moment still has it.
	now = now.Add(upload.TTL + time.Hour)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Path(project, id); err != nil {
		t.Fatal(err)
	}
	now = now.Add(6 * time.Hour)
	if _, err := d.Path(project, id); !errors.HasCode(err, errors.NotFound) {
		t.Fatalf("an expired upload: %v", err)
	}
	if err := d.Sweep(t.Context()); err != nil || files() != 0 {
		t.Fatalf("%d files are left, %v", files(), err)
	}
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Fatalf("left are the directories %v", left)
	}
	// What a process was killed in the middle of is nobody's.
	if _, _, err := d.Keep(t.Context(), project, id, "", strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, project.String(), ".upload-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := upload.Open(root, nil); err != nil || files() != 1 {
		t.Fatalf("%d files are left, %v", files(), err)
	}
	for range 2 {
		if err := d.Drop(project, id); err != nil || files() != 0 {
			t.Fatalf("%d files are left, %v", files(), err)
		}
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Uploads share a disk with all else that a worker has: they leave it room.
func TestUploadsLeaveRoom(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d, err := upload.Open(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	project := domain.NewID()
	free := int64(upload.Reserve - 1)
	d.SetFree(func() (int64, error) { return free, nil })
	if _, _, err := d.Keep(t.Context(), project, domain.NewID(), "", strings.NewReader("abc")); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("without room: %v", err)
	}
	asked := 0
	d.SetFree(func() (int64, error) {
		if asked++; asked > 3 {
			return free, nil
		}
		return upload.Reserve, nil
	})
	if _, _, err := d.Keep(t.Context(), project, domain.NewID(), "", endless{}); !errors.HasCode(err, errors.NoSpace) || asked != 4 {
		t.Errorf("room that goes: %v, asked %d times", err, asked)
	}
	left, err := os.ReadDir(filepath.Join(root, project.String()))
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
