package oci

import (
	"context"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// List tells what there is of machines here: whatever has a record, and
// whatever is found that was made for one. See [vmm.Driver].
func (d *Driver) List(ctx context.Context) ([]vmm.State, error) {
	ids, err := d.traces(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]vmm.State, 0, len(ids))
	for _, id := range ids {
		states = append(states, d.state(id))
	}
	return states, nil
}

// state is where a machine stands, by its record and what really runs.
func (d *Driver) state(id string) vmm.State {
	s := vmm.State{MachineID: id, Status: vmm.StatusBroken}
	r, err := d.load(id)
	if err != nil {
		return s
	}
	s.Handle, s.CreatedAt = r.handle(), r.CreatedAt
	if _, err := os.Stat(d.cfg.Volumes.Path(d.cfg.paths(id).volume)); err != nil || !r.Whole {
		return s
	}
	switch r.run.Phase {
	case phaseIdle, phaseStarting: // a start that was cut short can be made again
		s.Status = vmm.StatusCreated
	case phaseRunning:
		s.Status = vmm.StatusCreated
		if r.run.Process.Alive(d.boot) {
			s.Status, s.PID = vmm.StatusRunning, r.run.Process.PID
			if r.run.Paused && d.group(id).Frozen() {
				s.Status = vmm.StatusPaused
			}
		}
	}
	return s
}

// traces finds every machine that anything is left of.
func (d *Driver) traces(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	add := func(ids []string, prefix string) {
		for _, name := range ids {
			if id, ok := strings.CutPrefix(name, prefix); ok && idForm.MatchString(id) {
				found[id] = true
			}
		}
	}
	entries, err := os.ReadDir(d.cfg.recordsDir())
	if err != nil {
		return nil, fail(err, "cannot list the machines")
	}
	for _, e := range entries {
		// A record that was being written when its writer was killed is a trace, too.
		if name, ok := strings.CutSuffix(e.Name(), recordExt); ok {
			add([]string{strings.TrimPrefix(name, ".")}, "")
		}
	}
	ids, err := d.cfg.Volumes.List(ctx)
	if err != nil {
		return nil, err
	}
	add(ids, machineVolume)
	add(ids, shiftedVolume)
	if ids, err = d.cfg.Network.List(ctx); err != nil {
		return nil, err
	}
	add(ids, "")
	if ids, err = d.cgroups.Children(d.cfg.cgroupParent()); err != nil {
		return nil, err
	}
	add(ids, "")
	if ids, err = d.runtime.containers(); err != nil {
		return nil, fail(err, "cannot list the OCI runtime's containers")
	}
	add(ids, d.cfg.Instance+"-")
	for _, dir := range []string{"b", "p", "e"} {
		entries, err := os.ReadDir(filepath.Join(d.cfg.RuntimeDir, dir))
		if err != nil {
			return nil, fail(err, "cannot list the runtime directory")
		}
		for _, e := range entries {
			add([]string{strings.TrimPrefix(e.Name(), ".")}, "")
		}
	}
	all := make([]string, 0, len(found))
	for id := range found {
		all = append(all, id)
	}
	sort.Strings(all)
	return all, nil
}

// running loads a machine that runs, paused or not. Returns NotFound, Conflict.
func (d *Driver) running(id string) (*machineRecord, error) {
	r, err := d.load(id)
	if err != nil {
		return nil, err
	}
	if r.run.Phase != phaseRunning || !r.run.Process.Alive(d.boot) {
		return nil, errors.New(errors.Conflict, "the machine does not run")
	}
	return r, nil
}
