package fake

import (
	"io"
	"sync"
)

// streamBuffer is what a stream holds in each direction.
const streamBuffer = 64 << 10

// stream is a machine's one channel: two directions of bounded size whose
// bytes stay when an end goes away.
type stream struct {
	toGuest, toHost direction

	mu   sync.Mutex
	host *streamEnd // the one that has the port open
}

func newStream() *stream {
	s := &stream{}
	s.toGuest.changed, s.toHost.changed = make(chan struct{}), make(chan struct{})
	return s
}

// openHost opens the host's end, at the expense of whoever had it open.
func (s *stream) openHost() io.ReadWriteCloser {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.host != nil {
		_ = s.host.Close()
	}
	s.host = &streamEnd{in: &s.toHost, out: &s.toGuest, done: make(chan struct{})}
	return s.host
}

func (s *stream) openGuest() io.ReadWriteCloser {
	return &streamEnd{in: &s.toGuest, out: &s.toHost, done: make(chan struct{})}
}

// cut closes the host's end, so that it has to be opened again.
func (s *stream) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.host != nil {
		_ = s.host.Close()
	}
}

// freeze keeps the guest from moving bytes, or lets it.
func (s *stream) freeze(frozen bool) {
	for _, d := range []*direction{&s.toGuest, &s.toHost} {
		d.mu.Lock()
		d.frozen = frozen
		d.wake()
		d.mu.Unlock()
	}
}

// direction is a bounded pipe.
type direction struct {
	mu      sync.Mutex
	data    []byte
	frozen  bool
	changed chan struct{}
}

func (d *direction) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// streamEnd is one end while somebody has it open.
type streamEnd struct {
	in, out *direction
	once    sync.Once
	done    chan struct{}
}

func (e *streamEnd) Close() error {
	e.once.Do(func() { close(e.done) })
	return nil
}

func (e *streamEnd) Read(p []byte) (int, error) {
	for {
		e.in.mu.Lock()
		changed, n := e.in.changed, 0
		if !e.in.frozen {
			n = copy(p, e.in.data)
		}
		if n > 0 {
			rest := copy(e.in.data, e.in.data[n:])
			e.in.data = e.in.data[:rest]
			e.in.wake()
		}
		e.in.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-changed:
		case <-e.done:
			return 0, io.EOF
		}
	}
}

// Write may be cut off half-way by Close, as by the death of a process.
func (e *streamEnd) Write(p []byte) (int, error) {
	for total := 0; ; {
		e.out.mu.Lock()
		changed := e.out.changed
		n := min(streamBuffer-len(e.out.data), len(p)-total)
		if n > 0 {
			e.out.data = append(e.out.data, p[total:total+n]...)
			total += n
			e.out.wake()
		}
		e.out.mu.Unlock()
		if total == len(p) {
			return total, nil
		}
		select {
		case <-changed:
		case <-e.done:
			return total, io.ErrClosedPipe
		}
	}
}
