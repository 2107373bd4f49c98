package depot

import (
	"context"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
)

// Output has the output of ended executions where every worker of an installation
// gets it, sealed. It is safe for concurrent use.
type Output struct {
	blobs blob.Store
	tmp   string
}

// NewOutput makes one of a store that has nothing else: of the same storage, but
// apart from what a [Depot] has there. What is packed or fetched is in a nameless
// file below tmp meanwhile.
func NewOutput(blobs blob.Store, tmp string) *Output { return &Output{blobs: blobs, tmp: tmp} }

// Name says where output is sent to.
func (o *Output) Name() string { return o.blobs.Name() }

// Send stores what pack writes, compressed, and sealed for a place with a key that
// seals nothing else: it is another object each time.
// Returns NoSpace, Unavailable, and pack's error.
func (o *Output) Send(ctx context.Context, key []byte, place string, pack func(io.Writer) error) (domain.Packed, error) {
	return store(ctx, o.blobs, o.tmp, func(w io.Writer) error {
		s, err := seal.NewWriter(w, key, place)
		if err != nil {
			return err
		}
		z, err := zstd.NewWriter(s, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return errors.Wrap(err, errors.Internal, "output cannot be packed")
		}
		err = errors.Join(pack(z), z.Close(), s.Close())
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return errors.Wrap(err, errors.NoSpace, "there is no room to pack output in")
		}
		return err
	})
}

// Fetch has unpack read what was packed. It begins to when all of it is on this
// host and has its digest. Returns NotFound, PreconditionFailed where it is
// something else, NoSpace, Unavailable, and unpack's error.
func (o *Output) Fetch(ctx context.Context, p domain.Packed, key []byte, place string, unpack func(io.Reader) error) error {
	if p.Store != o.Name() {
		return errors.New(errors.NotFound, "this output is not in this worker's storage")
	}
	f, err := nameless(o.tmp)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := o.blobs.Get(ctx, blob.Digest(p.Digest))
	if err != nil {
		return err
	}
	n, err := io.Copy(&modest{f: f}, io.LimitReader(r, p.Bytes+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if n != p.Bytes {
		return errors.New(errors.PreconditionFailed, "what was packed has another size than it should have")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return errors.Wrap(err, errors.Internal, "what was fetched cannot be read")
	}
	s, err := seal.NewReader(f, key, place)
	if err != nil {
		return err
	}
	z, err := zstd.NewReader(s, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "output cannot be unpacked")
	}
	defer z.Close()
	err = unpack(plain{z})
	if errors.HasCode(err, errors.InvalidArgument) {
		return damaged(err)
	}
	return err
}

// Missing is how many bytes this host's disk lacks for there to be room; see [Missing].
func (o *Output) Missing() (int64, error) { return Missing(o.tmp) }

// Drop removes what was sent. Absent is success. Returns Unavailable.
func (o *Output) Drop(ctx context.Context, p domain.Packed) error { return drop(ctx, o.blobs, p) }

// Collect is [Depot.Collect] of output.
func (o *Output) Collect(ctx context.Context, before time.Time, used func(context.Context) (map[string]bool, error)) (int, error) {
	return collect(ctx, o.blobs, before, used)
}
