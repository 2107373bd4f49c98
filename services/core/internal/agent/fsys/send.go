package fsys

import (
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
)

// Send copies to a connection by pieces that a [Reader] of a file likes. When
// it returns, nothing reads from r any more.
func Send(w io.Writer, r io.Reader, size int64) (int64, error) {
	if size <= cachedBytes {
		return bulk.Copy(w, r)
	}
	free := make(chan []byte, 2)
	for range cap(free) {
		buf, unmap, err := directBuffer()
		if err != nil {
			return 0, err
		}
		defer unmap()
		free <- buf
	}
	return sendAhead(w, r, free)
}

// piece is what one Read yielded.
type piece struct {
	buf []byte
	n   int
	err error
}

// sendAhead reads into one buffer while the one before is on its way, because
// direct I/O, unlike the page cache, does not read ahead.
func sendAhead(w io.Writer, r io.Reader, free chan []byte) (written int64, err error) {
	read := make(chan piece, cap(free))
	go func() {
		defer close(read)
		for buf := range free {
			n, err := r.Read(buf)
			read <- piece{buf, n, err}
			if err != nil {
				return
			}
		}
	}()
	for p := range read {
		n, werr := w.Write(p.buf[:p.n])
		written += int64(n)
		if err = werr; err == nil {
			err = p.err
		}
		if err != nil {
			break
		}
		free <- p.buf
	}
	close(free)
	for range read { //nolint:revive // until the other has ended
	}
	if err == io.EOF { //nolint:errorlint // the end itself; what wraps it is an error
		err = nil
	}
	return written, err
}
