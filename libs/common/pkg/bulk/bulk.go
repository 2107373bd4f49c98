// Package bulk moves many bytes. What moving costs is less the copying than
// each call of the kernel, which wakes somebody at the other end or looks up a
// page of a file; so the pieces are larger than those of [io.Copy], and small
// enough to stay in a processor's cache between being read and being written.
package bulk

import (
	"io"
	"sync"
)

// Piece is how much is moved at once.
const Piece = 256 << 10

var pieces = sync.Pool{New: func() any { return new([Piece]byte) }}

// Copy copies as [io.Copy] does, each piece as soon as it is there, and by no
// shortcut that a reader or writer offers.
func Copy(dst io.Writer, src io.Reader) (int64, error) {
	buf := pieces.Get().(*[Piece]byte)
	defer pieces.Put(buf)
	return io.CopyBuffer(onlyWriter{dst}, onlyReader{src}, buf[:])
}

// Store copies to a file by whole pieces, so that each page of the file is
// written once and not in parts, however the bytes come in. What came before
// src failed is written as well.
func Store(file io.Writer, src io.Reader) (int64, error) {
	buf := pieces.Get().(*[Piece]byte)
	defer pieces.Put(buf)
	return StoreBy(buf[:], file, src)
}

// StoreBy is Store with pieces as large as the buffer.
func StoreBy(buf []byte, file io.Writer, src io.Reader) (written int64, err error) {
	for filled := 0; ; {
		n, rerr := src.Read(buf[filled:])
		filled += n
		if filled == len(buf) || rerr != nil && filled > 0 {
			w, err := file.Write(buf[:filled])
			written += int64(w)
			if err != nil {
				return written, err
			}
			filled = 0
		}
		if rerr == io.EOF { // the end itself; what wraps it is an error
			return written, nil
		}
		if rerr != nil {
			return written, rerr
		}
	}
}

type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
