package journal

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// readAhead is the most that a reader holds in memory: one frame.
const readAhead = frameHeader + maxFrameData

// Reader yields a journal's output in order. It satisfies vmm.OutputReader:
// the last event has End set and is followed by io.EOF; without follow, io.EOF
// comes where the output stands still. An event's Data is valid until the next
// call. It is not safe for concurrent use, except that Close may be called at
// any time.
type Reader struct {
	j      *Journal
	owned  bool // Close closes j too
	follow bool
	// partings are those of the journal when reading began.
	partings int

	mu    sync.Mutex // held while stepping, never while waiting
	pos   int64      // next offset to deliver
	ended bool       // End was delivered
	held  *hold      // nil: the writer does not wait

	seg  *segment // open in file
	file *os.File
	off  int64  // in file, of what follows buf
	buf  []byte // read and not parsed yet
	mem  []byte // what buf lies in

	once sync.Once
	done chan struct{} // closed by Close
}

// NewReader reads from an offset; what was dropped already shows as a gap.
// With follow, Next waits for more until the end. Returns OutOfRange for an
// offset after NextOffset. The journal must stay open as long as the reader.
func (j *Journal) NewReader(from int64, follow bool) (*Reader, error) {
	j.mu.Lock()
	next, partings := j.next, j.partings
	j.mu.Unlock()
	if from < 0 || from > next {
		return nil, errors.New(errors.OutOfRange, "offset %d is not in the output, which has %d bytes", from, next).WithField("offset")
	}
	return &Reader{j: j, follow: follow, partings: partings, pos: from, done: make(chan struct{})}, nil
}

// Close ends the reader. A Next that waits returns Canceled. Calling it twice
// is fine.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.done)
		r.mu.Lock()
		r.letGo()
		r.closeFile()
		r.mu.Unlock()
		if r.owned {
			r.j.Close()
		}
	})
	return nil
}

// Next gives the next event. Returns io.EOF at the end, Gone when the journal
// was deleted, Unavailable after [Store.Part], Canceled after Close, and ctx's error.
func (r *Reader) Next(ctx context.Context) (domain.OutputEvent, error) {
	for {
		if err := ctx.Err(); err != nil {
			return domain.OutputEvent{}, err
		}
		event, wait, err := r.step()
		if err != nil || wait == nil {
			return event, err
		}
		select {
		case <-wait:
		case <-r.done:
		case <-ctx.Done():
		}
	}
}

// view is the journal as it stood at one moment.
type view struct {
	next  int64
	end   *domain.ExecutionEnd
	fail  error
	part  bool  // what comes next does not come here
	limit int64 // published size of the reader's segment

	changes uint64 // of the journal so far
}

// step gives the next event, or a channel to wait on when there is none yet.
func (r *Reader) step() (domain.OutputEvent, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.done:
		return domain.OutputEvent{}, nil, errors.New(errors.Canceled, "the output reader is closed")
	default:
	}
	// What was delivered by the last call was taken: Data was valid until now.
	r.delivered()
	for {
		v := r.look()
		if r.file != nil {
			f, err := r.frame(v.limit)
			switch {
			case err == nil:
				if event, ok := r.deliver(f); ok {
					return event, nil, nil
				}
				continue
			case errors.Is(err, io.EOF): // all of this segment was delivered
			case errors.Is(err, errDamaged):
				if gap := r.damage(v); gap != nil {
					return domain.OutputEvent{Offset: gap.From, Gap: gap}, nil, nil
				}
				continue
			default:
				return domain.OutputEvent{}, nil, ioError(err, "the journal cannot be read")
			}
		}
		if r.pos < v.next {
			event, ok, err := r.advance(v)
			if err != nil || ok {
				return event, nil, err
			}
			continue
		}
		switch {
		case v.end != nil && !r.ended:
			r.ended = true
			end := *v.end
			return domain.OutputEvent{Offset: r.pos, End: &end}, nil, nil
		case v.end != nil || !r.follow:
			return domain.OutputEvent{}, nil, io.EOF
		case v.fail != nil:
			return domain.OutputEvent{}, nil, v.fail
		case v.part:
			return domain.OutputEvent{}, nil, errors.New(errors.Unavailable, "the output goes on elsewhere, with its VM").WithRetryAfter(time.Second)
		}
		if wait := r.waitAfter(v); wait != nil {
			return domain.OutputEvent{}, wait, nil
		}
	}
}

func (r *Reader) look() view {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	v := view{next: r.j.next, end: r.j.end, fail: r.j.fail, part: r.j.partings != r.partings, changes: r.j.changes}
	if r.seg != nil {
		v.limit = r.seg.size
	}
	return v
}

// waitAfter gives a channel that is closed when the journal changes from v, or
// nil when it has already.
func (r *Reader) waitAfter(v view) <-chan struct{} {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	if r.j.changes != v.changes {
		return nil
	}
	return r.j.change.Next()
}

