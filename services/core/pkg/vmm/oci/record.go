package oci

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

// machineRecord is all that is known of a machine. What must outlive a reboot is in
// the state directory; what a reboot ends is in the runtime directory.
type machineRecord struct {
	facts
	run runState
}

// facts change seldom.
type facts struct {
	Version   int       `json:"version"`
	MachineID string    `json:"machine_id"`
	Whole     bool      `json:"whole"` // Create was done
	Spec      vmm.Spec  `json:"spec"`
	Runtime   string    `json:"runtime"`
	CreatedAt time.Time `json:"created_at"`
}

// phase is what was begun last; it is written before the deed.
type phase string

const (
	phaseIdle     phase = "" // nothing runs
	phaseStarting phase = "starting"
	phaseRunning  phase = "running"
	phaseDeleting phase = "deleting"
)

// runState is what goes on with a machine.
type runState struct {
	Version int    `json:"version"`
	BootID  string `json:"boot_id"`
	Phase   phase  `json:"phase"`
	// Process is the first process, in phase running.
	Process *process.Process `json:"process,omitempty"`
	// Paused is the wish; whether it stands still is the cgroup's to say.
	Paused bool `json:"paused,omitempty"`
}

// ended is how a machine's process ended.
type ended struct {
	Process process.Process `json:"process"`
	Exit    vmm.Exit        `json:"exit"`
}

// load reads a machine's record. Returns NotFound, and Internal for one that
// cannot be read: it is broken then.
func (d *Driver) load(id string) (*machineRecord, error) {
	if !idForm.MatchString(id) {
		return nil, errors.New(errors.NotFound, "there is no such machine")
	}
	var r machineRecord
	p := d.cfg.paths(id)
	switch err := record.Read(p.facts, &r.facts); {
	case os.IsNotExist(err):
		return nil, errors.New(errors.NotFound, "there is no such machine")
	case err != nil:
		return nil, errors.Wrap(err, errors.Internal, "the machine's record cannot be read")
	case r.Version > recordVersion || r.MachineID != id:
		return nil, errors.New(errors.Internal, "the machine's record is of another version")
	}
	switch err := record.Read(p.run, &r.run); {
	case os.IsNotExist(err):
	case err != nil:
		return nil, errors.Wrap(err, errors.Internal, "the machine's record cannot be read")
	case r.run.Version > recordVersion:
		return nil, errors.New(errors.Internal, "the machine's record is of another version")
	case r.run.BootID != d.boot && r.run.Phase != phaseDeleting:
		r.run = runState{} // the host was restarted since: nothing runs
	}
	return &r, nil
}

// saveFacts writes what must outlive a reboot. The disk has it soon after:
// [Driver.Close] waits for that, and a machine whose record a loss of power
// took in its first moments shows as broken.
func (d *Driver) saveFacts(r *machineRecord) error {
	path := d.cfg.paths(r.MachineID).facts
	if err := record.Write(path, r.facts); err != nil {
		return err
	}
	d.flushes.Go(func() {
		f, err := os.Open(path)
		if err != nil {
			return // deleted meanwhile
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			d.log.Warn("cannot write a machine's record to disk", "machine", r.MachineID, "error", err)
		}
	})
	return nil
}

// saveRun writes what goes on, to where a reboot takes it away.
func (d *Driver) saveRun(r *machineRecord) error {
	r.run.Version, r.run.BootID = recordVersion, d.boot
	return record.Write(d.cfg.paths(r.MachineID).run, r.run)
}

// handle is the part of a record that does not change.
func (r *machineRecord) handle() vmm.Handle {
	h, err := json.Marshal(struct {
		Version   int       `json:"version"`
		Driver    string    `json:"driver"`
		MachineID string    `json:"machine_id"`
		Runtime   string    `json:"runtime"`
		BuildID   string    `json:"build_id"`
		CreatedAt time.Time `json:"created_at"`
	}{recordVersion, Name, r.MachineID, r.Runtime, r.Spec.BuildID, r.CreatedAt})
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
