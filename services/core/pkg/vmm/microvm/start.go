package microvm

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
)

// bootPatience bounds a boot up to its agent's answer: far more than an
// emulated guest takes on a busy host.
const bootPatience = 2 * time.Minute

// monitorPIDs bounds a monitor's threads.
const monitorPIDs = 512

// Start runs a machine. See [vmm.Driver].
func (d *Driver) Start(ctx context.Context, id string) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(id)
	if err != nil {
		return err
	}
	switch {
	case !m.Whole:
		return errors.New(errors.Conflict, "the machine was never made wholly")
	case m.run.Phase == phaseDeleting:
		return errors.New(errors.Conflict, "the machine is being deleted")
	case m.Suspended || d.waking(m):
		return errors.New(errors.Conflict, "the machine is paused").WithHint("resume it")
	case m.run.Phase == phaseRunning && d.alive(m):
		return nil
	case m.run.Phase != phaseIdle:
		// It ran and ended by itself, or a start was cut short.
		if err := d.clear(ctx, id); err != nil {
			return err
		}
	}
	t := beginTrace()
	first := !m.Started
	if m.Booted != "" && first {
		err = d.booted.goOn(ctx, m, t)
	} else {
		err = d.run(ctx, m, bootPatience, t)
	}
	if err == nil && first {
		d.booted.started(m)
	}
	return err
}

