package microvm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/sparse"
)

// memoryMark begins what a packed memory is: the length of a description follows
// in 4 bytes, big endian, and the description as JSON, then the engine's files in
// its order, as package sparse writes them, then the disk, as PackSnapshot does.
const memoryMark = "aetherium-vmem-1\n"

const (
	// maxDescription, maxFiles and maxFileName bound a description: an engine has
	// three files or four.
	maxDescription = 64 << 10
	maxFiles       = 8
	// memorySlack is what an engine's files may be beside the guest's memory.
	memorySlack = 128 * mib
)

// fileForm is what an engine's files may be called.
var fileForm = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,31}$`)

// packed describes a packed memory, and all that must be the same where it goes on.
type packed struct {
	Engine        string           `json:"engine"`
	EngineVersion string           `json:"engine_version"`
	Resources     domain.Resources `json:"resources"`
	Network       bool             `json:"network"`
	BuildID       string           `json:"build_id"`
	Drives        []packedDrive    `json:"drives"`
	Files         []packedFile     `json:"files"`
	CreatedAt     time.Time        `json:"created_at"`
}

// packedDrive is a disk of the machine. What a guest has read of a file system, it
// does not read again: the image must be the same, block by block.
type packedDrive struct {
	Role string `json:"role"`
	Sum  string `json:"sum,omitempty"` // see imageSum; empty: the machine's own disk
}

type packedFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// PackMemory writes a snapshot's memory and its disk. See [vmm.MemoryCarrier].
func (d *Driver) PackMemory(ctx context.Context, snapshotID string, w io.Writer) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	at := d.cfg.snapshot(snapshotID)
	k, err := d.keptMemory(at)
	if err == nil {
		err = d.packMemory(ctx, k, w)
	}
	if err == nil {
		err = d.packDisk(ctx, at.disk, w)
	}
	return fault.Of(err, cannotPack)
}

func (d *Driver) packMemory(ctx context.Context, k *kept, w io.Writer) error {
	p := packed{
		Engine: d.engine.Name(), EngineVersion: k.EngineVersion, Resources: k.Resources, Network: k.Network, BuildID: k.BuildID, CreatedAt: k.CreatedAt,
	}
	var err error
	if p.Drives, err = sums(ctx, k.Drives); err != nil {
		return err
	}
	entries, err := os.ReadDir(k.dir) // in the order of their names
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		p.Files = append(p.Files, packedFile{e.Name(), info.Size()})
	}
	if err := p.check(); err != nil {
		return err
	}
	raw, err := json.Marshal(p)
	if err == nil && len(raw) > maxDescription {
		err = errors.New(errors.TooLarge, "the machine has too many disks to be packed")
	}
	if err == nil {
		_, err = w.Write(append(binary.BigEndian.AppendUint32([]byte(memoryMark), uint32(len(raw))), raw...))
	}
	for _, file := range p.Files {
		if err == nil {
			err = packFile(ctx, filepath.Join(k.dir, file.Name), file.Size, w)
		}
	}
	return err
}

func packFile(ctx context.Context, path string, size int64, w io.Writer) error {
	f, now, err := openSaved(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if now != size {
		return errors.New(errors.Internal, "the snapshot's memory is not what it was")
	}
	return sparse.Write(ctx, w, f, size)
}

// check refuses what no engine saves. Returns InvalidArgument, TooLarge.
func (p *packed) check() error {
	left := p.Resources.MemoryBytes + memorySlack
	if p.Resources.MemoryBytes < 0 || len(p.Files) == 0 || len(p.Files) > maxFiles {
		return errors.New(errors.InvalidArgument, "this is no packed memory")
	}
	for i, f := range p.Files {
		if !fileForm.MatchString(f.Name) || f.Size < 0 || slices.ContainsFunc(p.Files[:i], func(o packedFile) bool { return o.Name == f.Name }) {
			return errors.New(errors.InvalidArgument, "this is no packed memory")
		}
		if f.Size > left {
			return errors.New(errors.TooLarge, "the memory is larger than its machine could have it")
		}
		left -= f.Size
	}
	return nil
}

// readPacked reads a description.
func readPacked(r io.Reader) (*packed, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, sparse.NoEOF(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxDescription {
		return nil, errors.New(errors.InvalidArgument, "this is no packed memory")
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, sparse.NoEOF(err)
	}
	var p packed
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "this is no packed memory")
	}
	return &p, p.check()
}

// skipMemory reads over a memory, up to the disk.
func skipMemory(ctx context.Context, r io.Reader) error {
	p, err := readPacked(r)
	if err != nil {
		return err
	}
	for _, f := range p.Files {
		if err := sparse.Skip(ctx, r, f.Size); err != nil {
			return err
		}
	}
	return nil
}

// UnpackMemory makes a paused machine of what another host's driver has packed.
// See [vmm.MemoryCarrier].
func (d *Driver) UnpackMemory(ctx context.Context, spec vmm.Spec, r io.Reader) error {
	if err := d.checkSpec(spec); err != nil {
		return err
	}
	ctx, done, err := d.turns.Begin(ctx, spec.MachineID, false)
	if err != nil {
		return err
	}
	defer done()
	m, err := d.load(spec.MachineID)
	switch {
	case errors.HasCode(err, errors.NotFound):
	case err != nil:
		return err
	case m.run.Phase != phaseDeleting && m.Whole:
		return nil
	default:
		return errors.New(errors.Conflict, "the machine is not whole").WithHint("delete it first")
	}
	mark, err := readMark(r)
	if err == nil && mark != memoryMark {
		err = errors.New(errors.InvalidArgument, "this is no packed memory of a machine with a kernel of its own")
	}
	var p *packed
	if err == nil {
		p, err = readPacked(r)
	}
	if err != nil {
		return fault.Of(err, cannotUnpack)
	}
	m = &machine{facts: facts{Version: recordVersion, MachineID: spec.MachineID, Spec: spec, CreatedAt: time.Now().UTC()}}
	m.Spec.DiskFrom, m.Spec.Memory = "", false
	if err := d.receive(ctx, m, p, r); err != nil {
		return err
	}
	m.Whole, m.Started, m.Suspended, m.Moved, m.EngineVersion = true, true, true, true, p.EngineVersion
	if err := d.saveFacts(m); err != nil {
		return err
	}
	// What it was packed from may be gone as soon as this returns, should the power
	// fail: names, too, have to be on disk by then.
	at := d.cfg.paths(m.MachineID)
	for _, path := range []string{filepath.Dir(d.cfg.Volumes.Path(at.volume)), at.facts, filepath.Dir(at.facts)} {
		if err := syncPath(path); err != nil {
			return fault.Of(err, cannotUnpack)
		}
	}
	return nil
}

// syncPath has a file, or the names in a directory, on disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// receive makes all that a machine has of what was packed of it.
func (d *Driver) receive(ctx context.Context, m *machine, p *packed, r io.Reader) (err error) {
	if m.Drives, err = d.images.drives(ctx, d.cfg.imagesDir(), m.Spec); err != nil {
		return err
	}
	if err := d.goesOn(ctx, p, m); err != nil {
		return err
	}
	if m.Kernel, err = d.cfg.Kernel(ctx); err != nil { // that it boots next
		return err
	}
	if err := d.saveFacts(m); err != nil { // from here on there is something to be deleted
		return err
	}
	if _, err := d.cfg.Network.Acquire(ctx, m.MachineID, m.Spec.Network, m.Spec.Hostname); err != nil {
		return err
	}
	// The memory has its name when the disk has, which has it when all was read.
	at := d.cfg.paths(m.MachineID)
	return d.cfg.Volumes.Fill(ctx, at.memory, 0, func(volume string) error {
		dir := filepath.Join(volume, memoryName)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fault.Of(err, cannotUnpack)
		}
		for _, f := range p.Files {
			if err := unpackFile(ctx, filepath.Join(dir, f.Name), f.Size, r); err != nil {
				return fault.Of(err, cannotUnpack)
			}
		}
		mark, err := readMark(r)
		if err != nil {
			return fault.Of(err, cannotUnpack)
		}
		limit := m.Spec.Resources.DiskBytes
		err = d.unpackDisk(ctx, mark, at.volume, limit, r)
		if err == nil {
			err = d.cfg.Volumes.Create(ctx, at.volume, diskSize(limit)+diskSlack) // it is there: it gets its limit
		}
		if err != nil {
			return err
		}
		return seal(dir)
	})
}

// goesOn checks that a memory can go on here, in a machine.
func (d *Driver) goesOn(ctx context.Context, p *packed, m *machine) error {
	if p.Engine != d.engine.Name() {
		return errors.New(errors.Conflict, "the memory was saved by the driver %.32q", p.Engine)
	}
	if err := d.sameEngine(ctx, p.EngineVersion, "start from its disk, without its memory"); err != nil {
		return err
	}
	k := kept{Resources: p.Resources, Network: p.Network, BuildID: p.BuildID}
	for _, drive := range p.Drives {
		k.Drives = append(k.Drives, Drive{Role: drive.Role})
	}
	if err := k.fits(m.Spec); err != nil {
		return errors.Wrap(err, errors.Conflict, "%s", errors.Public(err).Message)
	}
	here, err := sums(ctx, m.Drives)
	if err != nil {
		return fault.Of(err, cannotUnpack)
	}
	if !slices.Equal(here, p.Drives) {
		return errors.New(errors.Conflict, "the memory knows the template's files as another host laid them out")
	}
	return nil
}

// sums describes the disks of a machine.
func sums(ctx context.Context, drives []Drive) ([]packedDrive, error) {
	out := make([]packedDrive, 0, len(drives))
	for _, drive := range drives {
		p := packedDrive{Role: drive.Role}
		if drive.Path != "" {
			var err error
			if p.Sum, err = imageSum(ctx, drive.Path); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}
