package unpack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxWindow bounds the memory that a zstd frame may ask for: the window of
// zstd's highest level (RFC 8878 §3.1.1.1.2 lets decoders set a bound).
const maxWindow = 128 << 20

// Decompress finds out by its first bytes whether r is gzip, zstd or a plain
// archive and gives the plain stream. Returns InvalidArgument.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the archive's gzip header is damaged")
		}
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the archive's zstd header is damaged")
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}), bytes.HasPrefix(magic, []byte("BZh")):
		return nil, errors.New(errors.InvalidArgument, "the archive is compressed with xz or bzip2").WithHint("give it plain, or compressed with gzip or zstd")
	case len(magic) == 0:
		return nil, errors.New(errors.InvalidArgument, "the archive is empty")
	}
	return io.NopCloser(br), nil
}
