package service

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

const (
	// maxBacklog is how long a VM or a group of tasks may have waited to be written
	// while further ones are still taken. Writers take turns: who comes faster than they
	// are served would only wait ever longer, until nobody listens any more when a turn
	// has come, and those who serve VMs that were taken wait as long.
	maxBacklog = 5 * time.Second
	// maxQueued is how long one waits to be among those who wait for the store.
	maxQueued = 2 * maxBacklog
	// backlogAgain is when who was refused for that comes again.
	backlogAgain = 2 * time.Second
	// maxWriting is how many wait for the store at once: twice what shares a turn there.
	// Of the others the projects take turns.
	maxWriting = 32
)

// backlog is what waits to be written: a few for the store, in its order, the others
// for a place among them, one of each project after the other.
type backlog struct {
	now func() time.Time

	mu      sync.Mutex
	writing line // for the store
	count   int  // of those
	// Of projects with somebody who waits for a place, in the order of their turns.
	queued []*projectLine
	of     map[domain.ID]*projectLine // with somebody who waits for either
}

// projectLine is what waits of a project.
type projectLine struct {
	project domain.ID
	all     line // for a place or for the store
	places  line // for a place
}

// line is some that wait, oldest first. Those that are over are dropped when they
// are the first.
type line []*waiting

type waiting struct {
	since, writing time.Time // when it came, when it got its place
	place          chan struct{}
	admitted, over bool
}

func (l *line) first() *waiting {
	for len(*l) > 0 && (*l)[0].over {
		(*l)[0] = nil
		*l = (*l)[1:]
	}
	if len(*l) == 0 {
		return nil
	}
	return (*l)[0]
}

// join is open and take.
func (b *backlog) join(ctx context.Context, project domain.ID) (leave func(), err error) {
	if err := b.open(project); err != nil {
		return nil, err
	}
	return b.take(ctx, project)
}

// take waits until one of a project may wait for the store, who calls leave when it
// has been served, once or more often. Returns Unavailable, and ctx's error.
func (b *backlog) take(ctx context.Context, project domain.ID) (leave func(), err error) {
	w := &waiting{since: b.now(), place: make(chan struct{})}
	b.mu.Lock()
	if b.of == nil {
		b.of = map[domain.ID]*projectLine{}
	}
	p := b.of[project]
	if p == nil {
		p = &projectLine{project: project}
		b.of[project] = p
	}
	p.all = append(p.all, w)
	if !slices.Contains(b.queued, p) {
		b.queued = append(b.queued, p)
	}
	p.places = append(p.places, w)
	b.admit()
	b.mu.Unlock()

	leave = func() { b.leave(p, w) }
	select {
	case <-w.place:
		return leave, nil
	default:
	}
	late := time.NewTimer(maxQueued)
	defer late.Stop()
	select {
	case <-w.place:
		return leave, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = refused("%d requests for VMs or tasks wait to be written, and no place among them came free for %s", maxWriting, maxQueued)
	}
	leave()
	return nil, err
}

// admit gives places to those whose turn it is; mu is held.
func (b *backlog) admit() {
	for len(b.queued) > 0 && b.count < maxWriting {
		p := b.queued[0]
		b.queued = b.queued[1:]
		w := p.places.first() // who has gone costs the project no turn
		if w == nil {
			continue
		}
		p.places = p.places[1:]
		if p.places.first() != nil {
			b.queued = append(b.queued, p)
		}
		w.admitted, w.writing = true, b.now()
		b.writing = append(b.writing, w)
		b.count++
		close(w.place)
	}
}

func (b *backlog) leave(p *projectLine, w *waiting) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.over {
		return
	}
	w.over = true
	if w.admitted {
		b.count--
	}
	if p.all.first() == nil && b.of[p.project] == p {
		delete(b.of, p.project)
	}
	b.admit()
}

// open returns Unavailable while one waits for the store for longer than maxBacklog, or
// one of the project for anything.
func (b *backlog) open(project domain.ID) error {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.writing.first(); w != nil && now.Sub(w.writing) > maxBacklog {
		return refused("%d requests for VMs or tasks wait to be written, the first of them for more than %s", b.count, maxBacklog)
	}
	if p := b.of[project]; p != nil {
		if w := p.all.first(); w != nil && now.Sub(w.since) > maxBacklog {
			return refused("requests of the project for VMs or tasks wait to be written, the first of them for more than %s", maxBacklog)
		}
	}
	return nil
}

func refused(format string, args ...any) error {
	return errors.New(errors.Unavailable, format, args...).
		WithHint("the database is away, or more is asked of it than it can do; try again").WithRetryAfter(backlogAgain)
}
