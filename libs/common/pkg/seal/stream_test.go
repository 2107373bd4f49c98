package seal_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"testing"
	"testing/iotest"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
)

func sealed(t *testing.T, key, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := seal.NewWriter(&out, key, "place")
	if err != nil {
		t.Fatal(err)
	}
	// In pieces of odd sizes.
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/3)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("more")); err == nil {
		t.Error("it was written to after its end")
	}
	return out.Bytes()
}

func opened(t *testing.T, key, content []byte, place string) ([]byte, error) {
	t.Helper()
	r, err := seal.NewReader(iotest.HalfReader(bytes.NewReader(content)), key, place)
	if err != nil {
		t.Fatal(err)
	}
	return io.ReadAll(r)
}

// Content of any length comes back as it was, and nothing of it that was changed.
func TestStream(t *testing.T) {
	t.Parallel()
	const piece = 64 << 10
	for _, n := range []int{0, 1, piece - 1, piece, piece + 1, 2 * piece, 3*piece + 17} {
		content := make([]byte, n)
		_, _ = rand.Read(content)
		key := seal.NewStreamKey()
		s := sealed(t, key, content)
		if got, err := opened(t, key, s, "place"); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
		if n > 16 && bytes.Contains(s, content[:16]) {
			t.Error("it is there in clear")
		}
		if bytes.Equal(s, sealed(t, seal.NewStreamKey(), content)) {
			t.Error("the key does not matter")
		}
		refuse := func(what string, s []byte, key []byte, place string) {
			t.Helper()
			got, err := opened(t, key, s, place)
			if !errors.HasCode(err, errors.PreconditionFailed) || !bytes.Equal(got, content[:len(got)]) {
				t.Errorf("%d bytes, %s: %d, %v", n, what, len(got), err)
			}
		}
		refuse("another key", s, seal.NewStreamKey(), "place")
		refuse("another place", s, key, "else")
		refuse("nothing", nil, key, "place")
		for _, at := range []int{0, len(s) / 2, len(s) - 1} {
			changed := bytes.Clone(s)
			changed[at] ^= 1
			refuse("changed", changed, key, "place")
			refuse("cut off", s[:at], key, "place")
		}
		refuse("longer", append(bytes.Clone(s), 0), key, "place")
		if n > 2*piece {
			const one = piece + 16
			refuse("a piece cut off", s[:one], key, "place")
			refuse("all but the last piece", s[:3*one], key, "place")
			refuse("a piece left out", s[one:], key, "place")
			swapped := append(append(bytes.Clone(s[one:2*one]), s[:one]...), s[2*one:]...)
			refuse("pieces swapped", swapped, key, "place")
		}
	}
}

// What cannot be written or read is told.
func TestStreamFails(t *testing.T) {
	t.Parallel()
	key := seal.NewStreamKey()
	if _, err := seal.NewWriter(io.Discard, key[:5], ""); err == nil {
		t.Error("a key of five bytes")
	}
	full := errors.Plain("full")
	w, err := seal.NewWriter(failing{full}, key, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, full) {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, full) {
		t.Error(err)
	}
	r, err := seal.NewReader(iotest.ErrReader(full), key, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, full) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
