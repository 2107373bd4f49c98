package firecracker

import (
	"crypto/rand"
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
	memoryFile  = "memory"    // the guest's memory, as long as it is
	stateFile   = "state"     // processors and devices, as Firecracker writes them
	touchedFile = "touched"   // which pages earlier runs wanted, a bit for each; may be missing
	metaFile    = "meta.json" // written last: without it the rest is nothing
	stageDir    = "stage"     // where the monitor writes, while it does
)

const formVersion = 2

// form says what a saved memory is of.
type form struct {
	Version int         `json:"version"`
	ID      string      `json:"id"`      // random: names this memory and no other
	Monitor string      `json:"monitor"` // as Engine.Version has it
	CPUs    int         `json:"cpus"`
	Memory  int64       `json:"memory"`
	Drives  []driveForm `json:"drives"`
	Tap     string      `json:"tap"`    // empty: there is no network device
	Shared  bool        `json:"shared"` // what was not written since the one before is shared with it
	Run     run         `json:"run"`    // what the guest was started with
}

type driveForm struct {
	ReadOnly bool  `json:"read_only"`
	Size     int64 `json:"size"`
}

// formOf describes a guest that is saved, or is to go on from a saved memory.
func formOf(h *host, g microvm.Guest) (form, error) {
	f := form{Version: formVersion, ID: rand.Text(), Monitor: h.String(), CPUs: g.CPUs, Memory: g.Memory}
	for _, d := range g.Drives {
		info, err := os.Stat(d.Path)
		if err != nil {
			return f, fault.Of(err, "a machine's disk is not there")
		}
		f.Drives = append(f.Drives, driveForm{d.ReadOnly, info.Size()})
	}
	if g.Link != nil {
		f.Tap = g.Link.Tap
	}
	return f, nil
}

// takes checks that a guest is of the form that was saved.
func (f form) takes(g form) error {
	switch {
	case f.Version != formVersion:
		return errors.New(errors.Unsupported, "the memory was saved in form %d, and this is form %d", f.Version, formVersion).
			WithHint("take the snapshot again")
	case f.Monitor != g.Monitor:
		return errors.New(errors.Unsupported, "the memory was saved by Firecracker %s, and this is Firecracker %s", f.Monitor, g.Monitor).
			WithHint("take the snapshot again; its disk can be used as it is")
	case f.CPUs != g.CPUs || f.Memory != g.Memory:
		return errors.New(errors.InvalidArgument, "the memory is that of a machine with %d processors and %d MiB", f.CPUs, f.Memory>>20).
			WithField("resources")
	case !slices.Equal(f.Drives, g.Drives):
		return errors.New(errors.InvalidArgument, "the memory is that of a machine with other disks").WithField("drives")
	case (f.Tap == "") != (g.Tap == ""):
		return errors.New(errors.InvalidArgument, "the memory is that of a machine with another network device").WithField("network")
	}
	return nil
}

// tracks tells whether a guest's writes are tracked, so that a snapshot can be of
// what changed. 1.14.0 and 1.14.1 write such memories wrongly where they have two
// parts, below and above the devices' (Firecracker's change 5705 mends it).
func (e *Engine) tracks(h *host, g microvm.Guest) bool {
	const onePart = 3 << 30
	wrong := h.version == release{1, 14, 0} || h.version == release{1, 14, 1}
	return !e.cfg.FullSnapshots && (!wrong || g.Memory <= onePart)
}

// readForm reads what was saved. Returns NotFound when nothing was, to the end.
func readForm(from microvm.Memory) (form, error) {
	var f form
	err := record.Read(filepath.Join(from.Dir, metaFile), &f)
	if os.IsNotExist(err) {
		return f, errors.Wrap(err, errors.NotFound, "there is no saved memory")
	}
	if err != nil {
		return f, fault.Of(err, "the saved memory cannot be read")
	}
	info, err := os.Stat(filepath.Join(from.Dir, memoryFile))
	if err == nil && info.Size() != f.Memory {
		err = errors.New(errors.Internal, "the saved memory is damaged").WithHint("take the snapshot again")
	}
	return f, fault.Of(err, "the saved memory cannot be read")
}

// keep writes the form: from then on there is a saved memory. Everything is on
// disk when it returns.
func (f form) keep(to microvm.Memory) error {
	for _, name := range []string{memoryFile, stateFile} {
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

// base is the saved memory that a running guest's dirty pages are counted from.
// It is written in the guest's directory, where its monitor sees nothing of it.
type base struct {
	Dir string `json:"dir"`
	ID  string `json:"id"`
}

func basePath(g microvm.Guest) string { return filepath.Join(g.Dir, "base.json") }

func writeBase(g microvm.Guest, b base) error { return record.Write(basePath(g), b) }

// takeBase gives the base for a saving under way and forgets it: what the monitor
// counts from is not known until that has gone well. Nil: there is none.
func takeBase(g microvm.Guest) (*base, error) {
	var b base
	err := record.Read(basePath(g), &b)
	if os.IsNotExist(err) {
		return nil, nil //nolint:nilnil // as it says
	}
	if removeErr := os.Remove(basePath(g)); removeErr != nil {
		return nil, fault.Of(removeErr, "cannot forget an older snapshot")
	}
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // torn by a crash: a full one will do
	}
	f, err := readForm(microvm.Memory{Dir: b.Dir})
	if err != nil || f.ID != b.ID || f.Memory != g.Memory {
		return nil, nil //nolint:nilerr,nilnil // it was deleted meanwhile
	}
	return &b, nil
}
