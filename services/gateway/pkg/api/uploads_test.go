package api_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
)

type brokenReader struct{ io.Reader }

func (b brokenReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestUploadDir(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "uploads")
	now := time.Now()
	d, err := api.NewUploadDir(root, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	by := vmm.Caller{ProjectID: domain.NewID()}
	u, err := d.Save(t.Context(), by, strings.NewReader("abc"))
	if err != nil || u.SHA256 != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Fatalf("%+v, %v", u, err)
	}
	path, err := d.Path(t.Context(), by, domain.ID(u.ID))
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "abc" {
		t.Fatalf("%q, %v", content, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %o", info.Mode().Perm())
	}
	if _, err := d.Save(t.Context(), by, brokenReader{strings.NewReader("half")}); err == nil {
		t.Fatal("half an upload was kept")
	}
	if _, err := d.Path(t.Context(), vmm.Caller{ProjectID: domain.NewID()}, domain.ID(u.ID)); !errors.HasCode(err, errors.NotFound) {
		t.Fatalf("another project: %v", err)
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
	now = now.Add(api.UploadTTL + time.Minute)
	if _, err := d.Path(t.Context(), by, domain.ID(u.ID)); !errors.HasCode(err, errors.NotFound) {
		t.Fatalf("an expired upload: %v", err)
	}
	if err := d.Sweep(t.Context()); err != nil || files() != 0 {
		t.Fatalf("%d files are left, %v", files(), err)
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Uploads share a disk with the server's database: they leave it room.
func TestUploadsLeaveRoom(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d, err := api.NewUploadDir(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	by := vmm.Caller{ProjectID: domain.NewID()}
	free := int64(api.UploadReserve - 1)
	d.SetFree(func() (int64, error) { return free, nil })
	if _, err := d.Save(t.Context(), by, strings.NewReader("abc")); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("without room: %v", err)
	}
	asked := 0
	d.SetFree(func() (int64, error) {
		if asked++; asked > 3 {
			return free, nil
		}
		return api.UploadReserve, nil
	})
	if _, err := d.Save(t.Context(), by, endless{}); !errors.HasCode(err, errors.NoSpace) || asked != 4 {
		t.Errorf("room that goes: %v, asked %d times", err, asked)
	}
	left, err := os.ReadDir(filepath.Join(root, by.ProjectID.String()))
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// A project's uploads are bounded together, those under way included; another
// project has its own share.
func TestUploadsOfAProject(t *testing.T) {
	t.Parallel()
	d, err := api.NewUploadDir(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.SetFree(func() (int64, error) { return 1 << 40, nil })
	d.Bound(40 << 20)
	by, other := vmm.Caller{ProjectID: domain.NewID()}, vmm.Caller{ProjectID: domain.NewID()}
	var e *errors.Error
	if _, err := d.Save(t.Context(), by, endless{}); !errors.As(err, &e) || e.Code != errors.QuotaExceeded || e.Field != "quota.uploads" {
		t.Errorf("an endless one: %v", err)
	}
	if _, err := d.Save(t.Context(), by, io.LimitReader(endless{}, 40<<20)); err != nil {
		t.Errorf("what fits: %v", err)
	}
	if _, err := d.Save(t.Context(), by, strings.NewReader("abc")); !errors.HasCode(err, errors.QuotaExceeded) {
		t.Errorf("one more: %v", err)
	}
	if _, err := d.Save(t.Context(), other, strings.NewReader("abc")); err != nil {
		t.Errorf("another project's: %v", err)
	}
}
