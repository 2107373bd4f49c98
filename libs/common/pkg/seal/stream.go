package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Long content is sealed in pieces, each AES-256-GCM with the number of the piece
// and whether it is the last as its nonce: pieces cannot be left out, put in another
// order or cut off at the end unseen. A nonce is used once, as a key is for one
// content (the STREAM construction, https://eprint.iacr.org/2015/189).
const (
	pieceBytes  = 64 << 10 // of content, but for the last
	sealedPiece = pieceBytes + 16
)

// NewStreamKey makes a key for one content.
func NewStreamKey() []byte {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key)
	return key
}

type stream struct {
	gcm   cipher.AEAD
	place []byte
	nonce [12]byte // 8 bytes of number, 3 that are zero, 1 for the last piece
	count uint64
}

func newStream(key []byte, place string) (stream, error) {
	gcm, err := newGCM(key)
	return stream{gcm: gcm, place: []byte(place)}, err
}

func (s *stream) next(last bool) []byte {
	binary.BigEndian.PutUint64(s.nonce[:], s.count)
	s.count++
	if last {
		s.nonce[11] = 1
	}
	return s.nonce[:]
}

// Writer seals what is written to it. Close writes the last piece.
type Writer struct {
	stream
	w   io.Writer
	buf []byte // not sealed yet, at most a piece
	err error
}

// NewWriter seals content for a place, with a key that seals nothing else, and
// writes it to w. Returns Internal for a key that is none.
func NewWriter(w io.Writer, key []byte, place string) (*Writer, error) {
	s, err := newStream(key, place)
	if err != nil {
		return nil, err
	}
	return &Writer{stream: s, w: w, buf: make([]byte, 0, sealedPiece)}, nil
}

// Write returns the error of what it writes to.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if w.err != nil {
			return n, w.err
		}
		if len(w.buf) == pieceBytes { // and more comes: it is not the last
			w.put(false)
			continue
		}
		some := min(len(p), pieceBytes-len(w.buf))
		w.buf = append(w.buf, p[:some]...)
		n, p = n+some, p[some:]
	}
	return n, w.err
}

func (w *Writer) put(last bool) {
	_, w.err = w.w.Write(w.gcm.Seal(w.buf[:0], w.next(last), w.buf, w.place))
	w.buf = w.buf[:0]
}

// Close ends the content. It does not close what it writes to.
func (w *Writer) Close() error {
	if w.err == nil {
		w.put(true)
		if w.err == nil {
			w.err = errors.New(errors.Internal, "the content has ended")
			return nil
		}
	}
	return w.err
}

// Reader opens what a [Writer] has sealed.
type Reader struct {
	stream
	r     io.Reader
	mem   []byte
	ahead int    // bytes in mem of what follows the piece
	open  []byte // content that was not read yet
	err   error
}

// NewReader opens content that was sealed for a place. It gives nothing that it
// has not authenticated, and tells PreconditionFailed where the content is
// another or was cut off. Returns Internal for a key that is none.
func NewReader(r io.Reader, key []byte, place string) (*Reader, error) {
	s, err := newStream(key, place)
	if err != nil {
		return nil, err
	}
	// One byte more than a piece tells whether it is the last.
	return &Reader{stream: s, r: r, mem: make([]byte, sealedPiece+1)}, nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.open) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.piece()
	}
	n := copy(p, r.open)
	r.open = r.open[n:]
	return n, nil
}

func (r *Reader) piece() {
	if r.ahead == 1 {
		r.mem[0] = r.mem[sealedPiece]
	}
	n, err := io.ReadFull(r.r, r.mem[r.ahead:])
	n += r.ahead
	r.ahead = 1
	last := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
	switch {
	case last:
		r.err = io.EOF
	case err != nil:
		r.err = err
		return
	default:
		n = sealedPiece
	}
	// Not in place: the byte behind the piece is of the next.
	open, err := r.gcm.Open(nil, r.next(last), r.mem[:n], r.place)
	if err != nil {
		r.err = errors.Wrap(err, errors.PreconditionFailed, "the content was changed, cut off, or is under another key")
		return
	}
	r.open = open
}
