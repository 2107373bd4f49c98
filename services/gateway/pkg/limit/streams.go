package limit

import (
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// streams counts what callers have open.
type streams struct {
	mu   sync.Mutex
	open map[who]int // only those that have any
}

// OpenStream counts a caller's stream in, until close is called. Returns
// RateLimited when the caller has too many open.
func (l *Limits) OpenStream(by vmm.Caller) (closed func(), err error) {
	if l.config.Streams == 0 {
		return func() {}, nil
	}
	s, id := &l.streams, whoIs(by)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] >= l.config.Streams {
		return nil, errors.New(errors.RateLimited, "the key or its user has %d streams open, which is as many as may be", l.config.Streams).
			WithRetryAfter(5 * time.Second).WithHint("close streams that are not needed")
	}
	s.open[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[id]--; s.open[id] == 0 {
			delete(s.open, id)
		}
	}, nil
}
