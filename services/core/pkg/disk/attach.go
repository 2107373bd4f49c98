package disk

import (
	"context"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// lockDir takes the data directory's volume lock; making and mounting a pool
// happens under it. It is let go when the process ends, however it ends.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail(err, "cannot make the data directory")
	}
	f, err := os.OpenFile(filepath.Join(dir, "vmdata.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fail(err, "cannot open the volume lock")
	}
	locked := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if err == unix.EINTR {
				continue
			}
			locked <- err
			return
		}
	}()
	release := func() { f.Close() }
	select {
	case err = <-locked:
		if err != nil {
			release()
			return nil, fail(err, "cannot take the volume lock")
		}
		return release, nil
	case <-ctx.Done():
		go func() { // the lock may still come; then let it go
			<-locked //nolint:errcheck // nobody waits for the lock any more
			release()
		}()
		return nil, ctx.Err()
	}
}

// attach finds or makes what keeps the volumes: what is mounted already, the
// data directory's own file system, or a file.
func (p *Pool) attach(ctx context.Context) (backend, error) {
	image := filepath.Join(p.cfg.Dir, "vmdata.img")
	mounted, err := isMountPoint(p.root)
	if err != nil {
		return nil, fail(err, "cannot read the volume directory")
	}
	_, err = os.Stat(image)
	haveImage := err == nil
	if haveImage {
		p.image = image
	}
	if mounted && haveImage && readOnly(p.root) {
		// It stays so until nobody has it mounted any more.
		if err := unmount(ctx, p.root); err != nil {
			return nil, errors.Join(held(err), ctx.Err())
		}
		p.log.Warn("the volumes had turned read-only, and are mounted anew")
		mounted = false
	}
	if mounted {
		if err := p.grow(); err != nil {
			return nil, err
		}
		return p.open(haveImage)
	}
	if !haveImage {
		if p.cfg.Backend == "" {
			if b, err := p.open(false); err == nil {
				return b, nil
			}
		}
		if err := p.format(ctx, image); err != nil {
			return nil, err
		}
		p.image = image
	}
	if err := mountImage(ctx, image, p.root); err != nil {
		return nil, err
	}
	if err := p.grow(); err != nil {
		return nil, err
	}
	return p.open(true)
}

// open takes the file system at root. own: it is the pool's alone.
func (p *Pool) open(own bool) (backend, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.root, &st); err != nil {
		return nil, fail(err, "cannot read the volume directory")
	}
	switch int64(st.Type) { //nolint:unconvert // Type differs by architecture
	case unix.XFS_SUPER_MAGIC:
		return newXFS(p.root, own && p.cfg.AcceptUnenforced)
	case unix.BTRFS_SUPER_MAGIC:
		b, err := newBtrfs(p.root, own)
		if err != nil {
			return nil, fail(err, "this btrfs cannot be used for volumes")
		}
		return b, nil
	}
	return nil, errors.New(errors.Unsupported, "the file system below the volumes has no reflink and quotas")
}

// isMountPoint reports whether something is mounted on dir.
func isMountPoint(dir string) (bool, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &stx); err != nil {
		return false, err
	}
	if stx.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 { // Linux 5.8
		return stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	var here, parent unix.Stat_t
	if err := errors.Join(unix.Lstat(dir, &here), unix.Lstat(filepath.Dir(dir), &parent)); err != nil {
		return false, err
	}
	return here.Dev != parent.Dev, nil
}

// mountImage mounts the file with what its file system is.
func mountImage(ctx context.Context, image, dir string) error {
	kind, err := imageKind(image)
	if err != nil {
		return err
	}
	// Another mount namespace may hold the file system still, though nothing is
	// mounted here; through a second device it would be there twice, and break.
	loop, err := deviceOf(image)
	elsewhere := err == nil
	if errors.HasCode(err, errors.NotFound) {
		loop, err = attachLoop(ctx, image)
	}
	if err != nil {
		return fail(err, "cannot attach the volume file to a loop device")
	}
	defer loop.Close()
	// Neither set-user-ID bits nor devices in guests' files mean anything on the
	// host; overlays on top have flags of their own.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	// btrfs keeps no checksums of what guests write, as XFS has none: with them
	// it does no direct I/O (it falls back to the page cache and waits for the
	// disk), which is three times slower. Its own structures keep theirs.
	options := map[string]string{BackendXFS: "prjquota,discard", BackendBtrfs: "discard=async,nodatasum"}[kind]
	if info, err := os.Stat(image); err == nil && reserved(info) {
		// What is freed stays the file's.
		options = map[string]string{BackendXFS: "prjquota", BackendBtrfs: "nodatasum"}[kind]
	}
	err = unix.Mount(loop.Name(), dir, kind, flags, options)
	if err == unix.EINVAL { //nolint:errorlint // a raw errno
		// A kernel without project quotas refuses the option.
		err = unix.Mount(loop.Name(), dir, kind, flags, "")
	}
	switch {
	case err != nil && elsewhere: // one that is well is mounted twice
		return held(err)
	case err != nil:
		return errors.Wrap(err, errors.Unsupported, "cannot mount the volume file (%s)", kind)
	}
	return nil
}

// readOnly reports whether a file system takes no writes. btrfs and XFS turn so by
// themselves when what they have to write cannot be written.
func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// held is why volumes that have turned read-only stay so.
func held(err error) error {
	return errors.Wrap(err, errors.Unavailable, "the volumes are read-only, as their file system met an error, and machines that still run hold it").
		WithHint("end the processes of this host's machines, or restart the host; what was on disk is kept")
}

// imageKind reads what the file was formatted as.
func imageKind(image string) (string, error) {
	f, err := os.Open(image)
	if err != nil {
		return "", fail(err, "cannot open the volume file")
	}
	defer f.Close()
	has := func(magic string, at int64) bool {
		buf := make([]byte, len(magic))
		_, err := f.ReadAt(buf, at)
		return err == nil && string(buf) == magic
	}
	switch {
	case has("XFSB", 0):
		return BackendXFS, nil
	case has("_BHRfS_M", 0x10040):
		return BackendBtrfs, nil
	}
	return "", errors.New(errors.Unsupported, "the volume file holds no file system known here").
		WithHint("move vmdata.img away to start with an empty one")
}
