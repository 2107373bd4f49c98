package depot_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is one with images of its own, and a depot in a directory.
type host struct {
	*depot.Depot
	images *image.Store
	tmp    string
}

func newHost(t *testing.T, shared string) host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("building root filesystems needs root")
	}
	images, err := image.Open(image.Config{Dir: filepath.Join(t.TempDir(), "images")})
	must(t, err)
	t.Cleanup(func() { must(t, images.Close()) })
	blobs, err := blob.OpenDir(shared)
	must(t, err)
	tmp := t.TempDir()
	return host{depot.New(blobs, images, tmp), images, tmp}
}

// build makes a build with everything that root filesystems have.
func (h host) build(t *testing.T) (domain.ID, domain.Artifact) {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, err := range []error{
		os.MkdirAll(at("bin"), 0o755),
		os.WriteFile(at("bin/tool"), []byte("tool"), 0o755), //nolint:gosec // a program
		os.Chown(at("bin/tool"), 1000, 33),
		os.Chmod(at("bin/tool"), 0o755|os.ModeSetuid),
		os.Link(at("bin/tool"), at("bin/same")),
		os.Symlink("/bin/tool", at("link")),
		os.Lchown(at("link"), 7, 7),
		os.WriteFile(at("capable"), nil, 0o755), //nolint:gosec // a program
		unix.Lsetxattr(at("capable"), "security.capability", []byte(capability), 0),
		unix.Mkfifo(at("pipe"), 0o600),
		os.WriteFile(at("an odd näme\n"), []byte("x"), 0o600),
		os.WriteFile(at("sparse"), []byte("begin"), 0o600),
		os.Truncate(at("sparse"), 4<<20),
		os.MkdirAll(at(strings.Repeat("deep/", 40)), 0o700),
		os.Chtimes(at("bin/tool"), time.Unix(1e9, 123456789), time.Unix(1e9, 123456789)),
	} {
		must(t, err)
	}
	id := domain.NewID()
	r, err := h.images.Build(t.Context(), string(id), domain.TemplateSource{Dir: dir}, nil)
	must(t, err)
	return id, domain.Artifact{Kind: domain.ArtifactRootFS, Digest: r.Digest, Bytes: r.Bytes}
}

