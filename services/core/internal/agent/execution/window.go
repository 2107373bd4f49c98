package execution

import (
	"io"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

const (
	// WindowBytes bounds the output of one execution that the agent holds.
	WindowBytes = 1 << 20
	// maxSegments bounds the changes between streams within the window: a
	// command that writes single bytes to stdout and stderr in turn must not
	// cost more than the bytes do.
	maxSegments = 1 << 15
	// aheadBytes is how much output waits for the host's attachment before more
	// is taken from the command. What is waiting goes out in few large pieces
	// then, and so does what the command's pipe holds meanwhile.
	aheadBytes = 256 << 10
	minRing    = 4 << 10
)

// ErrCut ends a [Reader] that did not read for so long that the command's
// output had to go on without it.
var ErrCut = errors.New(errors.CapacityExhausted, "the reader was too slow and was cut off")

// Stream tells apart what a command writes.
type Stream uint8

// The streams.
const (
	Stdout Stream = iota + 1
	Stderr
	Terminal
)

// Chunk is a piece of output. Data is valid until the next use of its buffer.
type Chunk struct {
	Offset int64
	Stream Stream
	Data   []byte
}

// window holds the output between base and end in a ring, for any number of
// readers at positions of their own.
//
// Who keeps bytes in it: the host, from the offset that it acknowledged, always
// for its own executions, and for foreign ones while it is attached, or watches
// and will be; and every live reader from its position. Without any of them a foreign execution's
// oldest bytes give way to new ones.
type window struct {
	stall time.Duration // after so long without a read a reader is cut off

	mu       sync.Mutex
	change   watch.Change
	ring     []byte    // its length is a power of two
	base     int64     // first byte held
	end      int64     // after the last byte
	segments []segment // ascending; the first covers base
	acked    int64
	foreign  bool
	attached bool      // the host holds the execution
	given    int64     // what is below went out to the host's attachment
	awaited  time.Time // foreign: until then the host, which watches, is expected to attach
	readers  map[*Reader]struct{}
	closed   bool // no more output; how it ended is known
}

// segment is a run of bytes of one stream, up to the next segment's start.
type segment struct {
	start  int64
	stream Stream
}

// Reader follows output from a position. It keeps what it has not read in the
// window. Not safe for concurrent use.
type Reader struct {
	w     *window
	pos   int64
	moved time.Time
	cut   bool
}

// slowestLocked is the lowest position of a live reader, or end.
func (w *window) slowestLocked() (int64, *Reader) {
	low, slow := w.end, (*Reader)(nil)
	for r := range w.readers {
		if r.pos < low {
			low, slow = r.pos, r
		}
	}
	return low, slow
}

// floorLocked is the lowest byte that must be kept.
func (w *window) floorLocked() int64 {
	low, _ := w.slowestLocked()
	if !w.foreign || w.attached || time.Now().Before(w.awaited) {
		low = min(low, w.acked)
	}
	return max(low, w.base)
}

// append adds output of one stream. It blocks while the window is full of
// bytes that someone keeps.
func (w *window) append(stream Stream, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var blocked time.Time
	for len(data) > 0 {
		w.waitGivenLocked()
		n := w.roomLocked(stream, len(data))
		if n == 0 {
			if blocked.IsZero() {
				blocked = time.Now()
			}
			w.waitRoomLocked(blocked)
			continue
		}
		blocked = time.Time{}
		if last := len(w.segments) - 1; last < 0 || w.segments[last].stream != stream {
			w.segments = append(w.segments, segment{start: w.end, stream: stream})
		}
		w.growLocked(int(w.end-w.base) + n)
		at := int(w.end) & (len(w.ring) - 1)
		copied := copy(w.ring[at:], data[:n])
		copy(w.ring, data[copied:n])
		w.end += int64(n)
		data = data[n:]
		w.change.Notify()
	}
}

// waitGivenLocked waits while the host's attachment has enough to do.
func (w *window) waitGivenLocked() {
	for w.attached && w.end-w.given >= aheadBytes {
		changed := w.change.Next()
		w.mu.Unlock()
		<-changed
		w.mu.Lock()
	}
}

// roomLocked makes and tells the room for up to want bytes of a stream.
func (w *window) roomLocked(stream Stream, want int) int {
	floor := w.floorLocked()
	// Changing the stream takes a segment; drop one if that may be.
	if n := len(w.segments); n >= maxSegments && w.segments[n-1].stream != stream {
		if w.segments[1].start > floor {
			return 0
		}
		w.dropLocked(w.segments[1].start)
	}
	want = min(want, WindowBytes)
	if free := WindowBytes - int(w.end-w.base); free < want {
		w.dropLocked(min(floor, w.base+int64(want-free)))
	}
	return min(want, WindowBytes-int(w.end-w.base))
}

// waitRoomLocked waits for a change, and cuts off a reader that has stalled
// the output, blocked since a given time, for too long.
func (w *window) waitRoomLocked(blocked time.Time) {
	changed := w.change.Next()
	var late <-chan time.Time
	low, slow := w.slowestLocked()
	if rest := time.Until(w.awaited); rest > 0 && w.acked == w.floorLocked() {
		timer := time.NewTimer(rest)
		defer timer.Stop()
		late = timer.C
	} else if slow != nil && low == w.floorLocked() {
		if slow.moved.After(blocked) {
			blocked = slow.moved
		}
		rest := w.stall - time.Since(blocked)
		if rest <= 0 {
			slow.cut = true
			delete(w.readers, slow)
			w.freeLocked()
			w.change.Notify()
			return
		}
		timer := time.NewTimer(rest)
		defer timer.Stop()
		late = timer.C
	}
	w.mu.Unlock()
	select {
	case <-changed:
	case <-late:
	}
	w.mu.Lock()
}

// dropLocked gives up the bytes below to.
func (w *window) dropLocked(to int64) {
	if to <= w.base {
		return
	}
	w.base = to
	keep := 0
	for keep+1 < len(w.segments) && w.segments[keep+1].start <= to {
		keep++
	}
	if to == w.end {
		keep = len(w.segments)
	}
	w.segments = w.segments[keep:] // append moves what is left when the array is used up
}

// freeLocked gives up what nobody will ask for again.
func (w *window) freeLocked() {
	low, _ := w.slowestLocked()
	if to := min(low, w.acked); to > w.base {
		w.dropLocked(to)
		w.change.Notify()
	}
	if w.closed && len(w.ring) > minRing && w.end == w.base {
		w.ring = nil
	}
}

// growLocked makes the ring hold at least need bytes.
func (w *window) growLocked(need int) {
	size := max(len(w.ring), minRing)
	for size < need {
		size *= 2
	}
	if size != len(w.ring) {
		w.resizeLocked(size)
	}
}

func (w *window) resizeLocked(size int) {
	ring := make([]byte, size)
	for pos := w.base; pos < w.end; {
		piece := w.pieceLocked(pos, w.end)
		for len(piece) > 0 {
			n := copy(ring[int(pos)&(size-1):], piece)
			piece, pos = piece[n:], pos+int64(n)
		}
	}
	w.ring = ring
}

// pieceLocked is the contiguous part of the ring from pos, up to a limit.
func (w *window) pieceLocked(pos, limit int64) []byte {
	at := int(pos) & (len(w.ring) - 1)
	return w.ring[at:min(len(w.ring), at+int(limit-pos))]
}

// read copies output from pos (or, where that is gone, from the first byte
// held) into buf: one stream's bytes. Without any it returns a channel that is
// closed at the next change, or io.EOF at the end.
func (w *window) readLocked(pos int64, buf []byte) (Chunk, <-chan struct{}, error) {
	pos = max(pos, w.base)
	if pos >= w.end {
		if w.closed {
			return Chunk{Offset: w.end}, nil, io.EOF
		}
		return Chunk{Offset: w.end}, w.change.Next(), nil
	}
	at := w.findLocked(pos)
	limit := w.end
	if at+1 < len(w.segments) {
		limit = w.segments[at+1].start
	}
	limit = min(limit, pos+int64(len(buf)))
	n := 0
	for p := pos; p < limit; p = pos + int64(n) {
		n += copy(buf[n:], w.pieceLocked(p, limit))
	}
	return Chunk{Offset: pos, Stream: w.segments[at].stream, Data: buf[:n]}, nil, nil
}

// findLocked is the index of the segment that holds pos.
func (w *window) findLocked(pos int64) int {
	low, high := 0, len(w.segments)-1
	for low < high {
		mid := (low + high + 1) / 2
		if w.segments[mid].start <= pos {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// give is readLocked for the host's attachment.
func (w *window) give(pos int64, buf []byte) (Chunk, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, changed, err := w.readLocked(pos, buf)
	if len(c.Data) > 0 {
		// Never back: it may be one that another took the execution from, and that other has this already.
		w.given = max(w.given, c.Offset+int64(len(c.Data)))
		w.change.Notify()
	}
	return c, changed, err
}

// ack frees what is below offset. Offsets outside the output are OutOfRange.
func (w *window) ack(offset int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if offset < 0 || offset > w.end {
		return errors.New(errors.OutOfRange, "offset %d is outside the output of %d bytes", offset, w.end)
	}
	w.acked = max(w.acked, offset)
	w.freeLocked()
	return nil
}

// attach tells that the host holds the execution and has what is below offset.
func (w *window) attach(offset int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attached, w.given, w.awaited = true, offset, time.Time{}
	w.change.Notify()
}

// detach tells that the host no longer holds the execution.
func (w *window) detach() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attached, w.awaited = false, time.Time{}
	w.change.Notify()
}

// giveUpHost ends the wait for a host that watched and has gone.
func (w *window) giveUpHost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awaited = time.Time{}
	w.change.Notify()
}

// close says that no more output comes, and frees what the ring has in excess.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.freeLocked()
	size := minRing
	for size < int(w.end-w.base) {
		size *= 2
	}
	if w.ring != nil && size < len(w.ring) {
		w.resizeLocked(size)
	}
	w.change.Notify()
}

// discard gives up everything held.
func (w *window) discard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked = w.end
	w.freeLocked()
}

func (w *window) offsets() (acked, end int64, held int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked, w.end, len(w.ring)
}

// subscribe makes a reader of what comes from now on.
func (w *window) subscribe() *Reader {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &Reader{w: w, pos: w.end, moved: time.Now()}
	w.readers[r] = struct{}{}
	return r
}

// Poll copies the next output into buf. An empty chunk comes with a channel
// that is closed when asking again is worthwhile, or with an error: io.EOF
// after the execution's end, [ErrCut].
func (r *Reader) Poll(buf []byte) (Chunk, <-chan struct{}, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if r.cut {
		return Chunk{}, nil, ErrCut
	}
	c, changed, err := r.w.readLocked(r.pos, buf)
	r.pos = c.Offset + int64(len(c.Data))
	r.moved = time.Now()
	if len(c.Data) > 0 {
		// A foreign execution's writer may wait for this reader alone.
		r.w.freeLocked()
		r.w.change.Notify()
	}
	return c, changed, err
}

// Close lets go of the output.
func (r *Reader) Close() {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	delete(r.w.readers, r)
	r.w.freeLocked()
	r.w.change.Notify()
}
