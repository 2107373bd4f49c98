package unpack

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Every entry costs a header and padding in the stream, and some carry records
// of their own; a stream beyond what the limits can need hides something.
const rawPerEntry = 4 << 10

// boundedReader ends with the context and bounds the decompressed stream, so
// that padding, left out entries and trailing zeros cannot run on for ever.
type boundedReader struct {
	ctx context.Context
	r   io.Reader
	u   *Unpacker
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	limit := b.u.limits.Bytes + b.u.limits.Entries*rawPerEntry
	if b.u.raw > limit {
		return 0, errors.New(errors.TooLarge, "the archive is longer than %d bytes when decompressed", limit)
	}
	n, err := b.r.Read(p)
	b.u.raw += int64(n)
	return n, err
}

// blame gives an error the code of the side that is at fault.
func blame(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var coded *errors.Error
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &coded):
		// The message is complete; say which entry it was about.
		out := errors.New(coded.Code, format, args...)
		return errors.Wrap(err, coded.Code, "%s: %s", out.Message, coded.Message)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrap(err, errors.NoSpace, "the disk is full")
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG),
		errors.Is(err, unix.EEXIST), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMLINK):
		return errors.Wrap(err, errors.InvalidArgument, format, args...)
	case errors.As(err, &pathErr):
		return errors.Wrap(err, errors.Internal, format, args...)
	}
	// What decompressors and the tar reader say about their input.
	return errors.Wrap(err, errors.InvalidArgument, format, args...)
}
