package oci

import (
	"context"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Snapshot keeps a machine's disk under an ID of its own. See [vmm.Snapshotter].
// A snapshot that exists is the result of an earlier call.
func (d *Driver) Snapshot(ctx context.Context, id, snapshotID string, kind domain.SnapshotKind) (vmm.SnapshotInfo, error) {
	var info vmm.SnapshotInfo
	if kind != domain.SnapshotDisk {
		return info, errors.New(errors.Unsupported, "the %s driver keeps disks only", Name)
	}
	if !idForm.MatchString(snapshotID) {
		return info, errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return info, err
	}
	defer done()
	r, err := d.load(id)
	if err != nil {
		return info, err
	}
	if !r.Whole || r.run.Phase == phaseDeleting {
		return info, errors.New(errors.Conflict, "the machine is not whole")
	}
	volume, snapshot := d.cfg.paths(id).volume, snapshotVolume+snapshotID
	// A pause that was cut short may be on record alone.
	if r.run.Process.Alive(d.boot) && !(r.run.Paused && d.group(id).Frozen()) {
		// What is cached is written while the machine still runs, so that little
		// is left for the time it stands still.
		if err := d.cfg.Volumes.Sync(); err != nil {
			return info, fail(err, "cannot write the machine's disk")
		}
		info.Frozen, err = d.whileFrozen(ctx, id, func() error {
			return d.cfg.Volumes.Clone(ctx, volume, snapshot, 0)
		})
	} else {
		err = d.cfg.Volumes.Clone(ctx, volume, snapshot, 0)
	}
	if err != nil {
		return info, err
	}
	usage, err := d.cfg.Volumes.Usage(ctx, snapshot)
	if err != nil {
		return info, err
	}
	info.Bytes = usage.Used
	return info, nil
}

// whileFrozen does something while a running machine stands still, and tells
// how long it did. Should this process die meanwhile, the next driver lets the
// machine go on (see [New]).
func (d *Driver) whileFrozen(ctx context.Context, id string, do func() error) (time.Duration, error) {
	g := d.group(id)
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	start := time.Now()
	if err := g.Freeze(ctx); err != nil {
		return 0, err
	}
	err := do()
	err = errors.Join(err, g.Thaw())
	return time.Since(start), err
}

// DeleteSnapshot removes a snapshot; machines made from it keep their disks.
// Absent is success. See [vmm.Snapshotter].
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshotID string) error {
	if !idForm.MatchString(snapshotID) {
		return nil // never ours
	}
	return d.cfg.Volumes.Delete(ctx, snapshotVolume+snapshotID)
}

// ListSnapshots names the snapshots here. See [vmm.Snapshotter].
func (d *Driver) ListSnapshots(ctx context.Context) ([]string, error) {
	volumes, err := d.cfg.Volumes.List(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, v := range volumes {
		if id, ok := strings.CutPrefix(v, snapshotVolume); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
