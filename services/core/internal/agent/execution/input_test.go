package execution

import (
	"io"
	"os"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// A process may end at the very moment at which it was given its input.
func TestInputAtTheEnd(t *testing.T) {
	t.Parallel()
	for range 3000 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		in := newInput(w, false)
		var both sync.WaitGroup
		both.Go(func() {
			if err := in.put(0, []byte("the last words of it")); err != nil {
				t.Error(err)
			}
		})
		both.Go(in.stop)
		both.Wait()
		_, _ = io.Copy(io.Discard, r) // ends when the writer has let go
		_ = r.Close()
		if taken, written, _ := in.progress(); taken != 20 || written != 20 {
			t.Fatalf("%d taken, %d written", taken, written)
		}
	}
}

// A process may read its input and end faster than its writer hears that it
// was written.
func TestInputReadByOneThatEnds(t *testing.T) {
	t.Parallel()
	const words = "exit\n"
	for range 3000 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		in := newInput(w, false)
		var process sync.WaitGroup
		process.Go(func() {
			if _, err := io.ReadFull(r, make([]byte, len(words))); err != nil {
				t.Error(err)
			}
			_ = r.Close()
			in.stop()
		})
		if err := in.add(t.Context(), []byte(words)); err != nil {
			t.Fatalf("input that was read: %v", err)
		}
		process.Wait()
		if err := in.add(t.Context(), []byte(words)); !errors.HasCode(err, errors.Gone) {
			t.Fatalf("input after the end: %v", err)
		}
	}
}
