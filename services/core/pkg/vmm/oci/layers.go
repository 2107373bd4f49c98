package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"golang.org/x/sys/unix"
)

// layers makes a machine's root of its template and its volume. A volume holds
// two directories of overlayfs: upper and work.
type layers interface {
	mapping() IDMapping
	// prepare gets what must be done once per machine out of Start's way.
	prepare(ctx context.Context, spec vmm.Spec, net network.Attachment) error
	// mount makes the root's mount, which is not attached anywhere yet.
	mount(ctx context.Context, spec vmm.Spec, net network.Attachment) (*os.File, error)
	// ownerOnDisk is the ID on disk of what the machine's root owns in its volume.
	ownerOnDisk(net network.Attachment) uint32
	// forget removes what was made for a machine beside its volume.
	forget(ctx context.Context, machineID string) error
	// teardown removes what is kept for later machines.
	teardown(ctx context.Context) error
}

const (
	upperDir = "upper"
	workDir  = "work"
)

// chooseLayers takes the configured way, or finds out by mounting whether this
// kernel can map IDs below an overlay.
func (d *Driver) chooseLayers(ctx context.Context) (layers, error) {
	copies := &templates{volumes: d.cfg.Volumes}
	mounted := &mountedLayers{volumes: d.cfg.Volumes, templates: copies, stage: d.stage, spots: d.cfg.attachSpots()}
	mounted.attach.Store(d.cfg.attachLayers)
	copied := &copiedLayers{volumes: d.cfg.Volumes, templates: copies}
	switch d.cfg.IDMapping {
	case IDMapMount:
		return mounted, nil
	case IDMapCopy:
		return copied, nil
	}
	err := d.tryLayers(ctx, mounted)
	if err == nil {
		return mounted, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	d.log.Info("this host cannot map IDs below an overlay: templates are copied per machine", "reason", err)
	return copied, nil
}

// tryLayers mounts an empty root, writes a file into it as a guest would, and
// looks what it is on disk.
func (d *Driver) tryLayers(ctx context.Context, l layers) (err error) {
	// Named after the process, so that one that dies here is found and cleaned up
	// as a machine that nobody knows.
	id := fmt.Sprintf("probe-%d", os.Getpid())
	p := d.cfg.paths(id)
	defer func() {
		err = errors.Join(err, os.RemoveAll(p.bundle),
			d.cfg.Volumes.Delete(context.WithoutCancel(ctx), p.volume),
			d.cfg.Network.Release(context.WithoutCancel(ctx), id))
	}()
	net, err := d.cfg.Network.Acquire(ctx, id, domain.NetworkNone, "")
	if err != nil {
		return err
	}
	if err := d.cfg.Volumes.Create(ctx, p.volume, 0); err != nil {
		return err
	}
	// Where a machine's bundle is: that is removed whole, whatever is in it.
	lower := filepath.Join(p.bundle, "lower")
	if err := os.MkdirAll(lower, 0o755); err != nil {
		return err
	}
	spec := vmm.Spec{MachineID: id, BuildID: id, RootFS: lower}
	if err := l.prepare(ctx, spec, net); err != nil {
		return err
	}
	root, err := l.mount(ctx, spec, net)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := onOwnThread(func() error {
		if err := actAs(net.IDBase); err != nil {
			return err
		}
		return os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/file", root.Fd()), []byte("x"), 0o600)
	}); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(d.cfg.Volumes.Path(p.volume), upperDir, "file"), &st); err != nil {
		return err
	}
	if st.Uid != l.ownerOnDisk(net) {
		return errors.New(errors.Unsupported, "IDs come out wrong")
	}
	return nil
}

// makeLayerDirs makes a volume's directories if they are not there. The upper
// directory's owner and mode are those of the machine's "/".
func makeLayerDirs(volume, rootFS string, owner uint32) error {
	var root unix.Stat_t
	if err := unix.Stat(rootFS, &root); err != nil {
		return errors.Wrap(err, errors.NotFound, "the template's root filesystem is not there")
	}
	for _, dir := range []struct {
		name string
		mode uint32
	}{{workDir, 0o755}, {upperDir, root.Mode & 0o7777}} {
		path := filepath.Join(volume, dir.name)
		switch err := unix.Mkdir(path, 0o700); err {
		case nil:
		case unix.EEXIST:
			continue
		default:
			return fail(err, "cannot prepare the volume")
		}
		if err := errors.Join(unix.Lchown(path, int(owner), int(owner)), unix.Chmod(path, dir.mode)); err != nil {
			return fail(err, "cannot prepare the volume")
		}
	}
	return nil
}

// mountedLayers sees template and volume through mapped mounts; on disk a
// file's owner is what the guest sees, whichever range the machine has.
type mountedLayers struct {
	volumes   Volumes
	templates *templates
	stage     *stage
	spots     [2]string // directories where something can be mounted on a copy of the stage
	// attach: this kernel (before Linux 6.15) takes layers only from mounts that
	// are in the caller's mount namespace.
	attach atomic.Bool
}

func (l *mountedLayers) mapping() IDMapping                    { return IDMapMount }
func (l *mountedLayers) ownerOnDisk(network.Attachment) uint32 { return 0 }
func (l *mountedLayers) forget(context.Context, string) error  { return nil }
func (l *mountedLayers) teardown(ctx context.Context) error    { return l.templates.drop(ctx, nil) }

func (l *mountedLayers) prepare(_ context.Context, spec vmm.Spec, _ network.Attachment) error {
	volume := l.volumes.Path(machineVolume + spec.MachineID)
	return makeLayerDirs(volume, spec.RootFS, 0)
}

func (l *mountedLayers) mount(ctx context.Context, spec vmm.Spec, net network.Attachment) (*os.File, error) {
	dir := l.volumes.Path(machineVolume + spec.MachineID)
	// A volume from when the kernel could not map holds a range's IDs.
	if err := moveOwner(ctx, dir, 0, net.IDCount, upperDir, workDir); err != nil {
		return nil, err
	}
	lower, err := mappedTree(spec.RootFS, net.UserNS)
	if errors.Is(err, unix.EINVAL) {
		// The template's file system cannot map IDs; the volumes' can.
		var copied string
		if copied, err = l.templates.copy(ctx, spec); err == nil {
			lower, err = mappedTree(copied, net.UserNS)
		}
	}
	if err != nil {
		return nil, fail(err, "cannot map the template's IDs")
	}
	defer lower.Close()
	volume, err := mappedTree(dir, net.UserNS)
	if err != nil {
		return nil, fail(err, "cannot map the volume's IDs")
	}
	defer volume.Close()
	root := overlay{
		lower: fmt.Sprintf("/proc/self/fd/%d", lower.Fd()),
		upper: fmt.Sprintf("/proc/self/fd/%d/%s", volume.Fd(), upperDir),
		work:  fmt.Sprintf("/proc/self/fd/%d/%s", volume.Fd(), workDir),
		owner: net, source: machineVolume + spec.MachineID,
	}
	if !l.attach.Load() {
		if tree, err := root.mount(nil); !errors.Is(err, unix.EINVAL) {
			return tree, err
		}
	}
	// On a copy of the stage that ends with the thread; overlayfs has clones of
	// the mounts then.
	tree, err := root.mount(func() error {
		if err := l.stage.enter(); err != nil {
			return err
		}
		for i, layer := range []*os.File{lower, volume} {
			if err := attachTree(layer, l.spots[i]); err != nil {
				return &os.PathError{Op: "move_mount", Path: l.spots[i], Err: err}
			}
		}
		return nil
	})
	if err == nil {
		l.attach.Store(true)
	}
	return tree, err
}
