package oci

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/once"
)

// Volumes that copies of templates are kept in: one per build with the
// template's own IDs, and one per machine with that machine's.
const (
	templateVolume = "oci-t-"
	shiftedVolume  = "oci-c-"
)

// copiedLayers does without mapped mounts: each machine has a copy of its
// template in its own ID range, sharing blocks with the build's one copy, and
// its volume holds the range's IDs. When a volume changes ranges, by a fork or
// a reboot, every file changes its owner: slow, but right.
type copiedLayers struct {
	volumes   Volumes
	templates *templates
}

func (l *copiedLayers) mapping() IDMapping                        { return IDMapCopy }
func (l *copiedLayers) ownerOnDisk(net network.Attachment) uint32 { return net.IDBase }
func (l *copiedLayers) teardown(ctx context.Context) error        { return l.templates.drop(ctx, nil) }
func (l *copiedLayers) forget(ctx context.Context, machineID string) error {
	return l.volumes.Delete(ctx, shiftedVolume+machineID)
}

func (l *copiedLayers) prepare(ctx context.Context, spec vmm.Spec, net network.Attachment) error {
	volume := l.volumes.Path(machineVolume + spec.MachineID)
	if _, err := os.Stat(filepath.Join(volume, upperDir)); os.IsNotExist(err) {
		if err := makeLayerDirs(volume, spec.RootFS, net.IDBase); err != nil {
			return err
		}
		if err := writeOwner(volume, net.IDBase); err != nil {
			return err
		}
	}
	if err := moveOwner(ctx, volume, net.IDBase, net.IDCount, upperDir, workDir); err != nil {
		return err
	}
	if _, err := l.templates.copy(ctx, spec); err != nil {
		return err
	}
	if err := l.volumes.Clone(ctx, templateVolume+spec.BuildID, shiftedVolume+spec.MachineID, 0); err != nil {
		return err
	}
	return moveOwner(ctx, l.volumes.Path(shiftedVolume+spec.MachineID), net.IDBase, net.IDCount, templateDir)
}

func (l *copiedLayers) mount(ctx context.Context, spec vmm.Spec, net network.Attachment) (*os.File, error) {
	if err := l.prepare(ctx, spec, net); err != nil { // the range may be another one by now
		return nil, err
	}
	volume := l.volumes.Path(machineVolume + spec.MachineID)
	return overlay{
		lower: filepath.Join(l.volumes.Path(shiftedVolume+spec.MachineID), templateDir),
		upper: filepath.Join(volume, upperDir), work: filepath.Join(volume, workDir),
		owner: net, source: machineVolume + spec.MachineID,
	}.mount(nil)
}

// templateDir is where in its volume a template's copy is.
const templateDir = "root"

// templates keeps copies of builds' root filesystems among the volumes.
type templates struct {
	volumes Volumes
	copies  once.Works
}

// copy makes the copy of a machine's build if it is not there, and returns its root.
func (t *templates) copy(ctx context.Context, spec vmm.Spec) (string, error) {
	id := templateVolume + spec.BuildID
	root, done := filepath.Join(t.volumes.Path(id), templateDir), filepath.Join(t.volumes.Path(id), "complete")
	return root, t.copies.Do(ctx, id,
		func() (bool, error) {
			_, err := os.Stat(done)
			return err == nil, nil // whatever cannot be looked at is made again
		},
		func() error {
			if err := t.make(ctx, id, root, spec.RootFS); err != nil {
				return err
			}
			return fail(os.WriteFile(done, nil, 0o600), "cannot copy the template")
		})
}

func (t *templates) make(ctx context.Context, id, root, source string) error {
	// A copy that a crash cut short is made again from nothing.
	if err := t.volumes.Delete(ctx, id); err != nil {
		return err
	}
	if err := t.volumes.Create(ctx, id, 0); err != nil {
		return err
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return fail(err, "cannot copy the template")
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", "--", source+"/.", root).CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fail(errors.Join(err, errors.Plain(strings.TrimSpace(string(out)))), "cannot copy the template")
	}
	// It is trusted for ever: what it has must be on the disk before it says so.
	return fail(t.volumes.Sync(), "cannot copy the template")
}

// drop removes copies of builds that are not in use.
func (t *templates) drop(ctx context.Context, inUse map[string]bool) error {
	ids, err := t.volumes.List(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if build, ok := strings.CutPrefix(id, templateVolume); ok && !inUse[build] {
			err = errors.Join(err, t.volumes.Delete(ctx, id))
		}
	}
	return err
}

// ownerFile holds the first ID of the range that a volume's files belong to.
const ownerFile = "owner"

func writeOwner(volume string, base uint32) error {
	return fail(writeFile(filepath.Join(volume, ownerFile), strconv.FormatUint(uint64(base), 10)), "cannot prepare the volume")
}

func readOwner(volume string) (uint32, error) {
	raw, err := os.ReadFile(filepath.Join(volume, ownerFile))
	if os.IsNotExist(err) {
		return 0, nil // written by machines with mapped mounts
	} else if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32)
	return uint32(n), err
}

// moveOwner moves the files in directories of a volume from the range they
// belong to into the one that begins at base. Ranges do not overlap, so a walk
// that a crash cut short is simply made again.
func moveOwner(ctx context.Context, volume string, base, count uint32, dirs ...string) error {
	from, err := readOwner(volume)
	if err != nil {
		return fail(err, "cannot read whose volume it is")
	}
	if from == base {
		return nil
	}
	for _, dir := range dirs {
		s := shifter{ctx: ctx, from: from, to: base, count: count, seen: map[uint64]bool{}}
		if err := s.tree(filepath.Join(volume, dir)); err != nil {
			return fail(err, "cannot move the volume to the machine's IDs")
		}
	}
	return writeOwner(volume, base)
}

// writeFile replaces a file whole.
func writeFile(path, content string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
