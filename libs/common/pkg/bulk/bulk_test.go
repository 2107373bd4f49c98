package bulk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
)

// writes remembers how large each write was.
type writes struct {
	bytes.Buffer
	sizes []int
}

func (w *writes) Write(p []byte) (int, error) {
	w.sizes = append(w.sizes, len(p))
	return w.Buffer.Write(p)
}

// ReadFrom must not be used: the sizes would be those of the reader's choice.
func (w *writes) ReadFrom(io.Reader) (int64, error) { return 0, errors.New("a shortcut was taken") }

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

func TestStoreWritesWholePieces(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, bulk.Piece - 1, bulk.Piece, bulk.Piece + 1, 3*bulk.Piece + 5} {
		want := content(n)
		for name, r := range map[string]io.Reader{
			"at once":      bytes.NewReader(want),
			"by halves":    iotest.HalfReader(bytes.NewReader(want)),
			"end with all": iotest.DataErrReader(bytes.NewReader(want)),
		} {
			var w writes
			got, err := bulk.Store(&w, r)
			if err != nil || got != int64(n) || !bytes.Equal(w.Bytes(), want) {
				t.Fatalf("%d bytes %s: %d, %v", n, name, got, err)
			}
			for i, size := range w.sizes {
				if size != bulk.Piece && i < len(w.sizes)-1 || size == 0 {
					t.Errorf("%d bytes %s: written by %v", n, name, w.sizes)
				}
			}
		}
	}
}

// A stream that breaks must not pass for one that ends.
func TestStoreTellsABreakFromAnEnd(t *testing.T) {
	t.Parallel()
	for _, broken := range []error{io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF), errors.New("other")} {
		var w writes
		n, err := bulk.Store(&w, io.MultiReader(bytes.NewReader(content(10)), iotest.ErrReader(broken)))
		if n != 10 || w.Len() != 10 || err != broken { //nolint:errorlint // it itself
			t.Errorf("%v: %d bytes, %v", broken, n, err)
		}
	}
}

type full struct{ room int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.room)
	f.room -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(io.Writer, io.Reader) (int64, error){"store": bulk.Store, "copy": bulk.Copy} {
		n, err := do(&full{room: bulk.Piece + 3}, bytes.NewReader(content(3*bulk.Piece)))
		if n != bulk.Piece+3 || !errors.Is(err, errFull) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

// What is there is passed on, also when it is little.
func TestCopyDoesNotWait(t *testing.T) {
	t.Parallel()
	var w writes
	n, err := bulk.Copy(&w, iotest.OneByteReader(bytes.NewReader(content(5))))
	if n != 5 || err != nil || len(w.sizes) != 5 {
		t.Errorf("%d bytes by %v, %v", n, w.sizes, err)
	}
}
