package host

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// runtimeDir is where what a reboot ends is kept.
func runtimeDir(s Settings, instance string) string {
	if s.RuntimeDir != "" {
		return s.RuntimeDir
	}
	return filepath.Join("/run", "aetherium-"+instance)
}

// runtimeSize bounds the runtime directory: the agent's binary, and a few tens
// of kilobytes a machine.
const runtimeSize = "256m"

// openRuntimeDir makes the runtime directory, in memory: each start of a
// machine makes some twenty files there, which costs a disk's file system ten
// and more milliseconds where that memory costs none. Usually /run is in
// memory; where it is not, a file system of our own is mounted. One that is in
// use from before is left as it is.
func openRuntimeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // the mapped roots of VMs walk through it
		return errors.Wrap(err, errors.Internal, "the runtime directory %s cannot be made", dir)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return errors.Wrap(err, errors.Internal, "the runtime directory %s cannot be read", dir)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 || int64(fs.Type) == unix.TMPFS_MAGIC { //nolint:unconvert // Type differs by architecture
		return err
	}
	err := unix.Mount("aetherium", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711,size="+runtimeSize)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "a file system in memory cannot be mounted at the runtime directory %s", dir)
	}
	return nil
}

// removeRuntimeDir undoes openRuntimeDir. Absent is success.
func removeRuntimeDir(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) { // somebody looks at it
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: nothing is mounted there
		return errors.Wrap(err, errors.Internal, "the runtime directory cannot be unmounted")
	}
	if err := os.RemoveAll(dir); err != nil {
		return errors.Wrap(err, errors.Internal, "the runtime directory cannot be removed")
	}
	return nil
}
