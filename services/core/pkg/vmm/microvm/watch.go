package microvm

import (
	"context"
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/turns"
	"golang.org/x/sys/unix"
)

// follow gives the watch of a machine's monitor, starting one if need be. It
// returns nil when the monitor has ended and nobody watched.
func (d *Driver) follow(id string, p *process.Process) (*turns.Watch, error) {
	return d.turns.Follow(id, p, func(w *turns.Watch, exit vmm.Exit) vmm.Exit {
		if !w.WasOrdered() && (!exit.Known || exit.Signal == int(unix.SIGKILL)) {
			// The cgroup stays until Stop or Delete, so its count is there to read.
			kills, err := d.group(id).OOMKills()
			exit.OOM = err == nil && kills > 0
		}
		if err := d.keepExit(id, ended{Process: w.Process, Exit: exit}); err != nil {
			d.log.Warn("cannot keep how a machine ended", "machine", id, "error", err)
		}
		return exit
	})
}

// keepExit writes how a machine ended, if it still is one.
func (d *Driver) keepExit(id string, e ended) error {
	p := d.cfg.paths(id)
	if _, err := os.Stat(p.facts); err != nil {
		return nil //nolint:nilerr // it is no machine any more
	}
	return record.Write(p.exit, e)
}

// Wait blocks until the machine no longer runs. While it is paused without a
// monitor it has not ended. See [vmm.Driver].
func (d *Driver) Wait(ctx context.Context, id string) (vmm.Exit, error) {
	sub := d.wakes.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed() // before the record is read, so that no change of it is missed
		m, err := d.load(id)
		if err != nil {
			return vmm.Exit{}, err
		}
		if m.Suspended {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return vmm.Exit{}, ctx.Err()
			}
		}
		exit, err := d.waitMonitor(ctx, m)
		if err != nil {
			return vmm.Exit{}, err
		}
		// Its monitor may have ended because it is paused now, or has been meanwhile.
		now, err := d.load(id)
		if err == nil && (now.Suspended || m.run.Process != nil && now.run.Process != nil && *now.run.Process != *m.run.Process) {
			continue
		}
		return exit, nil
	}
}

func (d *Driver) waitMonitor(ctx context.Context, m *machine) (vmm.Exit, error) {
	if m.run.Process == nil {
		return d.lastExit(m.MachineID, nil), nil
	}
	var e ended
	if err := record.Read(d.cfg.paths(m.MachineID).exit, &e); err == nil && e.Process == *m.run.Process {
		return e.Exit, nil
	}
	w, err := d.follow(m.MachineID, m.run.Process)
	if err != nil {
		return vmm.Exit{}, err
	}
	if w == nil {
		return d.lastExit(m.MachineID, m.run.Process), nil
	}
	select {
	case <-w.Done():
	case <-ctx.Done():
		return vmm.Exit{}, ctx.Err()
	}
	if w.Exit() == nil {
		return vmm.Exit{}, errors.New(errors.Unavailable, "the driver is closed")
	}
	return *w.Exit(), nil
}

// lastExit is how the machine last ended, as far as anybody knows.
func (d *Driver) lastExit(id string, p *process.Process) vmm.Exit {
	var e ended
	if err := record.Read(d.cfg.paths(id).exit, &e); err == nil && (p == nil || e.Process == *p) {
		return e.Exit
	}
	exit := vmm.Exit{At: time.Now().UTC()}
	if p != nil {
		kills, err := d.group(id).OOMKills()
		exit.OOM = err == nil && kills > 0
	}
	return exit
}
