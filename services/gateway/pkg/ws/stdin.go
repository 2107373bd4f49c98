package ws

import (
	"context"
	"sync"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

// input is one thing for a command's stdin.
type input struct {
	offset int64 // of data, or AppendOffset
	data   []byte
	close  bool
}

// maxInputs bounds the pieces in a queue, whose bookkeeping costs more than
// their bytes when they are tiny and do not follow on each other.
const maxInputs = 1024

// inputQueue lies between the socket and a command that may not read: it
// holds at most a window of bytes, then makes the socket's reader wait. It has
// one writer and one reader.
type inputQueue struct {
	mu    sync.Mutex
	items []input
	bytes int
	shut  bool          // everything is dropped from now on
	added chan struct{} // capacity one: something was added
	taken chan struct{} // capacity one: something was taken
}

func newInputQueue() *inputQueue {
	return &inputQueue{added: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
}

// push adds an item, waiting for room. Reports false when ctx ended.
func (q *inputQueue) push(ctx context.Context, in input) bool {
	for {
		q.mu.Lock()
		if q.shut {
			q.mu.Unlock()
			return true
		}
		if len(q.items) < maxInputs && (q.bytes == 0 || q.bytes+len(in.data) <= wire.StdinWindowBytes) {
			q.add(in)
			q.mu.Unlock()
			notify(q.added)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.taken:
		case <-ctx.Done():
			return false
		}
	}
}

// add joins small pieces that follow on each other, so that neither their
// number nor a call per keystroke costs.
func (q *inputQueue) add(in input) {
	q.bytes += len(in.data)
	if n := len(q.items); n > 0 && !in.close {
		last := &q.items[n-1]
		follows := last.offset == wire.AppendOffset && in.offset == wire.AppendOffset ||
			last.offset >= 0 && in.offset == last.offset+int64(len(last.data))
		if !last.close && follows && len(last.data)+len(in.data) <= wire.MaxStdinFrameBytes {
			last.data = append(last.data, in.data...)
			return
		}
	}
	q.items = append(q.items, in)
}

// pop takes the oldest item, waiting for one. Reports false when ctx ended,
// also when there are items: what follows a write that was broken off must not
// be passed on, least of all the end of input.
func (q *inputQueue) pop(ctx context.Context) (input, bool) {
	for {
		if ctx.Err() != nil {
			return input{}, false
		}
		q.mu.Lock()
		if len(q.items) > 0 {
			in := q.items[0]
			q.items = q.items[1:]
			q.bytes -= len(in.data)
			q.mu.Unlock()
			notify(q.taken)
			return in, true
		}
		q.mu.Unlock()
		select {
		case <-q.added:
		case <-ctx.Done():
			return input{}, false
		}
	}
}

// refuse drops what is there and what will come.
func (q *inputQueue) refuse() {
	q.mu.Lock()
	q.shut, q.items, q.bytes = true, nil, 0
	q.mu.Unlock()
	notify(q.taken)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
