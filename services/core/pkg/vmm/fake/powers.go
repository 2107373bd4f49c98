package fake

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/upper"
)

// SetHostname notes a machine's new name; its processes have the host's.
func (d *Driver) SetHostname(ctx context.Context, id, hostname string) error {
	m, err := d.machine(id)
	if err != nil {
		return err
	}
	if err := d.node.stumble(ctx, OpRename, m.deleted); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spec.Hostname = hostname
	return nil
}

// Pause stops the machine's processes and its stream.
func (d *Driver) Pause(ctx context.Context, id string, mode domain.PauseMode) error {
	m, err := d.machine(id)
	if err != nil {
		return err
	}
	switch {
	case mode == domain.PauseFreeze:
		return m.pause(true)
	case mode == domain.PauseMemory && d.node.keepsMemory():
		return d.sleep(ctx, m)
	}
	return errors.New(errors.Unsupported, "the fake driver cannot pause by %s", mode)
}

// Resume lets them go on.
func (d *Driver) Resume(ctx context.Context, id string) error {
	m, err := d.machine(id)
	if err != nil {
		return err
	}
	if err := d.node.stumble(ctx, OpResume, m.deleted); err != nil {
		return err
	}
	m.starting.Lock()
	defer m.starting.Unlock()
	if arrived := m.arrival(); arrived != nil {
		return d.arrive(ctx, m, *arrived)
	}
	return m.pause(false)
}

// Snapshot copies the machine's files while it stands still, and notes what
// runs in it for kind memory.
func (d *Driver) Snapshot(ctx context.Context, id, snapshotID string, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	m, err := d.machine(id)
	if err != nil {
		return vmm.SnapshotInfo{}, err
	}
	if kind != domain.SnapshotDisk && (kind != domain.SnapshotMemory || !d.node.keepsMemory()) {
		return vmm.SnapshotInfo{}, errors.New(errors.Unsupported, "the fake driver makes no snapshots of kind %s", kind)
	}
	if !idForm.MatchString(snapshotID) {
		return vmm.SnapshotInfo{}, errors.New(errors.InvalidArgument, "the snapshot's ID is malformed")
	}
	if err := d.node.stumble(ctx, OpSnapshot, m.deleted); err != nil {
		return vmm.SnapshotInfo{}, err
	}
	var mem memory
	if kind == domain.SnapshotMemory {
		if mem, err = d.snapshotMemory(ctx, m); err != nil {
			return vmm.SnapshotInfo{}, err
		}
	}
	began := time.Now()
	if _, status := m.current(); status == vmm.StatusRunning {
		if err := m.pause(true); err != nil {
			return vmm.SnapshotInfo{}, err
		}
		defer func() { _ = m.pause(false) }() // it may have been killed meanwhile
	}
	to := filepath.Join(d.node.snapshots(), snapshotID)
	if err := os.RemoveAll(to); err != nil { // half of an earlier try
		return vmm.SnapshotInfo{}, errors.Wrap(err, errors.Internal, "the snapshot cannot be made")
	}
	if err := os.CopyFS(to, os.DirFS(m.home())); err != nil {
		_ = os.RemoveAll(to)
		return vmm.SnapshotInfo{}, errors.Wrap(err, errors.Internal, "the snapshot cannot be made")
	}
	info := vmm.SnapshotInfo{Bytes: size(to), Frozen: time.Since(began)}
	if kind == domain.SnapshotMemory {
		err = d.node.keep(snapshotID, mem)
		info.MemoryVersion = d.node.Version()
		if m.asleep() {
			m.mu.Lock()
			info.MemoryVersion = m.savedBy
			m.mu.Unlock()
		}
	}
	return info, err
}

// DeleteSnapshot removes a snapshot; absent is success.
func (d *Driver) DeleteSnapshot(_ context.Context, snapshotID string) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "the snapshot's ID is malformed")
	}
	return errors.Join(os.RemoveAll(filepath.Join(d.node.snapshots(), snapshotID)), os.RemoveAll(d.node.memoryFile(snapshotID)))
}

// PackSnapshot writes a snapshot's files.
func (d *Driver) PackSnapshot(ctx context.Context, snapshotID string, w io.Writer) error {
	if err := d.node.stumble(ctx, OpPack, nil); err != nil {
		return err
	}
	err := upper.Pack(ctx, w, filepath.Join(d.node.snapshots(), snapshotID))
	if errors.Is(err, os.ErrNotExist) {
		return errors.Wrap(err, errors.NotFound, "there is no such snapshot")
	}
	return err
}

// UnpackSnapshot makes a snapshot of what another node has packed.
func (d *Driver) UnpackSnapshot(ctx context.Context, snapshotID string, limit int64, r io.Reader) error {
	if err := d.node.stumble(ctx, OpUnpack, nil); err != nil {
		return err
	}
	to := filepath.Join(d.node.snapshots(), snapshotID)
	if _, err := os.Lstat(to); err == nil {
		return nil // the result of an earlier call
	}
	if err := os.MkdirAll(d.node.snapshots(), 0o700); err != nil {
		return errors.Wrap(err, errors.Internal, "the snapshot cannot be made")
	}
	_, r, err := readMemory(r)
	if err != nil {
		return err
	}
	return d.unpack(ctx, snapshotID, to, limit, r)
}

// unpack makes a directory, wholly or not at all, of files that were packed.
func (d *Driver) unpack(ctx context.Context, id, to string, limit int64, r io.Reader) error {
	half := filepath.Join(d.node.dir, "half-"+id)
	if err := errors.Join(os.RemoveAll(half), os.Mkdir(half, 0o700)); err != nil {
		return errors.Wrap(err, errors.Internal, "what was packed cannot be unpacked")
	}
	if err := upper.Unpack(ctx, r, half, limit); err != nil {
		return errors.Join(err, os.RemoveAll(half))
	}
	if err := os.Rename(half, to); err != nil {
		return errors.Wrap(err, errors.Internal, "what was packed cannot be unpacked")
	}
	return nil
}

// ListSnapshots tells the snapshots on the node.
func (d *Driver) ListSnapshots(context.Context) ([]string, error) { return d.node.Snapshots() }

// Snapshots tells the snapshots on the node.
func (n *Node) Snapshots() ([]string, error) {
	entries, err := os.ReadDir(n.snapshots())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Wrap(err, errors.Internal, "the snapshots cannot be listed")
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Trace tells where the time of the last start went.
func (d *Driver) Trace(_ context.Context, id string) ([]vmm.Phase, error) {
	m, err := d.machine(id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.phases), nil
}

// Usage adds up what the machine's processes and files use now. Times of
// processes that have ended are not known.
func (d *Driver) Usage(_ context.Context, id string) (vmm.Usage, error) {
	m, err := d.machine(id)
	if err != nil {
		return vmm.Usage{}, err
	}
	r, _ := m.current()
	if r == nil || m.asleep() {
		return vmm.Usage{}, errors.New(errors.Conflict, "the machine does not run")
	}
	u := vmm.Usage{
		At: time.Now().UTC(), DiskBytes: size(m.home()),
		MemoryLimit: m.spec.Resources.MemoryBytes, DiskLimit: m.spec.Resources.DiskBytes,
	}
	for _, p := range m.processesOf(r) {
		u.PIDs++
		u.CPUTime += p.cpu
		u.MemoryBytes += p.resident
	}
	u.MemoryPeak = u.MemoryBytes
	return u, nil
}

// size adds up the files below a directory; what goes away meanwhile counts nothing.
func size(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}