func (h host) tmpEmpty(t *testing.T) {
	t.Helper()
	if left, err := os.ReadDir(h.tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What one host has built is the same on another.
func TestSendAndFetch(t *testing.T) {
	t.Parallel()
	shared, ctx := t.TempDir(), t.Context()
	one, other := newHost(t, shared), newHost(t, shared)
	id, rootfs := one.build(t)
	first, err := one.Send(ctx, id)
	must(t, err)
	if again, err := one.Send(ctx, id); err != nil || again != first {
		t.Errorf("sent again: %+v, before %+v, %v", again, first, err)
	}
	if first.Bytes > 1<<20 {
		t.Errorf("holes took room: %+v", first)
	}
	one.tmpEmpty(t)
	rootfs.Packed = &first
	made, err := other.Fetch(ctx, id, rootfs)
	must(t, err)
	must(t, other.images.Verify(ctx, string(id)))
	built, err := one.images.Get(ctx, string(id))
	must(t, err)
	if made.User != built.User || made.WorkDir != built.WorkDir || made.Env["PATH"] != built.Env["PATH"] || !made.CreatedAt.Equal(built.CreatedAt) {
		t.Errorf("%+v, built %+v", made, built)
	}
	var tool, same, sparse unix.Stat_t
	must(t, unix.Lstat(filepath.Join(made.RootFS, "bin/tool"), &tool))
	must(t, unix.Lstat(filepath.Join(made.RootFS, "bin/same"), &same))
	must(t, unix.Lstat(filepath.Join(made.RootFS, "sparse"), &sparse))
	if tool.Ino != same.Ino || tool.Mtim != (unix.Timespec{Sec: 1e9, Nsec: 123456789}) || tool.Uid != 1000 || tool.Mode&unix.S_ISUID == 0 {
		t.Errorf("%+v, %+v", tool, same)
	}
	if sparse.Size != 4<<20 || sparse.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks", sparse.Size, sparse.Blocks)
	}
	if held, err := other.Held(ctx); err != nil || len(held) != 1 || held[0] != id {
		t.Errorf("%v, %v", held, err)
	}
	if again, err := other.Fetch(ctx, id, rootfs); err != nil || again.Digest != made.Digest {
		t.Errorf("fetched again: %+v, %v", again, err)
	}
}

// What is not whole, or another's, is refused and leaves nothing.
func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	shared, ctx := t.TempDir(), t.Context()
	one, other := newHost(t, shared), newHost(t, shared)
	id, rootfs := one.build(t)
	second, _ := one.build(t)
	packed, err := one.Send(ctx, id)
	must(t, err)
	of, err := one.Send(ctx, second)
	must(t, err)
	file := func(p domain.Packed) string {
		digits := strings.TrimPrefix(p.Digest, "sha256:")
		return filepath.Join(shared, digits[:2], digits)
	}
	content, err := os.ReadFile(file(packed))
	must(t, err)
	for name, c := range map[string]struct {
		packed *domain.Packed
		digest string
		before func()
		code   errors.Code
	}{
		"another build":    {&of, rootfs.Digest, nil, errors.PreconditionFailed},
		"another digest":   {&packed, "sha256:" + strings.Repeat("0", 64), nil, errors.PreconditionFailed},
		"nowhere":          {nil, rootfs.Digest, nil, errors.NotFound},
		"in other storage": {&domain.Packed{Store: "file:///elsewhere", Digest: packed.Digest}, rootfs.Digest, nil, errors.NotFound},
		"cut off":          {&packed, rootfs.Digest, func() { must(t, os.Truncate(file(packed), packed.Bytes/2)) }, errors.PreconditionFailed},
		"damaged": {&packed, rootfs.Digest, func() {
			bad := []byte(string(content))
			bad[len(bad)-20] ^= 1
			must(t, os.WriteFile(file(packed), bad, 0o600))
		}, errors.PreconditionFailed},
		"removed": {&domain.Packed{Store: one.Name(), Digest: "sha256:" + strings.Repeat("0", 64)}, rootfs.Digest, nil, errors.NotFound},
	} {
		must(t, os.WriteFile(file(packed), content, 0o600))
		if c.before != nil {
			c.before()
		}
		if _, err := other.Fetch(ctx, id, domain.Artifact{Digest: c.digest, Packed: c.packed}); !errors.HasCode(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
		if held, err := other.Held(ctx); err != nil || len(held) > 0 {
			t.Errorf("%s: %v is held, %v", name, held, err)
		}
	}
	must(t, os.WriteFile(file(packed), content, 0o600))
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	rootfs.Packed = &packed
	if _, err := other.Fetch(stopped, id, rootfs); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := one.Send(stopped, id); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := one.Send(ctx, domain.NewID()); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("an absent build: %v", err)
	}
	one.tmpEmpty(t)
	_, err = other.Fetch(ctx, id, rootfs)
	must(t, err)
}

// What is used stays, and so does what was written lately.
func TestCollect(t *testing.T) {
	t.Parallel()
	one := newHost(t, t.TempDir())
	ctx := t.Context()
	id, _ := one.build(t)
	second, _ := one.build(t)
	kept, err := one.Send(ctx, id)
	must(t, err)
	gone, err := one.Send(ctx, second)
	must(t, err)
	used := func(context.Context) (map[string]bool, error) { return map[string]bool{kept.Digest: true}, nil }
	if n, err := one.Collect(ctx, time.Now().Add(-time.Hour), used); err != nil || n != 0 {
		t.Errorf("%d were removed that are new, %v", n, err)
	}
	if _, err := one.Collect(ctx, time.Now().Add(time.Hour), func(context.Context) (map[string]bool, error) { return nil, io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("where it is not known what is used: %v", err)
	}
	if n, err := one.Collect(ctx, time.Now().Add(time.Hour), used); err != nil || n != 1 {
		t.Errorf("%d were removed, %v", n, err)
	}
	other := newHost(t, strings.TrimPrefix(one.Name(), "file://"))
	if _, err := other.Fetch(ctx, second, domain.Artifact{Packed: &gone}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("%v", err)
	}
	must(t, one.Drop(ctx, kept))
	must(t, one.Drop(ctx, kept))
	must(t, one.Drop(ctx, domain.Packed{Store: "file:///elsewhere", Digest: kept.Digest}))
	if n, err := one.Collect(ctx, time.Now().Add(time.Hour), used); err != nil || n != 0 {
		t.Errorf("%d were left, %v", n, err)
	}
}
