package journal

import (
	"context"
	"io"
	"os"
	"sync/atomic"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// readAhead is how much a reader takes from the file at once; at least one frame.
const readAhead = 2 * (maxFrameData + frameHeader)

// Reader yields a journal's output in order. It satisfies vmm.OutputReader:
// the last event has End set and is followed by io.EOF; without follow, io.EOF
// comes where the output stands still. An event's Data is valid until the next
// call. It is not safe for concurrent use, except that Close may be called at
// any time.
type Reader struct {
	j      *Journal
	owned  bool // Close closes j too
	follow bool
	pos    int64 // next offset to deliver
	ended  bool  // End was delivered

	seg  *segment // being read; nil: to be found
	file *os.File
	off  int64  // in file, of what follows buf
	buf  []byte // read, not parsed yet
	mem  []byte // what buf lies in

	closed atomic.Bool
	done   chan struct{}
}

// NewReader reads from an offset; one that was dropped already shows as a gap.
// With follow, Next waits for more until the end. Returns OutOfRange for an
// offset after NextOffset. The journal must stay open as long as the reader.
func (j *Journal) NewReader(from int64, follow bool) (*Reader, error) {
	if next := j.NextOffset(); from < 0 || from > next {
		return nil, errors.New(errors.OutOfRange, "offset %d is not in the output, which has %d bytes", from, next).WithField("offset")
	}
	return &Reader{j: j, follow: follow, pos: from, done: make(chan struct{})}, nil
}

// Offset is where the next event begins.
func (r *Reader) Offset() int64 { return r.pos }

// Close lets go of the file. A Next that waits returns Canceled. Calling it
// twice is fine.
func (r *Reader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		close(r.done)
		if r.owned {
			r.j.Close()
		}
	}
	return nil
}

// Next gives the next event. Returns io.EOF at the end, Gone when the journal
// was deleted, Canceled after Close or with ctx.
func (r *Reader) Next(ctx context.Context) (domain.OutputEvent, error) {
	for {
		if r.closed.Load() {
			r.letGo()
			return domain.OutputEvent{}, errors.New(errors.Canceled, "the output reader is closed")
		}
		if err := ctx.Err(); err != nil {
			return domain.OutputEvent{}, err
		}
		event, ok, err := r.step()
		if err != nil || ok {
			return event, err
		}
		r.j.mu.Lock()
		if r.behind() {
			r.j.mu.Unlock()
			continue
		}
		changed := r.j.wait()
		r.j.mu.Unlock()
		select {
		case <-changed:
		case <-r.done:
		case <-ctx.Done():
		}
	}
}

// behind reports whether there is something for step to do. j.mu is held.
func (r *Reader) behind() bool {
	return r.pos < r.j.next || r.j.end != nil || r.j.fail != nil
}

// step delivers an event if there is one; ok is false when it must be waited for.
func (r *Reader) step() (event domain.OutputEvent, ok bool, err error) {
	for {
		if event, ok := r.parse(); ok {
			return event, true, nil
		}
		r.j.mu.Lock()
		limit := int64(0)
		if r.seg != nil {
			limit = r.seg.size
		}
		r.j.mu.Unlock()
		if r.file != nil && r.off < limit {
			if err := r.fill(limit); err != nil {
				return event, false, err
			}
			if f, v := parseFrame(r.buf); v == broken || v == short && r.off >= limit {
				_ = f
				if event, ok := r.damaged(); ok {
					return event, true, nil
				}
			}
			continue
		}
		event, ok, more, err := r.advance()
		if err != nil || ok || !more {
			return event, ok, err
		}
	}
}

// parse takes the next whole frame out of the buffer that holds bytes at or
// after the wanted position.
func (r *Reader) parse() (domain.OutputEvent, bool) {
	for {
		f, v := parseFrame(r.buf)
		if v != whole {
			return domain.OutputEvent{}, false
		}
		r.buf = r.buf[f.size():]
		end := f.offset + int64(len(f.data))
		if f.kind == kindEnd || end <= r.pos {
			continue // the end is delivered from memory, see advance
		}
		if f.offset > r.pos {
			// Within a segment frames are contiguous; the file was tampered with.
			gap := &domain.OutputGap{From: r.pos, To: f.offset}
			r.buf = r.buf[:len(r.buf)+f.size()]
			return domain.OutputEvent{Offset: gap.From, Gap: gap}, true
		}
		data := f.data[r.pos-f.offset:]
		event := domain.OutputEvent{Offset: r.pos, Stream: domain.OutputStream(f.kind), Data: data}
		r.pos = end
		return event, true
	}
}
