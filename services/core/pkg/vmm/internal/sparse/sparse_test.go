package sparse_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/sparse"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func file(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func written(t *testing.T, f *os.File, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, sparse.Write(t.Context(), &b, f, size))
	return b.Bytes()
}

// content makes a file with holes, written zeros, and data at odd places.
func content(t *testing.T, seed uint64, whole bool) (*os.File, int64) {
	t.Helper()
	r, f := rand.New(rand.NewPCG(seed, 1)), file(t) //nolint:gosec // no secret
	size := r.Int64N(4 << 20)
	if whole { // no hole anywhere
		_, err := f.Write(make([]byte, size))
		must(t, err)
	}
	must(t, f.Truncate(size))
	for range r.IntN(9) {
		data := make([]byte, r.IntN(50<<10))
		for i := range data {
			if r.IntN(3) > 0 {
				data[i] = byte(r.Uint32())
			}
		}
		at := r.Int64N(size + 1)
		data = data[:min(int64(len(data)), size-at)]
		_, err := f.WriteAt(data, at)
		must(t, err)
	}
	return f, size
}

// What was written is read as it was, and is the same wherever there were holes.
func TestSameContent(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		f, size := content(t, seed, false)
		full, _ := content(t, seed, true)
		packed := written(t, f, size)
		if !bytes.Equal(packed, written(t, full, size)) {
			t.Errorf("seed %d: other bytes without holes", seed)
		}
		out := file(t)
		in := io.MultiReader(bytes.NewReader(packed), bytes.NewReader([]byte("what follows")))
		n, err := sparse.Read(t.Context(), in, out, size, size)
		must(t, err)
		if rest, err := io.ReadAll(in); err != nil || string(rest) != "what follows" {
			t.Errorf("seed %d: %q is left, %v", seed, rest, err)
		}
		a, err := os.ReadFile(f.Name())
		must(t, err)
		b, err := os.ReadFile(out.Name())
		must(t, err)
		if !bytes.Equal(a, b) || n > size {
			t.Errorf("seed %d: other content, %d bytes of %d", seed, n, size)
		}
		in = io.MultiReader(bytes.NewReader(packed), bytes.NewReader([]byte("what follows")))
		must(t, sparse.Skip(t.Context(), in, size))
		if rest, err := io.ReadAll(in); err != nil || string(rest) != "what follows" {
			t.Errorf("seed %d: %q is left when it is skipped, %v", seed, rest, err)
		}
		if n == 0 {
			continue
		}
		if _, err := sparse.Read(t.Context(), bytes.NewReader(packed), file(t), size, n-1); !errors.HasCode(err, errors.TooLarge) {
			t.Errorf("seed %d: beyond the limit: %v", seed, err)
		}
	}
}

// A file that is all hole costs nothing, however large.
func TestHoles(t *testing.T) {
	t.Parallel()
	f, out := file(t), file(t)
	const size = 1 << 43
	must(t, f.Truncate(size))
	_, err := f.WriteAt([]byte("x"), size/2)
	must(t, err)
	packed := written(t, f, size)
	if len(packed) > 5000 {
		t.Errorf("%d bytes", len(packed))
	}
	_, err = sparse.Read(t.Context(), bytes.NewReader(packed), out, size, size)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(int(out.Fd()), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	run := func(at, n uint64, data int) []byte {
		b := binary.BigEndian.AppendUint64(nil, at)
		return append(binary.BigEndian.AppendUint64(b, n), make([]byte, data)...)
	}
	end := run(100<<10, 0, 0)
	for name, in := range map[string][]byte{
		"beyond the end":     bytes.Join([][]byte{run(100<<10-1, 2, 2), end}, nil),
		"far beyond":         bytes.Join([][]byte{run(1<<63, 1, 1), end}, nil),
		"an overflow":        bytes.Join([][]byte{run(1, 1<<64-1, 1), end}, nil),
		"backwards":          bytes.Join([][]byte{run(8192, 4096, 4096), run(4096, 4096, 4096), end}, nil),
		"over what is there": bytes.Join([][]byte{run(0, 8192, 8192), run(4096, 8192, 8192), end}, nil),
		"another size":       run(100<<10+1, 0, 0),
		"no length":          bytes.Join([][]byte{run(0, 0, 0), end}, nil),
		"a run too long":     run(0, 2<<20, 0),
	} {
		if _, err := sparse.Read(t.Context(), bytes.NewReader(in), file(t), 100<<10, 1<<20); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if err := sparse.Skip(t.Context(), bytes.NewReader(in), 100<<10); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s, skipped: %v", name, err)
		}
	}
	for name, in := range map[string][]byte{"nothing": nil, "half a head": end[:7], "half a run": run(0, 4096, 100), "no end": run(0, 4096, 4096)} {
		if _, err := sparse.Read(t.Context(), bytes.NewReader(in), file(t), 100<<10, 1<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sparse.Read(ctx, bytes.NewReader(end), file(t), 100<<10, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
