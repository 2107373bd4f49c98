package microvm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
)

// kept is what is known of a saved memory. Its file is written last: with
// it the memory is whole.
type kept struct {
	Version       int              `json:"version"`
	EngineVersion string           `json:"engine_version"`
	Resources     domain.Resources `json:"resources"`
	Network       bool             `json:"network"` // the machine had a network device
	BuildID       string           `json:"build_id"`
	Kernel        Kernel           `json:"kernel"`
	Drives        []Drive          `json:"drives"`
	CreatedAt     time.Time        `json:"created_at"`

	dir string // of the engine's files
}

const keptFile = "kept.json"

// keptMemory finds a saved memory. Returns NotFound.
func (d *Driver) keptMemory(at stored) (*kept, error) {
	dir := d.cfg.Volumes.Path(at.memory)
	k := kept{dir: filepath.Join(dir, memoryName)}
	switch err := record.Read(filepath.Join(dir, keptFile), &k); {
	case os.IsNotExist(err):
		return nil, errors.New(errors.NotFound, "the snapshot has no memory")
	case err != nil:
		return nil, errors.Wrap(err, errors.Internal, "what is known of the snapshot's memory cannot be read")
	case k.Version > recordVersion:
		return nil, errors.New(errors.Conflict, "the snapshot's memory is of a newer version")
	}
	return &k, nil
}

// fits checks that a machine with a spec can go on from the memory.
func (k *kept) fits(s vmm.Spec) error {
	switch r := s.Resources; {
	case r.MemoryBytes/mib != k.Resources.MemoryBytes/mib || (r.MilliCPU+999)/1000 != (k.Resources.MilliCPU+999)/1000:
		return errors.New(errors.InvalidArgument, "the memory is of a machine with %d MiB and %d thousandths of a core",
			k.Resources.MemoryBytes/mib, k.Resources.MilliCPU).WithField("resources").WithHint("start from the snapshot's disk to change them")
	case s.BuildID != k.BuildID:
		return errors.New(errors.InvalidArgument, "the memory is of a machine of another template").WithField("build_id")
	case (s.Network == domain.NetworkNAT) != k.Network:
		return errors.New(errors.InvalidArgument, "the memory is of a machine with another network mode").WithField("network")
	case !slices.Equal(k.mounts(), targets(s)):
		return errors.New(errors.InvalidArgument, "the memory is of a machine with other mounts").WithField("mounts")
	}
	return nil
}

// mounts are the places of the further trees that the memory knows, in order.
func (k *kept) mounts() (at []string) {
	for _, d := range k.Drives {
		if target, ok := bootline.Target(d.Role); ok {
			at = append(at, target)
		}
	}
	return at
}

func targets(s vmm.Spec) (at []string) {
	for _, m := range s.Mounts {
		at = append(at, m.Target)
	}
	return at
}

// Snapshot keeps a machine's disk, and its memory, under an ID of its own. See
// [vmm.Snapshotter]. A snapshot that exists is the result of an earlier call.
func (d *Driver) Snapshot(ctx context.Context, id, snapshotID string, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	var info vmm.SnapshotInfo
	if kind != domain.SnapshotDisk && kind != domain.SnapshotMemory {
		return info, errors.New(errors.Unsupported, "the %s driver keeps disks and memories", d.engine.Name())
	}
	if !idForm.MatchString(snapshotID) {
		return info, errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return info, err
	}
	defer done()
	m, err := d.load(id)
	if err != nil {
		return info, err
	}
	if !m.Whole || m.run.Phase == phaseDeleting {
		return info, errors.New(errors.Conflict, "the machine is not whole")
	}
	err = d.booted.yield(ctx, func() (err error) {
		if kind == domain.SnapshotMemory {
			info.Frozen, err = d.keepMemory(ctx, m, d.cfg.snapshot(snapshotID))
		} else {
			info.Frozen, err = d.keepDisk(ctx, m, snapshotID)
		}
		return err
	})
	if err != nil {
		return info, err
	}
	if kind == domain.SnapshotMemory {
		k, err := d.keptMemory(d.cfg.snapshot(snapshotID))
		if err != nil {
			return info, err
		}
		info.MemoryVersion = k.EngineVersion
	}
	info.Bytes, err = d.storedBytes(ctx, d.cfg.snapshot(snapshotID))
	return info, err
}

// storedBytes is what a saved memory and its disk take; what is not there takes none.
func (d *Driver) storedBytes(ctx context.Context, at stored) (n int64, err error) {
	for _, volume := range []string{at.disk, at.memory} {
		usage, err := d.cfg.Volumes.Usage(ctx, volume)
		if err != nil && !errors.HasCode(err, errors.NotFound) {
			return n, err
		}
		n += usage.Used
	}
	return n, nil
}

func (d *Driver) keepDisk(ctx context.Context, m *machine, snapshotID string) (time.Duration, error) {
	copyDisk := func() error { return d.copyDisk(ctx, m, d.cfg.snapshot(snapshotID)) }
	if m.Suspended || !d.alive(m) {
		return 0, copyDisk()
	}
	// What is cached is written while the machine still runs, so that little is
	// left for the time it stands still.
	if err := d.flush(m); err != nil {
		return 0, err
	}
	return d.whileStill(ctx, m, copyDisk)
}

// flush writes what the host caches of a machine's disk.
func (d *Driver) flush(m *machine) error {
	f, err := os.Open(filepath.Join(d.cfg.Volumes.Path(d.cfg.paths(m.MachineID).volume), diskFile))
	if err != nil {
		return fault.Of(err, "cannot write the machine's disk")
	}
	defer f.Close()
	return fault.Of(f.Sync(), "cannot write the machine's disk")
}

