// Package sparse writes files that are mostly zeros as what else is in them.
package sparse

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// block is what is left out where it is zero: a page of all file systems here.
	block = 4 << 10
	// chunk is what is looked at at once; no run is longer.
	chunk = 1 << 20
	// headBytes are a run's offset and its length, big endian; its data follows.
	// The last has the file's size as its offset, and no length.
	headBytes = 16
)

var zeros [block]byte

// Write writes the first size bytes of a file that nobody writes to. The same
// content is the same bytes, wherever the file has holes.
func Write(ctx context.Context, w io.Writer, f *os.File, size int64) error {
	buf := make([]byte, min(chunk, size))
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO { //nolint:errorlint // a raw errno
			break // a hole to its end
		}
		if err != nil {
			return &os.PathError{Op: "seek", Path: f.Name(), Err: err}
		}
		if at = data / chunk * chunk; at >= size {
			break
		}
		part := buf[:min(chunk, size-at)]
		if _, err := f.ReadAt(part, at); err != nil {
			return NoEOF(err)
		}
		if err := runs(w, part, at); err != nil {
			return err
		}
		if size-at <= chunk {
			break
		}
		at += chunk
	}
	return head(w, size, 0)
}

// runs writes what is not zero in a part of a file.
func runs(w io.Writer, part []byte, at int64) error {
	for from := 0; from < len(part); {
		if blank(part, from) {
			from += block
			continue
		}
		to := from + block
		for to < len(part) && !blank(part, to) {
			to += block
		}
		run := part[from:min(to, len(part))]
		if err := head(w, at+int64(from), len(run)); err != nil {
			return err
		}
		if _, err := w.Write(run); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func blank(part []byte, from int) bool {
	b := part[from:min(from+block, len(part))]
	return bytes.Equal(b, zeros[:len(b)])
}

func head(w io.Writer, offset int64, length int) error {
	var h [headBytes]byte
	binary.BigEndian.PutUint64(h[:], uint64(offset))
	binary.BigEndian.PutUint64(h[8:], uint64(length))
	_, err := w.Write(h[:])
	return err
}

// Read writes into an empty file what Write wrote of one of a size, with at
// most limit bytes that are not zero, and tells how many they were. It reads no
// further than that. Returns InvalidArgument for what Write did not write,
// TooLarge, and r's errors.
func Read(ctx context.Context, r io.Reader, f *os.File, size, limit int64) (data int64, err error) {
	buf := make([]byte, min(chunk, size))
	for end := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return data, err
		}
		at, n, err := next(r, size, end)
		switch {
		case err != nil:
			return data, err
		case n == 0:
			return data, f.Truncate(size)
		case n > limit-data:
			return data, errors.New(errors.TooLarge, "there is more than %d bytes of content", limit)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return data, NoEOF(err)
		}
		if _, err := f.WriteAt(buf[:n], at); err != nil {
			return data, err
		}
		data, end = data+n, at+n
	}
}

// NoEOF is err, or InvalidArgument where it says that there is nothing more to
// read though there must be.
func NoEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // as readers give it
		return errors.Wrap(io.ErrUnexpectedEOF, errors.InvalidArgument, "it ends too early")
	}
	return err
}

// End reads the end of r. Returns InvalidArgument where something is left, and
// r's error.
func End(r io.Reader) error {
	switch _, err := io.ReadFull(r, make([]byte, 1)); {
	case err == nil:
		return errors.New(errors.InvalidArgument, "something follows the end")
	case err != io.EOF: //nolint:errorlint // as readers give it
		return err
	}
	return nil
}

// Skip reads over what Write wrote of a file of a size. Returns what Read does.
func Skip(ctx context.Context, r io.Reader, size int64) error {
	for end := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		at, n, err := next(r, size, end)
		if err != nil || n == 0 {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			return NoEOF(err)
		}
		end = at + n
	}
}

// next reads where the next run is, which is not before end; without a length it
// was the last. Returns InvalidArgument, and r's error.
func next(r io.Reader, size, end int64) (at, length int64, err error) {
	var h [headBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, NoEOF(err)
	}
	from, n := binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])
	switch {
	case n == 0 && from == uint64(size):
		return size, 0, nil
	case n == 0 || n > chunk || from < uint64(end) || from > uint64(size) || n > uint64(size)-from:
		return 0, 0, errors.New(errors.InvalidArgument, "a file's content is not where it can be")
	}
	return int64(from), int64(n), nil
}
