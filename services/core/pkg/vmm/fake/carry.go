package fake

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// memoryMark begins what PackMemory writes: a line of JSON follows, and the files
// as PackSnapshot writes them.
const memoryMark = "fake memory\n"

// maxMemory bounds the line.
const maxMemory = 1 << 20

// packedMemory is what ran in a machine, and where it may go on.
type packedMemory struct {
	Version string `json:"version"` // of the driver
	Memory  memory `json:"memory"`
}

// PackMemory writes what ran at a snapshot, and its files.
func (d *Driver) PackMemory(ctx context.Context, snapshotID string, w io.Writer) error {
	mem, err := d.node.recall(snapshotID)
	if err != nil {
		return err
	}
	line, err := json.Marshal(packedMemory{Version: d.node.Version(), Memory: mem})
	if err == nil {
		_, err = w.Write(append(append([]byte(memoryMark), line...), '\n'))
	}
	if err != nil {
		return err
	}
	return d.PackSnapshot(ctx, snapshotID, w)
}

// readMemory reads what PackMemory wrote, up to the files that follow; nil: there
// is none.
func readMemory(r io.Reader) (*packedMemory, io.Reader, error) {
	in := bufio.NewReaderSize(r, maxMemory)
	if mark, err := in.Peek(len(memoryMark)); err != nil || string(mark) != memoryMark {
		return nil, in, nil //nolint:nilerr // whoever reads on is told
	}
	if _, err := in.Discard(len(memoryMark)); err != nil {
		return nil, in, err
	}
	line, err := in.ReadSlice('\n')
	var p packedMemory
	if err == nil {
		err = json.Unmarshal(line, &p)
	}
	if err != nil {
		return nil, in, errors.Wrap(err, errors.InvalidArgument, "this is no packed memory")
	}
	return &p, in, nil
}

// UnpackMemory makes a paused machine of what another node has packed.
func (d *Driver) UnpackMemory(ctx context.Context, spec vmm.Spec, r io.Reader) error {
	if !idForm.MatchString(spec.MachineID) {
		return errors.New(errors.InvalidArgument, "the machine's ID is malformed")
	}
	if err := d.node.stumble(ctx, OpUnpack, nil); err != nil {
		return err
	}
	if d.node.find(spec.MachineID) != nil {
		return nil // the result of an earlier call
	}
	p, r, err := readMemory(r)
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New(errors.InvalidArgument, "this is no packed memory")
	}
	version := d.node.Version()
	if p.Version != version {
		return errors.New(errors.Conflict, "the memory was saved by %s, and here is %s", p.Version, version)
	}
	home := filepath.Join(d.node.dir, "arriving-"+spec.MachineID)
	defer os.RemoveAll(home)
	if err := d.unpack(ctx, spec.MachineID, home, spec.Resources.DiskBytes, r); err != nil {
		return err
	}
	m := &machine{
		spec: spec, dir: d.node.dirOf(spec.MachineID), made: time.Now().UTC(), began: true,
		stream: newStream(), deleted: make(chan struct{}), status: vmm.StatusPaused, arrived: &p.Memory, savedBy: version,
	}
	if err := m.prepare(home); err != nil {
		return errors.Join(errors.Wrap(err, errors.Internal, "the machine's directory cannot be made"), os.RemoveAll(m.dir))
	}
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	d.node.machines[spec.MachineID] = m
	return nil
}

// arrive lets a machine go on that came from another node. One that did not stays
// paused: nothing of what it had in its memory is lost.
func (d *Driver) arrive(ctx context.Context, m *machine, mem memory) error {
	r, err := d.boot(m)
	if err != nil {
		return err
	}
	err = d.goOn(ctx, m, r, mem)
	if err != nil {
		select {
		case <-r.ended: // it was stopped meanwhile, or killed
			d.drop(m)
			return err
		default:
		}
		m.end(r, 0, vmm.Exit{Known: true})
		d.drop(m)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.arrived, m.status = &mem, vmm.StatusPaused
		return err
	}
	m.status = vmm.StatusRunning
	return nil
}

// arrival is what is to go on in a machine that came from another node; nil: none.
func (m *machine) arrival() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.arrived
}

// stay gives up what was to go on in it.
func (m *machine) stay() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.arrived != nil {
		m.arrived, m.status = nil, vmm.StatusCreated
	}
}
