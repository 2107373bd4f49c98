package qemu

import (
	"context"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
)

// Save writes a guest's memory and devices, see [microvm.Engine]. A second
// monitor, whose memory is the new file, is sent the guest; it never lets it run,
// and writes what it has beside its memory. Returns Conflict when the guest does
// not run, NoSpace.
func (e *Engine) Save(ctx context.Context, g microvm.Guest, to microvm.Memory, last bool,
	disk func(context.Context) error,
) (time.Duration, error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	drives, _, err := drivesOf(g)
	if err != nil {
		return 0, fault.Of(err, "a machine's disk is not there")
	}
	var stood time.Duration
	copyDisk := func() error { return disk(ctx) }
	bounded, cancel := context.WithTimeout(ctx, savePatience(g.Memory))
	defer cancel()
	err = e.with(bounded, g, func(source *qmp.Client) error {
		stood, err = e.save(bounded, saving{source: source, last: last, disk: copyDisk, ahead: h.countsWrites()}, h, g, drives, to)
		return err
	})
	return stood, err
}

func (e *Engine) save(ctx context.Context, s saving, h *host, g microvm.Guest, drives []drive, to microvm.Memory) (stood time.Duration, err error) {
	if s.runs, err = running(ctx, s.source); err != nil {
		return 0, err
	}
	if s.receiver, err = e.newReceiver(ctx, h, g, drives, to); err != nil {
		return 0, err
	}
	defer s.receiver.end()
	if stood, err = s.run(ctx); err == nil {
		err = s.receiver.keep(ctx, formOf(h, g, drives), to)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), startPatience)
		defer cancel()
		return 0, errors.Join(err, s.undo(undo))
	}
	return stood, nil
}

// savePatience bounds how long a saving may take, whatever its monitors say: they
// move a GiB in a few seconds.
func savePatience(memory int64) time.Duration {
	return 2*time.Minute + time.Duration(memory>>30)*30*time.Second
}

// saving is a guest on its way to a receiver.
type saving struct {
	source   *qmp.Client
	receiver *receiver
	runs     bool // the guest did, and is to again
	last     bool
	disk     func() error
	ahead    bool // most of it can be sent while it runs
}

// run moves the guest, which goes on afterwards unless it is the last time. It
// says how long it stood.
func (s *saving) run(ctx context.Context) (stood time.Duration, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return 0, fault.Of(err, "cannot move a machine's memory")
	}
	defer ours.Close()
	defer theirs.Close()
	if err := s.receiver.take(ctx, theirs); err != nil {
		return 0, err
	}
	if err := s.configure(ctx); err != nil {
		return 0, err
	}
	began, err := s.move(ctx, ours, theirs)
	if err != nil {
		return 0, err
	}
	if err := s.disk(); err != nil {
		return 0, err
	}
	if s.runs && !s.last {
		if err := s.source.Do(ctx, "cont", nil, nil); err != nil {
			return 0, err
		}
	}
	stood = time.Since(began)
	return stood, s.receiver.took(ctx)
}

// undo has the guest be as it was.
func (s *saving) undo(ctx context.Context) error {
	if err := idle(ctx, s.source); err != nil {
		return err
	}
	if err := settled(ctx, s.source); err != nil || !s.runs {
		return err
	}
	return s.source.Do(ctx, "cont", nil, nil)
}

// roundsPatience is how long a guest is sent while it runs. One that writes
// faster than it is sent stands still for the rest.
const roundsPatience = 5 * time.Second

// move sends the guest, which stands still in the end. It says since when.
func (s *saving) move(ctx context.Context, ours, theirs *os.File) (began time.Time, err error) {
	ahead := s.ahead && s.runs && !s.last
	if !ahead {
		if err := s.source.Do(ctx, "stop", nil, nil); err != nil {
			return began, err
		}
		began = time.Now()
	}
	if err := send(ctx, s.source, ours); err != nil {
		return began, err
	}
	// Both ends are the monitors' alone now: when one dies the other is told.
	ours.Close()
	theirs.Close()
	if ahead {
		if began, err = s.stopped(ctx); err != nil {
			return began, err
		}
	}
	if err := moved(ctx, s.source); err != nil {
		return began, err
	}
	return began, settled(ctx, s.source)
}

// stopped waits for the moment that a guest that is being sent stands still.
func (s *saving) stopped(ctx context.Context) (time.Time, error) {
	rounds, cancel := context.WithTimeout(ctx, roundsPatience)
	defer cancel()
	for {
		e, err := s.source.Next(rounds, "STOP", "MIGRATION")
		switch {
		case err == nil && e.Name == "STOP":
			return time.Now(), nil
		case err == nil:
			if _, err := statusOf(e); err != nil {
				return time.Time{}, err
			}
		case ctx.Err() == nil && (rounds.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)):
			return time.Now(), s.source.Do(ctx, "stop", nil, nil)
		default:
			return time.Time{}, err
		}
	}
}

// configure makes the migration as fast as it goes.
func (s *saving) configure(ctx context.Context) error {
	if err := idle(ctx, s.source); err != nil {
		return err
	}
	if err := capabilities(ctx, s.source, false); err != nil {
		return err
	}
	const unlimited = int64(1) << 40 // bytes in a second
	return s.source.Do(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": unlimited, "downtime-limit": 20}, nil)
}
