package microvm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// List tells what there is of machines here: whatever has a record, and
// whatever is found that was made for one. See [vmm.Driver].
func (d *Driver) List(ctx context.Context) ([]vmm.State, error) {
	ids, err := d.left(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]vmm.State, 0, len(ids))
	for _, id := range ids {
		if d.booted.makes(id) {
			continue // it is nobody's, and its maker removes it
		}
		states = append(states, d.state(id))
	}
	return states, nil
}

// state is where a machine stands, by its record and what really runs.
func (d *Driver) state(id string) vmm.State {
	s := vmm.State{MachineID: id, Status: vmm.StatusBroken}
	m, err := d.load(id)
	if err != nil {
		return s
	}
	s.Handle, s.CreatedAt = m.handle(d.engine.Name()), m.CreatedAt
	p := d.cfg.paths(id)
	if _, err := os.Stat(filepath.Join(d.cfg.Volumes.Path(p.volume), diskFile)); err != nil || !m.Whole || m.run.Phase == phaseDeleting {
		return s
	}
	switch {
	case m.Suspended:
		s.Status = vmm.StatusPaused
	case d.waking(m): // until it is resumed
		s.Status, s.PID = vmm.StatusPaused, m.run.Process.PID
	case m.run.Phase == phaseRunning && d.alive(m):
		s.Status, s.PID = vmm.StatusRunning, m.run.Process.PID
		if m.run.Paused {
			s.Status = vmm.StatusPaused
		}
	default: // a start that was cut short can be made again
		s.Status = vmm.StatusCreated
	}
	return s
}

// left finds every machine that anything is left of.
func (d *Driver) left(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	add := func(names []string, prefix string) {
		for _, name := range names {
			if id, ok := strings.CutPrefix(name, prefix); ok && idForm.MatchString(id) {
				found[id] = true
			}
		}
	}
	entries, err := os.ReadDir(d.cfg.recordsDir())
	if err != nil {
		return nil, fault.Of(err, "cannot list the machines")
	}
	for _, e := range entries {
		// A record that was being written when its writer was killed is a trace, too.
		if name, ok := strings.CutSuffix(e.Name(), recordExt); ok {
			add([]string{strings.TrimPrefix(name, ".")}, "")
		}
	}
	names, err := d.cfg.Volumes.List(ctx)
	if err != nil {
		return nil, err
	}
	add(names, d.cfg.volumes(machineVolume))
	add(names, d.cfg.volumes(pausedVolume))
	if names, err = d.cfg.Network.List(ctx); err != nil {
		return nil, err
	}
	add(names, "")
	if names, err = d.cgroups.Children(d.cfg.cgroupParent()); err != nil {
		return nil, err
	}
	add(names, "")
	for _, dir := range []string{"p", "e"} {
		entries, err := os.ReadDir(filepath.Join(d.cfg.RuntimeDir, dir))
		if err != nil {
			return nil, fault.Of(err, "cannot list the runtime directory")
		}
		for _, e := range entries {
			add([]string{strings.TrimPrefix(e.Name(), ".")}, "")
		}
	}
	all := make([]string, 0, len(found))
	for id := range found {
		all = append(all, id)
	}
	slices.Sort(all)
	return all, nil
}
