package depot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
)

// carrying is a depot for snapshots alone.
func carrying(t *testing.T, shared string) (*depot.Depot, string) {
	t.Helper()
	blobs, err := blob.OpenDir(shared)
	must(t, err)
	return over(t, blobs)
}

func over(t *testing.T, blobs blob.Store) (*depot.Depot, string) {
	t.Helper()
	tmp := t.TempDir()
	return depot.New(blobs, nil, tmp), tmp
}

func writes(content []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(content); return err }
}

// inEach runs a test with each kind of storage; open gives it as one more host has it.
func inEach(t *testing.T, test func(t *testing.T, open func() blob.Store)) {
	t.Helper()
	t.Run("in a directory", func(t *testing.T) {
		t.Parallel()
		shared := t.TempDir()
		test(t, func() blob.Store {
			blobs, err := blob.OpenDir(shared)
			must(t, err)
			return blobs
		})
	})
	t.Run("in object storage", func(t *testing.T) {
		t.Parallel()
		objects := s3mem.New()
		must(t, objects.CreateBucket("shared"))
		server := httptest.NewServer(gofakes3.New(objects).Server())
		t.Cleanup(server.Close)
		test(t, func() blob.Store {
			blobs, err := blob.OpenS3(blob.S3Config{Endpoint: server.URL, Bucket: "shared", AccessKey: "key", SecretKey: "secret"})
			must(t, err)
			return blobs
		})
	})
}

// What one host has packed of a snapshot is what another one unpacks.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	inEach(t, testSnapshots)
}

func testSnapshots(t *testing.T, open func() blob.Store) {
	ctx := t.Context()
	one, tmp := over(t, open())
	other, _ := over(t, open())
	content := bytes.Repeat([]byte("what is on a disk "), 100_000)
	s := &domain.Snapshot{ID: domain.NewID(), Driver: "oci"}
	first, err := one.SendSnapshot(ctx, s, writes(content))
	must(t, err)
	again, err := one.SendSnapshot(ctx, s, writes(content))
	must(t, err)
	must(t, one.Drop(ctx, again)) // the first is another blob, and stays
	if first.Store != one.Name() || first.Bytes > int64(len(content))/10 {
		t.Errorf("%+v", first)
	}
	s.Packed = &first
	var got []byte
	read := func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err }
	must(t, other.FetchSnapshot(ctx, s, read))
	if !bytes.Equal(got, content) {
		t.Errorf("%d bytes of %d", len(got), len(content))
	}

	wrong := errors.New(errors.TooLarge, "too much")
	if _, err := one.SendSnapshot(ctx, s, func(io.Writer) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	if err := other.FetchSnapshot(ctx, s, func(io.Reader) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := one.SendSnapshot(stopped, s, writes(content)); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := other.FetchSnapshot(stopped, s, read); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What is not whole, or another's, is told before its end.
func TestSnapshotsThatAreSomethingElse(t *testing.T) {
	t.Parallel()
	shared, ctx := t.TempDir(), t.Context()
	d, _ := carrying(t, shared)
	s := &domain.Snapshot{ID: domain.NewID(), Driver: "oci"}
	packed, err := d.SendSnapshot(ctx, s, writes([]byte(strings.Repeat("x", 100_000)+"y")))
	must(t, err)
	other, err := d.SendSnapshot(ctx, &domain.Snapshot{ID: domain.NewID(), Driver: "oci"}, writes([]byte("z")))
	must(t, err)
	name := func(p domain.Packed) string {
		digits := strings.TrimPrefix(p.Digest, "sha256:")
		return filepath.Join(shared, digits[:2], digits)
	}
	content, err := os.ReadFile(name(packed))
	must(t, err)
	small, err := os.ReadFile(name(other))
	must(t, err)
	put := func(b []byte) func() { return func() { must(t, os.WriteFile(name(packed), b, 0o600)) } }
	for what, c := range map[string]struct {
		of     domain.Snapshot
		before func()
		code   errors.Code
	}{
		"another snapshot":   {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &other}, nil, errors.PreconditionFailed},
		"another driver":     {domain.Snapshot{ID: s.ID, Driver: "qemu", Packed: &packed}, nil, errors.PreconditionFailed},
		"nowhere":            {domain.Snapshot{ID: s.ID, Driver: "oci"}, nil, errors.NotFound},
		"in other storage":   {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &domain.Packed{Store: "file:///elsewhere", Digest: packed.Digest}}, nil, errors.NotFound},
		"removed":            {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &domain.Packed{Store: d.Name(), Digest: "sha256:" + strings.Repeat("0", 64)}}, nil, errors.NotFound},
		"cut off":            {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &packed}, put(content[:len(content)/2]), errors.PreconditionFailed},
		"empty":              {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &packed}, put(nil), errors.PreconditionFailed},
		"damaged":            {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &packed}, put(append([]byte("x"), content[1:]...)), errors.PreconditionFailed},
		"more after its end": {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &packed}, put(append(bytes.Clone(content), small...)), errors.PreconditionFailed},
		"well compressed":    {domain.Snapshot{ID: s.ID, Driver: "oci", Packed: &packed}, put(small), errors.PreconditionFailed},
	} {
		put(content)()
		if c.before != nil {
			c.before()
		}
		whole := false
		err := d.FetchSnapshot(ctx, &c.of, func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			whole = err == nil
			return err
		})
		if !errors.HasCode(err, c.code) || whole {
			t.Errorf("%s: %v, as whole: %t", what, err, whole)
		}
	}
	put(content)()
	s.Packed = &packed
	if err := d.FetchSnapshot(ctx, s, func(io.Reader) error { return errors.New(errors.InvalidArgument, "no such form") }); !errors.HasCode(err, errors.PreconditionFailed) {
		t.Errorf("what the driver has not packed: %v", err)
	}
	// One byte within, so that its compression is well formed: the digest tells.
	for at := range content {
		bad := bytes.Clone(content)
		bad[at] ^= 1
		put(bad)()
		if err := d.FetchSnapshot(ctx, s, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); !errors.HasCode(err, errors.PreconditionFailed) {
			t.Fatalf("byte %d of %d: %v", at, len(content), err)
		}
	}
}

// What is packed leaves room on the disk to those who work there.
func TestSnapshotsLeaveRoom(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	d, tmp := carrying(t, t.TempDir())
	must(t, unix.Mount("tmpfs", tmp, "tmpfs", 0, "size=40m"))
	t.Cleanup(func() { must(t, unix.Unmount(tmp, unix.MNT_DETACH)) })
	var left unix.Statfs_t
	endless := func(w io.Writer) error {
		for piece := make([]byte, 64<<10); ; {
			_, _ = rand.Read(piece)
			if _, err := w.Write(piece); err != nil {
				return errors.Join(err, unix.Statfs(tmp, &left))
			}
		}
	}
	_, err := d.SendSnapshot(t.Context(), &domain.Snapshot{ID: domain.NewID(), Driver: "oci"}, endless)
	if !errors.HasCode(err, errors.NoSpace) || left.Bavail*uint64(left.Bsize) < 1<<20 { //nolint:gosec // a block has a size
		t.Errorf("%d blocks are left: %v", left.Bavail, err)
	}
}