// frame reads the next frame of the open segment, io.EOF where limit is reached.
func (r *Reader) frame(limit int64) (frame, error) {
	for {
		f, verdict := parseFrame(r.buf)
		switch {
		case verdict == whole && f.offset <= r.pos:
			r.buf = r.buf[f.size():]
			return f, nil
		case r.off >= limit && len(r.buf) == 0:
			return frame{}, io.EOF
		case verdict != short || r.off >= limit:
			return frame{}, errDamaged
		}
		if err := r.fill(limit); err != nil {
			return frame{}, err
		}
	}
}

// fill reads more of the file behind what is in the buffer.
func (r *Reader) fill(limit int64) error {
	have := len(r.buf)
	want := int(min(limit-r.off, int64(readAhead-have)))
	if cap(r.mem) < have+want {
		r.mem = make([]byte, max(have+want, 4<<10))
	}
	mem := r.mem[:cap(r.mem)]
	copy(mem, r.buf)
	n, err := r.file.ReadAt(mem[have:have+want], r.off)
	r.buf = mem[:have+n]
	r.off += int64(n)
	if n == want {
		return nil
	}
	if errors.Is(err, io.EOF) { // shorter than what was written: cut from outside
		return errDamaged
	}
	return err
}

// deliver turns a frame into an event, if it has anything at or after pos.
func (r *Reader) deliver(f frame) (domain.OutputEvent, bool) {
	end := f.offset + int64(len(f.data))
	if !holdsOutput(f.kind) || end <= r.pos {
		return domain.OutputEvent{}, false // the end is told from memory
	}
	at := r.pos
	r.pos = end
	return domain.OutputEvent{Offset: at, Stream: domain.OutputStream(f.kind), Data: f.data[at-f.offset:]}, true
}

// damage skips what cannot be read of the open segment. It gives the gap that
// this makes in the output, if any.
func (r *Reader) damage(v view) *domain.OutputGap {
	r.buf, r.off = nil, v.limit
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	return r.gap(v)
}

// gap skips to where output is to be had after pos. j.mu is held.
func (r *Reader) gap(v view) *domain.OutputGap {
	to := v.next
	for _, e := range r.j.extents {
		if e.offset > r.pos {
			to = min(to, e.offset)
		}
	}
	for _, s := range r.j.segments {
		if s.base > r.pos {
			to = min(to, s.base)
		}
	}
	if to <= r.pos {
		return nil
	}
	g := &domain.OutputGap{From: r.pos, To: to}
	r.pos = to
	return g
}

// advance goes to where pos lies: it gives a packed record, or the gap that
// lies there, or it opens the segment.
func (r *Reader) advance(v view) (event domain.OutputEvent, ok bool, err error) {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	if r.j.fail != nil {
		return event, false, r.j.fail
	}
	if e, found := r.j.packedAt(r.pos); found {
		data, err := e.read()
		if err == nil {
			event, ok = r.deliver(frame{kind: e.kind, offset: e.offset, data: data})
			return event, ok, nil
		}
		if !errors.Is(err, errDamaged) {
			return event, false, err
		}
	} else if s := r.j.segmentAt(r.pos); s != nil && s != r.seg {
		err := r.open(s)
		if err == nil {
			return event, false, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return event, false, ioError(err, "the journal cannot be read")
		}
	}
	// Nothing holds pos: it was dropped, skipped, or damaged from outside.
	g := r.gap(v)
	return domain.OutputEvent{Offset: g.From, Gap: g}, true, nil
}

// open is called with the journal's mutex held, so that the segment is not
// dropped between looking and opening.
func (r *Reader) open(s *segment) error {
	f, err := os.Open(r.j.store.path(r.j.key, s.base))
	if err != nil {
		return err
	}
	r.closeFile()
	r.seg, r.file, r.off, r.buf = s, f, int64(len(magic)), nil
	return nil
}

func (r *Reader) closeFile() {
	if r.file != nil {
		_ = r.file.Close()
	}
	r.seg, r.file, r.buf, r.mem = nil, nil, nil, nil
}

// packedAt gives the packed record that holds an offset. j.mu is held.
func (j *Journal) packedAt(offset int64) (extent, bool) {
	for _, e := range j.extents {
		if e.offset <= offset && offset < e.end() {
			return e, true
		}
	}
	return extent{}, false
}

// segmentAt gives the segment that holds an offset, if any does. j.mu is held.
func (j *Journal) segmentAt(offset int64) *segment {
	for i := len(j.segments) - 1; i >= 0; i-- {
		if j.segments[i].base <= offset {
			return j.segments[i]
		}
	}
	return nil
}

// Tail gives the last n bytes of the output, all streams together.
func (j *Journal) Tail(n int) ([]byte, error) {
	j.mu.Lock()
	next := j.next
	from := max(next-int64(n), j.first(), 0)
	j.mu.Unlock()
	r, err := j.NewReader(from, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []byte
	for {
		event, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			// Output that came meanwhile made it longer.
			return out[max(0, len(out)-n):], nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, event.Data...)
		if r.pos >= next {
			return out[max(0, len(out)-n):], nil
		}
	}
}
