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
	case m.Suspended:
		return errors.New(errors.Conflict, "the machine is paused").WithHint("resume it")
	case m.run.Phase == phaseRunning && m.run.Process.Alive(d.boot):
		return nil
	case m.run.Phase != phaseIdle:
		// It ran and ended by itself, or a start was cut short.
		if err := d.clear(ctx, id); err != nil {
			return err
		}
	}
	from := ""
	if m.Spec.Memory && !m.Started {
		kept, err := d.keptMemory(ctx, m.Spec.DiskFrom)
		if err != nil {
			return err
		}
		if err := d.sameEngine(ctx, kept.EngineVersion); err != nil {
			return err
		}
		from = kept.dir
	}
	return d.launch(ctx, m, from)
}

// launch takes a machine that has nothing but its disk and network to one that
// runs, from its disk or from a memory.
func (d *Driver) launch(ctx context.Context, m *machine, memory string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	t := beginTrace()
	m.run = runState{Phase: phaseStarting}
	if err := d.saveRun(m); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		// What was begun is undone; if that fails, the next start or Delete does it.
		if d.clear(context.WithoutCancel(ctx), m.MachineID) == nil {
			m.run = runState{}
			err = errors.Join(err, d.saveRun(m))
		}
	}()
	g, att, err := d.prepare(ctx, m, memory)
	if err != nil {
		return err
	}
	t.phase("prepare")
	var pid int
	if memory == "" {
		pid, err = d.engine.Boot(ctx, g)
	} else {
		pid, err = d.engine.Restore(ctx, g, Memory{Dir: memory})
	}
	if err != nil {
		return err
	}
	t.phase("monitor")
	if err := d.settle(m, g, pid, memory != ""); err != nil {
		return err
	}
	if memory != "" {
		// Only now that it is written down that the memory is used up.
		if err := d.engine.Thaw(ctx, g); err != nil {
			return err
		}
		m.run.Still = false
		if err := d.saveRun(m); err != nil {
			return err
		}
		t.phase("thaw")
	}
	if err := d.introduce(ctx, m, att, m.Spec.Memory && memory != "" && !m.Started, t); err != nil {
		return err
	}
	if !m.Started {
		m.Started = true
		if err := d.saveFacts(m); err != nil {
			return err
		}
	}
	// Not before: a boot takes what it needs.
	if err := d.group(m.MachineID).SetLimits(cgroup.Limits{MilliCPU: monitorCPU(m.Spec.Resources.MilliCPU)}); err != nil {
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
		if err := d.saveFacts(m); err != nil {
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
	return g, att, group.SetLimits(cgroup.Limits{Memory: g.Memory + overhead, PIDs: monitorPIDs})
}

// settle books the monitor that runs a machine now.
func (d *Driver) settle(m *machine, g Guest, pid int, still bool) error {
	proc, err := process.Identify(pid, d.boot)
	if err != nil {
		return errors.Wrap(err, errors.GuestFault, "the machine's monitor ended as soon as it was started")
	}
	// An older end is of no interest any more.
	if err := record.Remove(d.cfg.paths(m.MachineID).exit); err != nil {
		return err
	}
	m.run = runState{Phase: phaseRunning, Process: proc, Guest: &g, Still: still}
	if err := d.saveRun(m); err != nil {
		return err
	}
	if m.Suspended {
		m.Suspended = false
		if err := d.saveFacts(m); err != nil {
			return err
		}
	}
	_, err = d.follow(m.MachineID, proc) // from now on its end is seen
	return err
}

// clear removes what a run of a machine left: processes, control group,
// directory. Disk, saved memory and network stay. Nothing there is success.
func (d *Driver) clear(ctx context.Context, id string) error {
	p := d.cfg.paths(id)
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