// run takes a machine to one that runs: from the memory that it is to go on from,
// or by a boot.
func (d *Driver) run(ctx context.Context, m *machine, patience time.Duration, t *trace) error {
	memory := ""
	if from, ok := d.source(m); ok {
		kept, err := d.keptMemory(from)
		if err != nil {
			return err
		}
		if err := d.sameEngine(ctx, kept.EngineVersion, "start from the snapshot's disk, without its memory"); err != nil {
			return err
		}
		if err := d.unbegin(ctx, m, from); err != nil {
			return err
		}
		memory = kept.dir
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	att, err := d.launch(ctx, m, phaseStarting, memory, t)
	if err == nil {
		err = d.present(ctx, m, att, t)
	}
	if err != nil {
		return d.undo(ctx, m, err)
	}
	return nil
}

// undo ends what was begun of a run that failed. If that fails too, the next
// start or Delete does it.
func (d *Driver) undo(ctx context.Context, m *machine, why error) error {
	if d.clear(context.WithoutCancel(ctx), m.MachineID) != nil {
		return why
	}
	m.run = runState{}
	return errors.Join(why, d.saveRun(m))
}

// unbegin gives a machine whose first start from a memory was not done the disk
// of that memory again: what a guest has written since would not be what the
// memory knows of it. Nobody has used the machine yet.
func (d *Driver) unbegin(ctx context.Context, m *machine, from stored) error {
	if !m.Begun {
		return nil
	}
	volume := d.cfg.paths(m.MachineID).volume
	if err := d.cfg.Volumes.Delete(ctx, volume); err != nil {
		return err
	}
	if err := d.fromStored(ctx, m.Spec, from, volume); err != nil {
		return err
	}
	m.Begun = false
	return d.saveFacts(m)
}

// launch takes a machine that has nothing but its disk and network to one with a
// monitor, which boots from its disk or stands still with a memory.
func (d *Driver) launch(ctx context.Context, m *machine, as phase, memory string, t *trace) (network.Attachment, error) {
	m.run = runState{Phase: as}
	if err := d.saveRun(m); err != nil {
		return network.Attachment{}, err
	}
	g, att, err := d.prepare(ctx, m, memory)
	if err != nil {
		return att, err
	}
	t.phase("prepare")
	var pid int
	how := "monitor"
	if memory == "" {
		pid, err = d.engine.Boot(ctx, g)
	} else {
		how = "restore"
		pid, err = d.engine.Restore(ctx, g, Memory{Dir: memory})
	}
	if err != nil {
		return att, err
	}
	t.phase(how)
	return att, d.settle(ctx, m, g, pid, memory != "")
}

// present lets a guest that stands still go on, tells it who it is, and makes it
// one that runs.
func (d *Driver) present(ctx context.Context, m *machine, att network.Attachment, t *trace) error {
	if m.run.Still {
		// Only now that it is written down that the memory is used up.
		if err := d.engine.Thaw(ctx, *m.run.Guest); err != nil {
			return err
		}
		m.run.Still = false
		if err := d.saveRun(m); err != nil {
			return err
		}
		t.phase("thaw")
	}
	restored := m.Begun || m.run.Phase == phaseWaking
	if err := d.introduce(ctx, m, att, restored, t); err != nil {
		return err
	}
	if !m.Started || m.Begun || m.Moved {
		m.Started, m.Begun, m.Moved = true, false, false
		if err := d.saveFacts(m); err != nil {
			return err
		}
	}
	// Not before: a boot takes what it needs.
	if err := d.group(m.MachineID).SetLimits(cgroup.Limits{MilliCPU: monitorCPU(m.Spec.Resources.MilliCPU)}); err != nil {
		return err
	}
	m.run.Phase = phaseRunning
	if err := d.saveRun(m); err != nil {
		return err
	}
	t.phase("limits")
	d.keepTrace(m.MachineID, t)
	return nil
}

// monitorCPU is what a monitor may take so that its guest gets what it was promised.
func monitorCPU(guest int64) int64 { return guest + guest/10 + 50 }

// prepare makes what a run of a machine needs on the host.
func (d *Driver) prepare(ctx context.Context, m *machine, memory string) (Guest, network.Attachment, error) {
	// Also after a reboot: the namespaces are others then.
	att, err := d.cfg.Network.Acquire(ctx, m.MachineID, m.Spec.Network, m.hostname())
	if err != nil {
		return Guest{}, att, err
	}
	p := d.cfg.paths(m.MachineID)
	g := Guest{
		ID: m.MachineID, Dir: p.guest, UID: att.IDBase, NetNS: att.NetNS,
		CPUs: int((m.Spec.Resources.MilliCPU + 999) / 1000), Memory: m.Spec.Resources.MemoryBytes / mib * mib,
	}
	if m.Spec.Network == domain.NetworkNAT {
		tap, err := d.cfg.Network.Tap(ctx, m.MachineID, g.UID)
		if err != nil {
			return g, att, err
		}
		g.Link = &Link{Tap: tap, MAC: att.MAC, MTU: att.MTU}
	}
	for _, drive := range m.Drives {
		if drive.Path == "" {
			drive.Path = filepath.Join(d.cfg.Volumes.Path(p.volume), diskFile)
		}
		g.Drives = append(g.Drives, drive)
	}
	if memory == "" {
		if m.Kernel, err = d.cfg.Kernel(ctx); err != nil {
			return g, att, err
		}
		if err := errors.Join(d.saveFacts(m), d.grow(m)); err != nil {
			return g, att, err
		}
	}
	g.Kernel = m.Kernel
	if err := d.own(p.volume, g.UID); err != nil {
		return g, att, err
	}
	if err := os.Mkdir(g.Dir, 0o700); err != nil && !os.IsExist(err) {
		return g, att, fault.Of(err, "cannot make the machine's directory")
	}
	if err := os.Lchown(g.Dir, int(g.UID), int(g.UID)); err != nil {
		return g, att, fault.Of(err, "cannot make the machine's directory")
	}
	group := d.group(m.MachineID)
	if err := group.Make(); err != nil {
		return g, att, err
	}
	g.Cgroup = group.Dirs()
	overhead, err := d.engine.Overhead(ctx)
	if err != nil {
		return g, att, err
	}
	limits := cgroup.Limits{Memory: g.Memory + overhead, PIDs: monitorPIDs}
	if ofNobody(m.MachineID) {
		limits.MilliCPU = makerCPU
	}
	return g, att, group.SetLimits(limits)
}

// settle books the monitor that a machine has now, and unless it only stands by,
// that the memory that it was given, if any, is used up.
func (d *Driver) settle(ctx context.Context, m *machine, g Guest, pid int, restored bool) error {
	proc, err := process.Identify(pid, d.boot)
	if err != nil {
		return errors.Wrap(err, errors.GuestFault, "the machine's monitor ended as soon as it was started")
	}
	// An older end is of no interest any more.
	if err := record.Remove(d.cfg.paths(m.MachineID).exit); err != nil {
		return err
	}
	m.run = runState{Phase: m.run.Phase, Process: proc, Guest: &g, Still: restored}
	if err := d.saveRun(m); err != nil {
		return err
	}
	if _, err := d.follow(m.MachineID, proc); err != nil { // from now on its end is seen
		return err
	}
	if err := ctx.Err(); err != nil || !restored || m.run.Phase == phaseStandby {
		return err
	}
	return d.useUp(m)
}

// useUp books that the memory that a machine was given is not to be used again:
// from here on there is no way back.
func (d *Driver) useUp(m *machine) error {
	m.Suspended = false
	_, m.Begun = d.source(m)
	return d.saveFacts(m)
}

// clear removes what a run of a machine left: processes, control group,
// directory. Disk, saved memory and network stay. Nothing there is success.
func (d *Driver) clear(ctx context.Context, id string) error {
	p := d.cfg.paths(id)
	d.standby.forget(id)
	d.letGo(id)
	w := d.turns.Watched(id)
	if w != nil {
		w.Ordered()
	}
	if err := d.group(id).Kill(ctx); err != nil {
		return err
	}
	if w != nil {
		select { // its end is written before the record changes
		case <-w.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := d.engine.Clean(ctx, Guest{ID: id, Dir: p.guest}); err != nil {
		return err
	}
	if err := d.group(id).Remove(ctx); err != nil {
		return err
	}
	return fault.Of(os.RemoveAll(p.guest), "cannot remove the machine's directory")
}
