package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// The files of a saved memory.
const (
	ramFile   = "ram"       // the guest's memory, as long as it is
	stateFile = "state"     // processors and devices, as QEMU's migration writes them
	metaFile  = "meta.json" // written last: without it the rest is nothing
)

const (
	formVersion = 1
	// maxState bounds what devices may be: it is some ten thousand bytes.
	maxState = 64 << 20
)

// form says what a saved memory is of.
type form struct {
	Version  int         `json:"version"`
	Monitor  string      `json:"monitor"` // as Engine.Version has it
	CPUs     int         `json:"cpus"`
	Memory   int64       `json:"memory"`
	Drives   []driveForm `json:"drives"`
	MTU      int         `json:"mtu"` // of the network device; 0: there is none
	StateSum string      `json:"state_sha256"`
}

type driveForm struct {
	ReadOnly bool  `json:"read_only"`
	Size     int64 `json:"size"`
}

// formOf describes a guest that is saved, or is to go on from a saved memory.
func formOf(h *host, g microvm.Guest, drives []drive) form {
	f := form{Version: formVersion, Monitor: h.String(), CPUs: g.CPUs, Memory: g.Memory}
	for _, d := range drives {
		f.Drives = append(f.Drives, driveForm{d.readOnly, d.size})
	}
	if g.Link != nil {
		f.MTU = g.Link.MTU
	}
	return f
}

// takes checks that a guest is of the form that was saved.
func (f form) takes(g form) error {
	switch {
	case f.Version != formVersion:
		return errors.New(errors.Unsupported, "the memory was saved in form %d, and this is form %d", f.Version, formVersion).
			WithHint("take the snapshot again")
	case f.Monitor != g.Monitor:
		return errors.New(errors.Unsupported, "the memory was saved by QEMU %s, and this is QEMU %s", f.Monitor, g.Monitor).
			WithHint("take the snapshot again; its disk can be used as it is")
	case f.CPUs != g.CPUs || f.Memory != g.Memory:
		return errors.New(errors.InvalidArgument, "the memory is that of a machine with %d processors and %d MiB", f.CPUs, f.Memory>>20).
			WithField("resources")
	case !slices.Equal(f.Drives, g.Drives):
		return errors.New(errors.InvalidArgument, "the memory is that of a machine with other disks").WithField("drives")
	case f.MTU != g.MTU:
		return errors.New(errors.InvalidArgument, "the memory is that of a machine with another network device").WithField("network")
	}
	return nil
}

// readForm reads what was saved. Returns NotFound when nothing was, to the end.
func readForm(from microvm.Memory) (form, error) {
	var f form
	err := record.Read(filepath.Join(from.Dir, metaFile), &f)
	if os.IsNotExist(err) {
		return f, errors.Wrap(err, errors.NotFound, "there is no saved memory")
	}
	return f, fault.Of(err, "the saved memory cannot be read")
}

// readState reads the devices, as they were written.
func readState(from microvm.Memory, f form) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(from.Dir, stateFile))
	if err != nil {
		return nil, fault.Of(err, "the saved memory cannot be read")
	}
	sum := sha256.Sum256(raw)
	if hex.EncodeToString(sum[:]) != f.StateSum {
		return nil, errors.New(errors.Internal, "the saved memory is damaged").WithHint("take the snapshot again")
	}
	return raw, nil
}

// openRAM opens a saved memory for reading.
func openRAM(from microvm.Memory, f form) (*os.File, error) {
	file, err := os.Open(filepath.Join(from.Dir, ramFile))
	if err != nil {
		return nil, fault.Of(err, "the saved memory cannot be read")
	}
	info, err := file.Stat()
	if err == nil && info.Size() != f.Memory {
		err = errors.New(errors.Internal, "the saved memory is damaged").WithHint("take the snapshot again")
	}
	if err != nil {
		file.Close()
		return nil, fault.Of(err, "the saved memory cannot be read")
	}
	return file, nil
}

// keep writes the form: from then on there is a saved memory. Everything is on
// disk when it returns.
func (f form) keep(to microvm.Memory) error {
	for _, name := range []string{ramFile, stateFile} {
		if err := syncFile(filepath.Join(to.Dir, name)); err != nil {
			return fault.Of(err, "cannot write a machine's memory")
		}
	}
	path := filepath.Join(to.Dir, metaFile)
	if err := record.Write(path, f); err != nil {
		return err
	}
	for _, p := range []string{path, to.Dir} {
		if err := syncFile(p); err != nil {
			return fault.Of(err, "cannot write a machine's memory")
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fsync(int(f.Fd()))
}