// copyDisk copies the disk of a machine that stands still to a snapshot, out of
// its monitor's reach.
func (d *Driver) copyDisk(ctx context.Context, m *machine, to stored) error {
	if err := d.cfg.Volumes.Clone(ctx, d.cfg.paths(m.MachineID).volume, to.disk, 0); err != nil {
		return err
	}
	return d.own(to.disk, 0)
}

// keepMemory keeps the memory of a machine that runs, or is paused with it
// saved, with its disk of the same moment.
func (d *Driver) keepMemory(ctx context.Context, m *machine, to stored) (time.Duration, error) {
	if _, err := d.keptMemory(to); err == nil {
		return 0, nil
	}
	version := m.EngineVersion
	if !m.Suspended {
		if !d.alive(m) {
			return 0, errors.New(errors.Conflict, "the machine does not run")
		}
		var err error
		if version, err = d.engine.Version(ctx); err != nil {
			return 0, err
		}
	}
	// What a call before left is not whole.
	if err := d.dropStored(ctx, to); err != nil {
		return 0, err
	}
	var frozen time.Duration
	var err error
	if m.Suspended {
		err = d.cfg.Volumes.Clone(ctx, d.cfg.paths(m.MachineID).memory, to.memory, 0)
		if err == nil {
			err = d.copyDisk(ctx, m, to)
		}
	} else {
		frozen, err = d.save(ctx, m, to)
	}
	if err == nil {
		err = record.Write(filepath.Join(d.cfg.Volumes.Path(to.memory), keptFile), kept{
			Version: recordVersion, EngineVersion: version, Resources: m.Spec.Resources, Network: m.Spec.Network == domain.NetworkNAT,
			BuildID: m.Spec.BuildID, Kernel: m.Kernel, Drives: m.Drives, CreatedAt: time.Now().UTC(),
		})
	}
	if err != nil {
		return 0, errors.Join(err, d.dropStored(context.WithoutCancel(ctx), to))
	}
	return frozen, nil
}

// save has a running machine's memory saved, and its disk copied.
func (d *Driver) save(ctx context.Context, m *machine, to stored) (time.Duration, error) {
	// What is cached is written while it still runs.
	if err := d.flush(m); err != nil {
		return 0, err
	}
	if err := d.cfg.Volumes.Create(ctx, to.memory, 0); err != nil {
		return 0, err
	}
	dir, err := d.memoryDir(to.memory)
	if err != nil {
		return 0, err
	}
	m.run.Still = true
	if err := d.saveRun(m); err != nil {
		return 0, err
	}
	d.hold(ctx, m)
	frozen, err := d.engine.Save(ctx, *m.run.Guest, Memory{Dir: dir}, false, func(ctx context.Context) error {
		return d.copyDisk(ctx, m, to)
	})
	switch {
	case m.run.Paused || m.run.Phase == phaseWaking:
	case err != nil:
		err = errors.Join(err, d.goOn(context.WithoutCancel(ctx), m))
	default:
		m.run.Still = false
		err = d.saveRun(m)
	}
	d.release(ctx, m)
	if err != nil {
		return 0, err
	}
	return frozen, seal(dir)
}

// DeleteSnapshot removes a snapshot; machines made from it keep their disks,
// and what they have of its memory. Absent is success. See [vmm.Snapshotter].
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshotID string) error {
	if !idForm.MatchString(snapshotID) {
		return nil // never ours
	}
	return d.dropStored(ctx, d.cfg.snapshot(snapshotID))
}

// dropStored removes a saved memory and its disk. Absent is success.
func (d *Driver) dropStored(ctx context.Context, at stored) error {
	// First what tells that the memory is whole.
	if err := record.Remove(filepath.Join(d.cfg.Volumes.Path(at.memory), keptFile)); err != nil {
		return err
	}
	return errors.Join(d.cfg.Volumes.Delete(ctx, at.memory), d.cfg.Volumes.Delete(ctx, at.disk))
}

// ListSnapshots names the snapshots here. See [vmm.Snapshotter].
func (d *Driver) ListSnapshots(ctx context.Context) ([]string, error) {
	return d.listStored(ctx, snapshotVolume, memoryVolume)
}

// listStored names what volumes of two kinds there are.
func (d *Driver) listStored(ctx context.Context, disks, memories string) ([]string, error) {
	volumes, err := d.cfg.Volumes.List(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, v := range volumes {
		id, ok := strings.CutPrefix(v, d.cfg.volumes(disks))
		if !ok {
			// A memory whose disk was never copied, of a call that was cut short.
			id, ok = strings.CutPrefix(v, d.cfg.volumes(memories))
		}
		if ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// sweep removes images that nobody has any more.
func (d *Driver) sweep(ctx context.Context) error {
	used := map[string]bool{}
	ids, err := d.recorded()
	if err != nil {
		return fault.Of(err, "cannot list the machines")
	}
	for _, id := range ids {
		m, err := d.load(id)
		if err != nil {
			return nil //nolint:nilerr // what it has is not known: nothing is removed
		}
		note(used, m.Drives)
	}
	snapshots, err := d.ListSnapshots(ctx)
	if err != nil {
		return err
	}
	keys, err := d.listStored(ctx, bootedVolume, bootedMemory)
	if err != nil {
		return err
	}
	var all []stored
	for _, id := range snapshots {
		all = append(all, d.cfg.snapshot(id))
	}
	for _, key := range keys {
		all = append(all, d.cfg.booted(key))
	}
	for _, at := range all {
		k, err := d.keptMemory(at)
		if errors.HasCode(err, errors.NotFound) {
			continue
		}
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		note(used, k.Drives)
	}
	return d.images.sweep(d.cfg.imagesDir(), used)
}

func note(used map[string]bool, drives []Drive) {
	for _, drive := range drives {
		used[drive.Path] = true
	}
}
