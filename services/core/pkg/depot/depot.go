// Package depot has templates' builds and snapshots' disks where every worker of an
// installation gets them: it packs them into a store of blobs, and fetches those of
// others.
package depot

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

// Images keeps builds on this host. *image.Store is one.
type Images interface {
	List(ctx context.Context) ([]image.Result, error)
	Pack(ctx context.Context, id string, w io.Writer) error
	Unpack(ctx context.Context, id, digest string, r io.Reader) (image.Result, error)
}

// Depot is safe for concurrent use.
type Depot struct {
	blobs  blob.Store
	images Images
	tmp    string
}

// New makes a depot. What is packed is in a nameless file below tmp until it is
// sent, as its digest names it.
func New(blobs blob.Store, images Images, tmp string) *Depot {
	return &Depot{blobs: blobs, images: images, tmp: tmp}
}

// Name says where builds are sent to.
func (d *Depot) Name() string { return d.blobs.Name() }

// Send packs a build and stores it. Sent again it is the same.
// Returns NotFound, PreconditionFailed, NoSpace, Unavailable.
func (d *Depot) Send(ctx context.Context, build domain.ID) (domain.Packed, error) {
	return store(ctx, d.blobs, d.tmp, func(w io.Writer) error { return d.images.Pack(ctx, string(build), w) })
}

// nameless makes a file below a directory that is gone once it is closed, however
// this process ends.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".packed-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "there is no place to pack in")
	}
	return f, nil
}

// store stores what pack writes, which is in a nameless file below tmp until then.
func store(ctx context.Context, blobs blob.Store, tmp string, pack func(io.Writer) error) (domain.Packed, error) {
	f, err := nameless(tmp)
	if err != nil {
		return domain.Packed{}, err
	}
	defer f.Close()
	sum := sha256.New()
	if err := pack(io.MultiWriter(&modest{f: f}, sum)); err != nil {
		return domain.Packed{}, err
	}
	bytes, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return domain.Packed{}, errors.Wrap(err, errors.Internal, "what was packed cannot be read")
	}
	p := domain.Packed{Store: blobs.Name(), Digest: string(blob.DigestOf(sum)), Bytes: bytes}
	return p, blobs.Put(ctx, blob.Digest(p.Digest), bytes, f)
}

// Fetch makes a build of another worker one of this host.
// Returns NotFound, PreconditionFailed, NoSpace, Unavailable.
func (d *Depot) Fetch(ctx context.Context, build domain.ID, rootfs domain.Artifact) (image.Result, error) {
	if rootfs.Packed == nil || rootfs.Packed.Store != d.Name() {
		return image.Result{}, errors.New(errors.NotFound, "build %s is not in this worker's storage", build)
	}
	r, err := d.blobs.Get(ctx, blob.Digest(rootfs.Packed.Digest))
	if err != nil {
		return image.Result{}, err
	}
	made, err := d.images.Unpack(ctx, string(build), rootfs.Digest, r)
	return made, errors.Join(err, r.Close())
}

// Drop removes what was sent. Absent is success. Returns Unavailable.
func (d *Depot) Drop(ctx context.Context, p domain.Packed) error { return drop(ctx, d.blobs, p) }

func drop(ctx context.Context, blobs blob.Store, p domain.Packed) error {
	if p.Store != blobs.Name() {
		return nil
	}
	return blobs.Delete(ctx, blob.Digest(p.Digest))
}

// Held lists the builds on this host that may be a worker's.
func (d *Depot) Held(ctx context.Context) ([]domain.ID, error) {
	all, err := d.images.List(ctx)
	var ids []domain.ID
	for _, r := range all {
		if domain.IsID(r.ID) { // and no image that steps began with
			ids = append(ids, domain.ID(r.ID))
		}
	}
	return ids, err
}

// Collect removes what was sent before a time and is not used by then, as used
// tells of all that is, asked after it was seen. Returns Unavailable.
func (d *Depot) Collect(ctx context.Context, before time.Time, used func(context.Context) (map[string]bool, error)) (int, error) {
	return collect(ctx, d.blobs, before, used)
}

func collect(ctx context.Context, blobs blob.Store, before time.Time, used func(context.Context) (map[string]bool, error)) (int, error) {
	var old []blob.Digest
	err := blobs.List(ctx, func(i blob.Info) error {
		if i.Written.Before(before) {
			old = append(old, i.Digest)
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return 0, err
	}
	keep, err := used(ctx)
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, digest := range old {
		if keep[string(digest)] {
			continue
		}
		if err := blobs.Delete(ctx, digest); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}
