package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// recordVersion is the form of records and handles. A driver reads its own and
// older ones; a newer one makes a machine broken rather than misread.
const recordVersion = 1

// phase is what was begun last; it is written before the deed.
type phase string

const (
	phaseCreating phase = "creating"
	phaseCreated  phase = "created" // or stopped again
	phaseStarting phase = "starting"
	phaseRunning  phase = "running"
	phaseDeleting phase = "deleting"
)

// record is all that is known of a machine, as kept on disk.
type record struct {
	Version   int       `json:"version"`
	MachineID string    `json:"machine_id"`
	Phase     phase     `json:"phase"`
	Spec      vmm.Spec  `json:"spec"`
	Runtime   string    `json:"runtime"`
	CreatedAt time.Time `json:"created_at"`

	// Process is the first process, in phase running.
	Process *process `json:"process,omitempty"`
	// Paused is the wish; whether it stands still is the cgroup's to say.
	Paused bool `json:"paused,omitempty"`
	// Identity is what was last written of it into the machine's /etc.
	Identity string `json:"identity,omitempty"`
}

// ended is how a machine's process ended, kept beside its record.
type ended struct {
	Process process  `json:"process"`
	Exit    vmm.Exit `json:"exit"`
}

// load reads a machine's record. Returns NotFound, and Internal for one that
// cannot be read: it is broken then.
func (d *Driver) load(id string) (*record, error) {
	if !idForm.MatchString(id) {
		return nil, errors.New(errors.NotFound, "there is no such machine")
	}
	var r record
	switch err := readJSON(d.cfg.paths(id).record, &r); {
	case os.IsNotExist(err):
		return nil, errors.New(errors.NotFound, "there is no such machine")
	case err != nil:
		return nil, errors.Wrap(err, errors.Internal, "the machine's record cannot be read")
	case r.Version > recordVersion || r.MachineID != id:
		return nil, errors.New(errors.Internal, "the machine's record is of another version")
	}
	return &r, nil
}

// save writes a record so that it is there wholly or not at all, also after a
// loss of power.
func (d *Driver) save(r *record) error {
	return writeJSON(d.cfg.paths(r.MachineID).record, r)
}

// handle is the part of a record that does not change.
func (r *record) handle() vmm.Handle {
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

// recorded lists the machines that have a record or an exit.
func (d *Driver) recorded() ([]string, error) {
	entries, err := os.ReadDir(d.cfg.recordsDir())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		name := e.Name()
		for _, ext := range []string{recordExt, exitExt} {
			if id, ok := strings.CutSuffix(name, ext); ok && idForm.MatchString(id) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// writeJSON replaces a file by way of a new one. Names of new ones begin with
// a dot, which no machine ID does.
func writeJSON(path string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot encode the machine's record")
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(raw)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	return fail(err, "cannot write the machine's record")
}
