package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"golang.org/x/sys/unix"
)

var _ vmm.Flattener = (*Driver)(nil)

// Flatten shows a snapshot on its template. See [vmm.Flattener]. The mount
// that read sees is nowhere in the file system: it is gone when this call
// returns, or with this process.
func (d *Driver) Flatten(ctx context.Context, snapshotID, rootFS string, read func(vmm.Flat) error) error {
	if !idForm.MatchString(snapshotID) {
		return errors.New(errors.InvalidArgument, "this is not a snapshot ID")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	volume := d.cfg.Volumes.Path(snapshotVolume + snapshotID)
	base, err := readOwner(volume)
	if err != nil {
		return fail(err, "cannot read whose the snapshot is")
	}
	flat := vmm.Flat{Upper: filepath.Join(volume, upperDir)}
	if base != 0 {
		// A volume of a kernel that cannot map: the template's files have the
		// guest's IDs, the others those of the range.
		flat.ID = func(id uint32) uint32 {
			if id >= base {
				return id - base
			}
			return id
		}
	}
	mount, err := readOnlyOverlay(flat.Upper, rootFS)
	if errors.Is(err, os.ErrNotExist) {
		return errors.Wrap(err, errors.NotFound, "there is no such snapshot, or its template is gone")
	}
	if err != nil {
		return fail(err, "cannot show the snapshot's files")
	}
	defer mount.Close()
	// The dot: a link in /proc is not followed by those who follow no links.
	flat.Dir = fmt.Sprintf("/proc/self/fd/%d/.", mount.Fd())
	return read(flat)
}

// readOnlyOverlay is a detached mount of one directory on top of another.
func readOnlyOverlay(upper, lower string) (*os.File, error) {
	// By descriptors: paths may hold what the option's syntax does not allow.
	var layers [2]*os.File
	for i, dir := range []string{upper, lower} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		layers[i] = os.NewFile(uintptr(fd), dir)
		defer layers[i].Close()
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	for _, option := range [][2]string{
		{"lowerdir", fmt.Sprintf("/proc/self/fd/%d:/proc/self/fd/%d", layers[0].Fd(), layers[1].Fd())},
		{"redirect_dir", "follow"}, {"xino", "auto"}, {"index", "off"}, {"metacopy", "off"},
	} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return nil, fmt.Errorf("%s: %w%s", option[0], err, complaints(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("overlay: %w%s", err, complaints(fs))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return os.NewFile(uintptr(mnt), "overlay"), nil
}
