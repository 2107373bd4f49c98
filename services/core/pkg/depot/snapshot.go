package depot

import (
	"bufio"
	"context"
	"encoding/json"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
)

const (
	// maxDescription bounds the line before a packed snapshot.
	maxDescription = 4 << 10
	// maxWindow bounds the memory that a zstd frame may ask for.
	maxWindow = 128 << 20
)

// description is the line of JSON before a packed snapshot.
type description struct {
	Snapshot domain.ID `json:"snapshot"`
	Driver   string    `json:"driver"`
	// Attempt makes each a blob of its own: it is removed without asking who else
	// has it, and what is stored again is not what Collect takes for old.
	Attempt domain.ID `json:"attempt"`
}

// SendSnapshot stores what pack writes of a snapshot's disk, compressed with zstd.
// Sent again it is another blob.
// Returns NoSpace, Unavailable, and pack's error.
func (d *Depot) SendSnapshot(ctx context.Context, s *domain.Snapshot, pack func(io.Writer) error) (domain.Packed, error) {
	return store(ctx, d.blobs, d.tmp, func(w io.Writer) error {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return errors.Wrap(err, errors.Internal, "the snapshot cannot be packed")
		}
		line, err := json.Marshal(description{s.ID, s.Driver, domain.NewID()})
		if err == nil {
			_, err = z.Write(append(line, '\n'))
		}
		if err == nil {
			err = pack(z)
		}
		err = errors.Join(err, z.Close())
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return errors.Wrap(err, errors.NoSpace, "there is no room to pack the snapshot in")
		}
		return err
	})
}

// FetchSnapshot has unpack read what was packed of a snapshot. Its reader tells
// PreconditionFailed in the place of io.EOF where what it gave is something else:
// unpack must read up to there, and make nothing then.
// Returns NotFound, PreconditionFailed, Unavailable, and unpack's other errors.
func (d *Depot) FetchSnapshot(ctx context.Context, s *domain.Snapshot, unpack func(io.Reader) error) error {
	if s.Packed == nil || s.Packed.Store != d.Name() {
		return errors.New(errors.NotFound, "snapshot %s is not in this worker's storage", s.ID)
	}
	r, err := d.blobs.Get(ctx, blob.Digest(s.Packed.Digest))
	if err != nil {
		return err
	}
	return errors.Join(unpackSnapshot(s, r, unpack), r.Close())
}

func unpackSnapshot(s *domain.Snapshot, r io.Reader, unpack func(io.Reader) error) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the snapshot cannot be unpacked")
	}
	defer z.Close()
	in := bufio.NewReaderSize(plain{z}, maxDescription)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return damaged(err)
	}
	var is description
	if err := json.Unmarshal(line, &is); err != nil || is.Snapshot != s.ID || is.Driver != s.Driver {
		return errors.New(errors.PreconditionFailed, "what was packed is not the snapshot %s", s.ID)
	}
	err = unpack(in)
	if errors.HasCode(err, errors.InvalidArgument) {
		return damaged(err)
	}
	return err
}

// plain tells what is wrong with what is compressed by a code.
type plain struct{ r io.Reader }

func (p plain) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err == nil || err == io.EOF { //nolint:errorlint // as readers give it
		return n, err
	}
	return n, damaged(err)
}

func damaged(err error) error {
	var coded *errors.Error
	if errors.As(err, &coded) && coded.Code != errors.InvalidArgument || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errors.Wrap(err, errors.PreconditionFailed, "what was packed cannot be read")
}
