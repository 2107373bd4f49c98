package service

import (
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxBacklog is how long a VM may have waited to be written while further ones
// are still taken. Writers take turns: who comes faster than they are served would
// only wait ever longer, until nobody listens any more when a turn has come, and
// those who serve VMs that were taken wait as long.
const maxBacklog = 5 * time.Second

// backlogAgain is when who was refused for that comes again.
const backlogAgain = 2 * time.Second

// backlog is what waits to be written, oldest first.
type backlog struct {
	mu   sync.Mutex
	line []*waiting
}

type waiting struct {
	since time.Time
	over  bool
}

// join lets one in, who calls leave when it has been served, once or more often.
// Returns Unavailable while the oldest has waited for longer than maxBacklog.
func (b *backlog) join(now time.Time) (leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.line) > 0 && now.Sub(b.line[0].since) > maxBacklog {
		return nil, errors.New(errors.Unavailable, "%d VMs wait to be written, the first of them for more than %s", len(b.line), maxBacklog).
			WithHint("the database is away, or more is asked of it than it can do; try again").WithRetryAfter(backlogAgain)
	}
	w := &waiting{since: now}
	b.line = append(b.line, w)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		w.over = true
		for len(b.line) > 0 && b.line[0].over {
			b.line[0] = nil
			b.line = b.line[1:]
		}
	}, nil
}
