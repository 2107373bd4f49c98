package microvm

import (
	"encoding/json"
	"os"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
)

// recordVersion is the form of records and handles. A driver reads its own and
// older ones; a newer one makes a machine broken rather than misread.
const recordVersion = 1

// machine is all that is known of a machine. What must outlive a reboot is in
// the state directory; what a reboot ends is in the runtime directory.
type machine struct {
	facts
	run runState
}

// facts change seldom.
type facts struct {
	Version   int       `json:"version"`
	MachineID string    `json:"machine_id"`
	Whole     bool      `json:"whole"` // Create was done
	Spec      vmm.Spec  `json:"spec"`
	CreatedAt time.Time `json:"created_at"`
	// Started: it goes on from its own disk, no longer from a snapshot's memory.
	Started bool `json:"started,omitempty"`
	// Begun: it went on from a snapshot's memory, but its start was not done. Its
	// disk is no longer the one of the memory.
	Begun bool `json:"begun,omitempty"`
	// Moved: it came here with its memory, and its guest was not told so yet.
	Moved bool `json:"moved,omitempty"`
	// Hostname is what it was named last; empty: by its spec.
	Hostname string `json:"hostname,omitempty"`
	// Drives are the images that it has beside its own disk.
	Drives []Drive `json:"drives,omitempty"`
	// Booted names the memory of a booted machine that it goes on from at its first
	// start, and whose disk it has; empty: it boots.
	Booted string `json:"booted,omitempty"`
	// Kernel is what it booted last; a memory needs the same.
	Kernel Kernel `json:"kernel"`
	// Suspended: it is paused, and its memory is saved as Version of the engine has it.
	Suspended     bool   `json:"suspended,omitempty"`
	EngineVersion string `json:"engine_version,omitempty"`
}

// phase is what was begun last; it is written before the deed.
type phase string

const (
	phaseIdle     phase = "" // nothing runs
	phaseStarting phase = "starting"
	phaseWaking   phase = "waking"  // as starting, but its memory is nowhere else: it is not begun anew
	phaseStandby  phase = "standby" // paused, and its memory is not used up
	phaseRunning  phase = "running"
	phaseDeleting phase = "deleting"
)

// runState is what goes on with a machine.
type runState struct {
	Version int    `json:"version"`
	BootID  string `json:"boot_id"`
	Phase   phase  `json:"phase"`
	// Process is the monitor and Guest what it runs, in phase running, and in
	// those that lead there or stand by for it once it was started.
	Process *process.Process `json:"process,omitempty"`
	Guest   *Guest           `json:"guest,omitempty"`
	Paused  bool             `json:"paused,omitempty"` // it was frozen, and is to stay so
	Still   bool             `json:"still,omitempty"`  // it stands still, or may, for whatever reason
}

// ended is how a machine's monitor ended.
type ended struct {
	Process process.Process `json:"process"`
	Exit    vmm.Exit        `json:"exit"`
}

// hostname is what the machine is called.
func (m *machine) hostname() string {
	if m.Hostname != "" {
		return m.Hostname
	}
	return m.Spec.Hostname
}

// load reads a machine's record. Returns NotFound, and Internal for one that
// cannot be read: it is broken then.
func (d *Driver) load(id string) (*machine, error) {
	if !idForm.MatchString(id) {
		return nil, errors.New(errors.NotFound, "there is no such machine")
	}
	var m machine
	p := d.cfg.paths(id)
	switch err := record.Read(p.facts, &m.facts); {
	case os.IsNotExist(err):
		return nil, errors.New(errors.NotFound, "there is no such machine")
	case err != nil:
		return nil, errors.Wrap(err, errors.Internal, "the machine's record cannot be read")
	case m.Version > recordVersion || m.MachineID != id:
		return nil, errors.New(errors.Internal, "the machine's record is of another version")
	}
	switch err := record.Read(p.run, &m.run); {
	case os.IsNotExist(err):
	case err != nil:
		return nil, errors.Wrap(err, errors.Internal, "the machine's record cannot be read")
	case m.run.Version > recordVersion:
		return nil, errors.New(errors.Internal, "the machine's record is of another version")
	case m.run.BootID != d.boot && m.run.Phase != phaseDeleting:
		m.run = runState{} // the host was restarted since: nothing runs
	}
	if (m.run.Process == nil) != (m.run.Guest == nil) || m.run.Phase == phaseRunning && m.run.Process == nil {
		return nil, errors.New(errors.Internal, "the machine's record does not say what runs")
	}
	return &m, nil
}

// saveFacts writes what must outlive a reboot. The disk has it soon after:
// [Driver.Close] waits for that.
func (d *Driver) saveFacts(m *machine) error {
	path := d.cfg.paths(m.MachineID).facts
	if err := record.Write(path, m.facts); err != nil {
		return err
	}
	d.flushes.Go(func() {
		f, err := os.Open(path)
		if err != nil {
			return // deleted meanwhile
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			d.log.Warn("cannot write a machine's record to disk", "machine", m.MachineID, "error", err)
		}
	})
	return nil
}

// saveRun writes what goes on, to where a reboot takes it away.
func (d *Driver) saveRun(m *machine) error {
	m.run.Version, m.run.BootID = recordVersion, d.boot
	return record.Write(d.cfg.paths(m.MachineID).run, m.run)
}

// source is what a machine's first start goes on from; ok is false for one that
// boots, or has started.
func (d *Driver) source(m *machine) (from stored, ok bool) {
	switch {
	case m.Started:
	case m.Spec.Memory:
		return d.cfg.snapshot(m.Spec.DiskFrom), true
	case m.Booted != "":
		return d.cfg.booted(m.Booted), true
	}
	return stored{}, false
}

// handle is the part of a record that does not change.
func (m *machine) handle(driver string) vmm.Handle {
	h, err := json.Marshal(struct {
		Version   int       `json:"version"`
		Driver    string    `json:"driver"`
		MachineID string    `json:"machine_id"`
		BuildID   string    `json:"build_id"`
		CreatedAt time.Time `json:"created_at"`
	}{recordVersion, driver, m.MachineID, m.Spec.BuildID, m.CreatedAt})
	if err != nil {
		return nil // strings and a time always encode
	}
	return h
}

// recorded lists the machines that have a record.
func (d *Driver) recorded() ([]string, error) {
	entries, err := os.ReadDir(d.cfg.recordsDir())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), recordExt); ok && idForm.MatchString(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// alive reports whether a machine has a monitor.
func (d *Driver) alive(m *machine) bool {
	return m.run.Phase != phaseDeleting && m.run.Process.Alive(d.boot)
}

// waking reports whether a machine has gone on from the memory of its pause, but
// its resumption was not done.
func (d *Driver) waking(m *machine) bool { return m.run.Phase == phaseWaking && d.alive(m) }

// running loads a machine that runs. Returns NotFound, Conflict.
func (d *Driver) running(id string) (*machine, error) {
	m, err := d.load(id)
	switch {
	case err != nil:
		return nil, err
	case m.Suspended || d.waking(m):
		return nil, errors.New(errors.Conflict, "the machine is paused")
	case m.run.Phase != phaseRunning || !d.alive(m):
		return nil, errors.New(errors.Conflict, "the machine does not run")
	}
	return m, nil
}
