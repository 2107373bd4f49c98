package docker

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Snapshot commits a machine's disk to an image. The engine freezes the machine
// while it copies what was written on top of the template, and lets it go on
// also if this process dies meanwhile. See [vmm.Snapshotter]. A snapshot that
// exists is the result of an earlier call.
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
	c, err := d.inspect(ctx, id)
	if err != nil {
		return info, err
	}
	if status(c) == vmm.StatusBroken {
		return info, errors.New(errors.Conflict, "the machine is being deleted")
	}
	ref := d.cfg.snapshotImage(snapshotID)
	has, err := d.has(ctx, ref)
	if err != nil {
		return info, err
	}
	if !has {
		ctx, cancel := wholly(ctx)
		defer cancel()
		begun := time.Now()
		_, err := d.engine.ContainerCommit(ctx, c.ID, client.ContainerCommitOptions{
			Reference: ref, Comment: "the disk of a machine", NoPause: c.State.Paused,
			Config: &container.Config{Labels: map[string]string{labelInstance: d.cfg.Instance, labelSnapshot: snapshotID}},
		})
		if err != nil {
			return info, said(err, "the Docker engine cannot keep the machine's disk")
		}
		if c.State.Running && !c.State.Paused {
			info.Frozen = time.Since(begun)
		}
	}
	info.Bytes, err = d.layerBytes(ctx, ref)
	return info, err
}

// layerBytes is the size of an image's uppermost layer.
func (d *Driver) layerBytes(ctx context.Context, ref string) (int64, error) {
	history, err := d.engine.ImageHistory(ctx, ref)
	if err != nil {
		return 0, said(err, "cannot look at the snapshot")
	}
	if len(history.Items) == 0 {
		return 0, nil
	}
	return history.Items[0].Size, nil
}

// DeleteSnapshot removes a snapshot; machines made from it keep their disks.
// Absent is success. See [vmm.Snapshotter].
func (d *Driver) DeleteSnapshot(ctx context.Context, snapshotID string) error {
	if !idForm.MatchString(snapshotID) {
		return nil // never ours
	}
	ref := d.cfg.snapshotImage(snapshotID)
	image, err := d.engine.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return said(err, "cannot look at the snapshot")
	}
	// A name that stands for nothing but that machines need it still.
	hash := strings.TrimPrefix(image.ID, "sha256:")
	kept := d.cfg.repository() + ":" + keptTag + hash[:min(len(hash), 32)]
	if _, err := d.engine.ImageTag(ctx, client.ImageTagOptions{Source: image.ID, Target: kept}); err != nil {
		return said(err, "cannot remove the snapshot")
	}
	if _, err := d.engine.ImageRemove(ctx, ref, client.ImageRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return said(err, "cannot remove the snapshot")
	}
	return d.trySweep(ctx)
}

// ListSnapshots names the snapshots here. See [vmm.Snapshotter].
func (d *Driver) ListSnapshots(ctx context.Context) ([]string, error) {
	list, err := d.engine.ImageList(ctx, client.ImageListOptions{Filters: d.mine()})
	if err != nil {
		return nil, said(err, "cannot list the images")
	}
	var ids []string
	for _, image := range list.Items {
		for _, ref := range image.RepoTags {
			if id, ok := strings.CutPrefix(ref, d.cfg.snapshotImage("")); ok {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}
