package microvm

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Standby bounds the paused machines that have a monitor again, in which they stand
// still with the memory that was saved, so that they go on without waiting for one.
// Nothing of a memory is read for that, so a monitor is what one takes. The zero
// value: none.
type Standby struct {
	Max int           // how many: those that were paused last
	For time.Duration // how long after their pause
}

// askPatience is how long a monitor that stands by has to say that it does, before
// its machine is given another.
const askPatience = time.Second

// standby keeps monitors for machines that are paused without one. It is a gain of
// time alone: whoever resumes a machine does without where there is none, and
// whatever else is done with one ends it. After a restart there is none.
type standby struct {
	d    *Driver
	ctx  context.Context // ends with stop
	end  context.CancelFunc
	busy sync.WaitGroup

	mu     sync.Mutex
	closed bool
	asleep []sleeper // who may have one; who was paused last comes last
}

type sleeper struct {
	id   string
	over *time.Timer
}

func newStandby(d *Driver) *standby {
	s := &standby{d: d}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// paused hears of a machine that has just been paused. Who has its turn has to give
// it back for it to get a monitor.
func (s *standby) paused(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.d.cfg.Standby.Max <= 0 {
		return
	}
	s.drop(id)
	s.asleep = append(s.asleep, sleeper{id, time.AfterFunc(s.d.cfg.Standby.For, func() { s.dismissed(id) })})
	var others []string
	for len(s.asleep) > s.d.cfg.Standby.Max {
		others = append(others, s.asleep[0].id)
		s.drop(s.asleep[0].id)
	}
	s.busy.Go(func() {
		for _, other := range others {
			s.dismiss(s.ctx, other)
		}
		s.raise(id)
	})
}

// drop takes a machine off the list; mu is held.
func (s *standby) drop(id string) {
	s.asleep = slices.DeleteFunc(s.asleep, func(one sleeper) bool {
		if one.id == id {
			one.over.Stop()
		}
		return one.id == id
	})
}

// forget hears that what a machine had is used, or ended.
func (s *standby) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(id)
}

// raise has a machine stand by, if it still is to.
func (s *standby) raise(id string) {
	switch err := s.launch(id); {
	case err == nil, s.ctx.Err() != nil, errors.Is(err, context.Canceled), errors.HasCode(err, errors.Conflict), errors.HasCode(err, errors.NotFound),
		errors.HasCode(err, errors.CapacityExhausted):
		// It stands by, or the machine is being deleted, or the driver closed, or there is no room.
	default:
		s.d.log.Warn("a paused machine has no monitor that stands by", "machine", id, "error", err)
	}
}

func (s *standby) launch(id string) error {
	d := s.d
	ctx, done, err := d.turns.Begin(s.ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	s.mu.Lock()
	wanted := slices.ContainsFunc(s.asleep, func(one sleeper) bool { return one.id == id })
	s.mu.Unlock()
	m, err := d.load(id)
	if err != nil || !wanted || !m.Suspended || m.run.Phase != phaseIdle {
		return err
	}
	// Not the monitor's alone: others go before who is paused.
	if err := d.roomFor(ctx, m.Spec); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, restorePatience)
	defer cancel()
	if err := d.sameEngine(ctx, m.EngineVersion, ""); err != nil {
		return err
	}
	if _, err := d.launch(ctx, m, phaseStandby, d.savedMemory(id), beginTrace()); err != nil {
		return d.undo(ctx, m, err)
	}
	return nil
}

// dismissed is dismiss for who is not waited for.
func (s *standby) dismissed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.busy.Go(func() { s.dismiss(s.ctx, id) })
	}
}

// dismiss ends the monitor of a machine that stands by.
func (s *standby) dismiss(ctx context.Context, id string) {
	work, done, err := s.d.turns.Begin(ctx, id, false)
	if err != nil {
		return // it is being deleted, or the driver was closed
	}
	defer done()
	m, err := s.d.load(id)
	if err == nil && m.Suspended && m.run.Phase == phaseStandby {
		err = s.d.suspended(work, m)
	}
	if err != nil && work.Err() == nil && !errors.HasCode(err, errors.NotFound) {
		s.d.log.Warn("a paused machine's monitor was not ended", "machine", id, "error", err)
	}
}

// stop ends the making, and what stands by. Twice is fine.
func (s *standby) stop() {
	s.mu.Lock()
	s.closed = true
	asleep := s.asleep
	s.asleep = nil
	for _, one := range asleep {
		one.over.Stop()
	}
	s.mu.Unlock()
	s.end()
	s.busy.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), recoverPatience)
	defer cancel()
	for _, one := range asleep {
		s.dismiss(ctx, one.id)
	}
}

// takeOver gives a machine that is resumed the monitor that stands by for it, if
// there is one and it says so. It reports whether the machine has one now.
func (s *standby) takeOver(ctx context.Context, m *machine) (bool, error) {
	d := s.d
	if !d.standsBy(m) {
		return false, nil
	}
	asked, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	if err := d.engine.Freeze(asked, *m.run.Guest); err != nil { // as it is already
		d.log.WarnContext(ctx, "a paused machine's monitor did not stand by", "machine", m.MachineID, "error", err)
		return false, ctx.Err()
	}
	s.forget(m.MachineID)
	m.run.Phase = phaseWaking
	if err := d.saveRun(m); err != nil {
		return false, err
	}
	return true, d.useUp(m)
}

// savedMemory is where the memory of a paused machine is.
func (d *Driver) savedMemory(id string) string {
	return filepath.Join(d.cfg.Volumes.Path(d.cfg.paths(id).memory), memoryName)
}

// standsBy reports whether a machine is paused and has a monitor again.
func (d *Driver) standsBy(m *machine) bool {
	return m.Suspended && m.run.Phase == phaseStandby && d.alive(m)
}
