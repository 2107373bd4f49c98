package execution

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func capacity(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.FcntlInt(f.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A pipe that was found full gets more room; what went through it is the same.
func TestPumpWidensAFullPipe(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"little": 1000, "much": 5 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = w.Close() }()
			usual := capacity(t, w)
			want := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
			first, _ := w.Write(want[:min(size, usual)])
			var got bytes.Buffer
			done := make(chan struct{})
			go pump(r, func(data []byte) { got.Write(data) }, func() { close(done) })
			if _, err := w.Write(want[first:]); err != nil {
				t.Fatal(err)
			}
			if wide := capacity(t, w); (wide > usual) != (size > usual) {
				t.Errorf("the pipe holds %d bytes after %d went through", wide, size)
			}
			_ = w.Close()
			<-done
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%d bytes of %d, or not the right ones", got.Len(), size)
			}
		})
	}
}
