package journal

import (
	"context"
	"sync/atomic"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// hold is a reader that must not miss anything.
type hold struct {
	journal *Journal
	read    atomic.Int64 // everything before this offset was delivered
}

// Hold makes the journal's writer wait for this reader (see [Journal.Feed])
// rather than drop what it has not delivered yet, until the reader is closed.
// It is called before the first Next.
func (r *Reader) Hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held != nil {
		return
	}
	h := &hold{journal: r.j}
	h.read.Store(r.pos)
	r.held = h
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	if r.j.holds == nil {
		r.j.holds = make(map[*hold]struct{})
	}
	r.j.holds[h] = struct{}{}
}

// delivered notes how far the reader has got. r.mu is held.
func (r *Reader) delivered() {
	if r.held == nil {
		return
	}
	r.held.read.Store(r.pos)
	// Whoever waits has said so before it looked at read the last time.
	if r.j.waiting.Load() > 0 {
		r.j.mu.Lock()
		r.j.makeRoom()
		r.j.mu.Unlock()
	}
}

// letGo ends a hold. r.mu is held.
func (r *Reader) letGo() {
	if r.held == nil {
		return
	}
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	delete(r.j.holds, r.held)
	r.j.makeRoom()
}

// Feed is [Journal.Append] in pieces, each of which waits until it can be taken
// without dropping what a reader that holds the journal has not delivered.
// Returns ctx's error, too; what was taken then, NextOffset tells.
func (j *Journal) Feed(ctx context.Context, offset int64, stream domain.OutputStream, data []byte) error {
	most := j.maxWrite()
	for {
		n := min(len(data), most)
		if err := j.waitForRoom(ctx, n); err != nil {
			return err
		}
		if err := j.Append(offset, stream, data[:n]); err != nil {
			return err
		}
		if offset, data = offset+int64(n), data[n:]; len(data) == 0 {
			return nil
		}
	}
}

func (j *Journal) waitForRoom(ctx context.Context, n int) error {
	for {
		wait := j.room(n)
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
			j.waiting.Add(-1)
		case <-ctx.Done():
			j.waiting.Add(-1)
			return ctx.Err()
		}
	}
}

// room gives a channel that is closed when it is worth looking again, or nil.
// With a channel the caller is counted as waiting.
func (j *Journal) room(n int) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.holds) == 0 || j.fail != nil {
		return nil
	}
	j.waiting.Add(1) // before looking: a reader that moves on from now tells
	if !j.crowded(n) {
		j.waiting.Add(-1)
		return nil
	}
	if j.roomy == nil {
		j.roomy = make(chan struct{})
	}
	return j.roomy
}

// crowded reports whether appending n bytes could drop what somebody holds.
func (j *Journal) crowded(n int) bool {
	read := j.next
	for h := range j.holds {
		read = min(read, h.read.Load())
	}
	// Frames are headers, too, and a segment begins with its magic.
	frames := int64(n/maxFrameData + 1)
	excess := j.bytes + int64(n) + frames*(frameHeader+int64(len(magic))) - j.store.maxBytes
	if excess <= 0 {
		return false
	}
	// In the order in which write drops.
	if k := len(j.extents); k > 0 {
		if j.extents[k-1].end() > read {
			return true
		}
		for _, e := range j.extents {
			excess -= e.size()
		}
	}
	for i := 0; i+1 < len(j.segments) && excess > 0; i++ {
		if j.segments[i+1].base > read {
			return true
		}
		excess -= j.segments[i].size
	}
	return false
}

// makeRoom wakes the writer that waits. j.mu is held.
func (j *Journal) makeRoom() {
	if j.roomy != nil {
		close(j.roomy)
		j.roomy = nil
	}
}
