package oci

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/upper"
)

// carrySlack is what a snapshot that is unpacked may take beyond its machine's
// disk: another file system may need more for the same files.
const carrySlack = 64 << 20

// PackSnapshot writes a snapshot's upper directory. See [vmm.Carrier].
func (d *Driver) PackSnapshot(ctx context.Context, snapshotID string, w io.Writer) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	volume := d.cfg.Volumes.Path(snapshotVolume + snapshotID)
	base, err := readOwner(volume)
	if err != nil {
		return fail(err, "cannot read whose the snapshot is")
	}
	if base != 0 {
		return errors.New(errors.Unsupported, "the snapshot is of a kernel that cannot map IDs, and stays on its host")
	}
	err = upper.Pack(ctx, w, filepath.Join(volume, upperDir))
	if errors.Is(err, os.ErrNotExist) {
		return errors.Wrap(err, errors.NotFound, "there is no such snapshot")
	}
	return fail(err, "cannot pack the snapshot")
}

// UnpackSnapshot makes a snapshot of what another host's driver has packed. See
// [vmm.Carrier].
func (d *Driver) UnpackSnapshot(ctx context.Context, snapshotID string, limit int64, r io.Reader) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	if limit != 0 {
		limit += carrySlack
	}
	return d.cfg.Volumes.Fill(ctx, snapshotVolume+snapshotID, limit, func(dir string) error {
		for _, name := range []string{upperDir, workDir} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil { //nolint:gosec // as makeLayerDirs
				return fail(err, "cannot prepare the volume")
			}
		}
		return fail(upper.Unpack(ctx, r, filepath.Join(dir, upperDir), limit), "cannot unpack the snapshot")
	})
}
