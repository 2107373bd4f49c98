package service

import (
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxBacklog is how long a VM or a group of tasks may have waited to be written while
// further ones are still taken. Writers take turns: who comes faster than they are served would
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
// Returns Unavailable, as open does.
func (b *backlog) join(now time.Time) (leave func(), err error) {
	if err := b.open(now); err != nil {
		return nil, err
	}
	return b.wait(now), nil
}

// wait is join for who has begun something that is to end.
func (b *backlog) wait(now time.Time) (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
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
	}
}

// open returns Unavailable while the oldest has waited for longer than maxBacklog.
func (b *backlog) open(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.line) == 0 || now.Sub(b.line[0].since) <= maxBacklog {
		return nil
	}
	return errors.New(errors.Unavailable, "%d requests for VMs or tasks wait to be written, the first of them for more than %s", len(b.line), maxBacklog).
		WithHint("the database is away, or more is asked of it than it can do; try again").WithRetryAfter(backlogAgain)
}
