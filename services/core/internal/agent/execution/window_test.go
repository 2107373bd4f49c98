package execution

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

func newWindow(foreign bool, stall time.Duration) *window {
	return &window{foreign: foreign, stall: stall, readers: map[*Reader]struct{}{}}
}

// A model test: whatever is appended comes out, by stream, at its offset.
func TestWindowModel(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	w := newWindow(false, time.Hour)
	var want []byte
	var kinds []Stream
	var pos int64
	buf := make([]byte, 100_000)
	for range 3000 {
		switch held := len(want) - int(w.base); {
		case random.IntN(2) == 0 && held < WindowBytes-60_000:
			piece := make([]byte, random.IntN(50_000))
			stream := Stdout + Stream(random.IntN(2))
			for i := range piece {
				piece[i] = byte(random.Uint32())
				kinds = append(kinds, stream)
			}
			want = append(want, piece...)
			w.append(stream, piece)
		case random.IntN(3) > 0:
			c, _, err := w.give(pos, buf[:1+random.IntN(len(buf)-1)])
			if err != nil || c.Offset != pos || !bytes.Equal(c.Data, want[pos:pos+int64(len(c.Data))]) {
				t.Fatalf("read at %d: offset %d, %d bytes, %v", pos, c.Offset, len(c.Data), err)
			}
			for i := range c.Data {
				if kinds[int(pos)+i] != c.Stream {
					t.Fatalf("byte %d is of stream %d, not %d", int(pos)+i, kinds[int(pos)+i], c.Stream)
				}
			}
			pos += int64(len(c.Data))
		default:
			if err := w.ack(w.base + random.Int64N(pos-w.base+1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.close()
	for {
		c, _, err := w.give(pos, buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if !bytes.Equal(c.Data, want[pos:pos+int64(len(c.Data))]) {
			t.Fatal("the rest differs")
		}
		pos += int64(len(c.Data))
	}
	if pos != int64(len(want)) {
		t.Errorf("read %d of %d bytes", pos, len(want))
	}
	if err := w.ack(pos + 1); !errors.HasCode(err, errors.OutOfRange) {
		t.Errorf("acknowledging what never came: %v", err)
	}
	w.discard()
	if _, _, held := w.offsets(); held > minRing {
		t.Errorf("%d bytes are held of what was acknowledged", held)
	}
}

// Bytes of two streams in turn are bounded by what they cost to remember.
func TestWindowBoundsSegments(t *testing.T) {
	t.Parallel()
	w := newWindow(true, time.Hour) // nobody reads: the oldest goes
	for i := range 3 * maxSegments {
		w.append(Stdout+Stream(i%2), []byte{byte(i)})
	}
	if len(w.segments) > maxSegments || w.end != 3*maxSegments {
		t.Errorf("%d segments, %d bytes", len(w.segments), w.end)
	}
	c, _, _ := w.give(0, make([]byte, 10))
	if c.Offset != w.base || c.Data[0] != byte(c.Offset) || c.Stream != Stdout+Stream(c.Offset%2) {
		t.Errorf("oldest is %+v, base %d", c, w.base)
	}
}

// A foreign execution without readers loses its oldest bytes; a reader keeps
// them, until it stalls for too long.
func TestWindowCutsAStalledReader(t *testing.T) {
	t.Parallel()
	w := newWindow(true, 20*time.Millisecond)
	stalled, live := w.subscribe(), w.subscribe()
	block := make([]byte, WindowBytes)
	w.append(Stdout, block)
	buf, total := make([]byte, 64<<10), 0
	read := func(want int) {
		t.Helper()
		for total < want {
			c, _, err := live.Poll(buf)
			if err != nil || len(c.Data) == 0 {
				t.Fatalf("the live reader got %d bytes of %d, %v", total, want, err)
			}
			total += len(c.Data)
		}
	}
	read(WindowBytes)       // before anybody waits for it
	w.append(Stdout, block) // returns once the stalled reader is cut off
	w.close()
	read(2 * WindowBytes)
	if _, _, err := live.Poll(buf); total != 2*WindowBytes || !errors.Is(err, io.EOF) {
		t.Errorf("the live reader got %d bytes, then %v", total, err)
	}
	if _, _, err := stalled.Poll(make([]byte, 1)); !errors.Is(err, ErrCut) {
		t.Errorf("the stalled reader got %v", err)
	}
	stalled.Close()
	live.Close()
}

// One that had nothing to read is not stalled when much comes at once.
func TestWindowIsPatientWithAnIdleReader(t *testing.T) {
	t.Parallel()
	w := newWindow(true, time.Hour)
	r := w.subscribe()
	r.moved = time.Now().Add(-24 * time.Hour)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.append(Stdout, make([]byte, WindowBytes+1))
	}()
	buf, total := make([]byte, 64<<10), 0
	for total <= WindowBytes {
		c, changed, err := r.Poll(buf)
		if err != nil {
			t.Fatal(err)
		}
		if total += len(c.Data); len(c.Data) == 0 {
			<-changed
		}
	}
	<-done
}

// Output that the host's attachment has not taken yet is not piled up in small
// pieces: the command's pipe keeps the rest until then, or until the host goes.
func TestWindowWaitsForTheAttachment(t *testing.T) {
	t.Parallel()
	w := newWindow(false, time.Hour)
	w.attach(0)
	block := make([]byte, aheadBytes)
	w.append(Stdout, block)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.append(Stdout, block) // once the first was taken
		w.append(Stdout, block) // once the host has gone
	}()
	select {
	case <-done:
		t.Fatal("output was taken that the attachment has no use for yet")
	case <-time.After(20 * time.Millisecond):
	}
	buf := make([]byte, aheadBytes)
	if c, _, err := w.give(0, buf); err != nil || len(c.Data) != aheadBytes {
		t.Fatalf("%d bytes, %v", len(c.Data), err)
	}
	for _, end, _ := w.offsets(); end < 2*aheadBytes; _, end, _ = w.offsets() {
		time.Sleep(time.Millisecond)
	}
	w.detach()
	<-done
	if _, end, _ := w.offsets(); end != 3*aheadBytes {
		t.Errorf("%d bytes", end)
	}
}
