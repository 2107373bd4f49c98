package runner

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// firstProbe is how long a project waits for room before one of its runs tries
	// again. It doubles up to lastProbe.
	firstProbe = time.Second
	lastProbe  = 15 * time.Second
	// longestProbe is the most that an error can ask for.
	longestProbe = time.Minute
	// probePace is between the tries of all projects that wait: where the whole
	// fleet is full, the more of them there are, the longer each waits.
	probePace = 250 * time.Millisecond
)

// holds are the projects of which a run has found no room, be it that their
// quota is used up or that no worker had any: each begins no other run until one
// that tries has got room. It is known to this process alone: each process finds
// out by itself, and a run that it has try is let through by all.
type holds struct {
	mu sync.Mutex
	of map[domain.ID]*hold
}

type hold struct {
	wait  time.Duration
	next  time.Time // when one tries
	step  int       // how many try once one has got room; it doubles
	fleet bool      // workers had no room: what another project's runs leave may be its
	since time.Time
	late  bool // one was turned away since it was last looked who waits
}

// held reports whether a project waits for room.
func (s *holds) held(project domain.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[project] != nil
}

// pass reports whether a project's run may go on.
func (s *holds) pass(project domain.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.of[project]
	if h == nil {
		return true
	}
	h.late = true
	return false
}

// wait has a project wait, and returns its hold if it did not before.
func (s *holds) wait(project domain.ID) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[project] != nil {
		return nil
	}
	h := &hold{since: time.Now(), wait: firstProbe, step: 1}
	s.of[project] = h
	s.later(h, 0)
	return h
}

// full notes that a project that waits has found no room.
func (s *holds) full(project domain.ID, fleet bool, atLeast time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.of[project]; h != nil {
		h.step, h.fleet = 1, fleet
		s.later(h, atLeast)
	}
}

// later has a project wait for its next try.
func (s *holds) later(h *hold, atLeast time.Duration) {
	wait := max(jitter(h.wait), min(atLeast, longestProbe), time.Duration(len(s.of))*probePace)
	h.next = time.Now().Add(wait)
}

// due returns how long it is until the next try of a project; 0: it is now, and
// the one after it takes longer. false: the project does not wait any more.
func (s *holds) due(project domain.ID, h *hold) (wait time.Duration, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[project] != h {
		return 0, false
	}
	if wait := time.Until(h.next); wait > 0 {
		return wait, true
	}
	h.wait, h.late = min(2*h.wait, lastProbe), false
	s.later(h, 0)
	return 0, true
}

// got notes that a run of a project has got room, and returns how many others
// may try now; 0: the project does not wait.
func (s *holds) got(project domain.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.of[project]
	if h == nil {
		return 0
	}
	h.step = min(2*h.step, storage.MaxPage)
	h.wait, h.late = firstProbe, false
	s.later(h, 0)
	return h.step
}

// freed gives the projects of which one may try now that a run of project has
// left its room: itself, if it waits, and before it the one that has waited
// longest for a worker.
func (s *holds) freed(project domain.ID) (try []domain.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var longest *hold
	for id, h := range s.of {
		if id != project && h.fleet && (longest == nil || h.since.Before(longest.since)) {
			longest, try = h, []domain.ID{id}
		}
	}
	if longest != nil {
		longest.since = time.Now() // the next one is another's
	}
	if s.of[project] != nil {
		try = append(try, project)
	}
	return try
}

// end lets a project go on of which nobody waits.
func (s *holds) end(project domain.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.of[project]; h != nil && !h.late {
		delete(s.of, project)
	}
}

// noRoom has a project wait of which a run has found no room.
func (r *Runner) noRoom(project domain.ID, why error) {
	var e *errors.Error
	var atLeast time.Duration
	if errors.As(why, &e) {
		atLeast = e.RetryAfter
	}
	r.hold(project)
	r.holds.full(project, errors.HasCode(why, errors.CapacityExhausted), atLeast)
}

// hold has a project's runs wait, but those that try whether there is room.
func (r *Runner) hold(project domain.ID) {
	if h := r.holds.wait(project); h != nil {
		r.wg.Go(func() { r.probes(project, h) })
	}
}

// probes has one run of a project try from time to time, until there is room or
// nobody who waits for it.
func (r *Runner) probes(project domain.ID, h *hold) {
	for {
		wait, held := r.holds.due(project, h)
		switch {
		case !held:
			return
		case wait == 0:
			next, err := r.probe(r.ctx, project, 1)
			if err != nil && r.ctx.Err() == nil {
				r.Log.Warn("a project that waits for room is looked at later", "project", project, "error", err)
			}
			if err == nil && next == 0 {
				r.holds.end(project)
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// probe has at most so many of a project's runs try, and tells how many do.
func (r *Runner) probe(ctx context.Context, project domain.ID, most int) (int, error) {
	var next []*domain.Task
	err := r.Store.View(ctx, func(tx storage.Tx) (err error) {
		next, err = r.next(ctx, tx, project, most)
		return err
	})
	for _, t := range next {
		r.wake.probe(project, t.ID)
	}
	return len(next), err
}

// gotRoom lets more of a project's runs try when one has got room: as long as
// they do, twice as many each time, and in the end all.
func (r *Runner) gotRoom(ctx context.Context, project domain.ID) {
	most := r.holds.got(project)
	if most == 0 {
		return
	}
	next, err := r.probe(ctx, project, most)
	switch {
	case err != nil && ctx.Err() == nil:
		r.Log.Warn("a project that waits for room is looked at later", "project", project, "error", err)
	case err == nil && next < most:
		r.holds.end(project) // nobody is left who waits, or no place is
	}
}

// freed lets those try that wait for what a run has left, once its VM is gone.
func (r *Runner) freed(by vmm.Caller, vm domain.ID) {
	ctx, cancel := context.WithTimeout(r.ctx, lastProbe) // later they have tried anyhow
	defer cancel()
	// One that was never made leaves its turn to try.
	if _, err := r.Service.WaitVM(ctx, by, vm); err != nil && !errors.HasCode(err, errors.NotFound) {
		return
	}
	for _, id := range r.holds.freed(by.ProjectID) {
		if _, err := r.probe(ctx, id, 1); err != nil && ctx.Err() == nil {
			r.Log.Warn("a project that waits for room is looked at later", "project", id, "error", err)
		}
	}
}
