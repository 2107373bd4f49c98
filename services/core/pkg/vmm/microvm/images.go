package microvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/once"
)

// images makes read-only images of directories and files, each once. They are shared by
// all machines and named by what is in them; links tell what they are of.
type images struct {
	making once.Works

	blanks sync.Mutex // an empty disk is made once
}

const (
	imageExt = ".erofs"
	// keepImages is how long an image that no machine has is kept.
	keepImages = 7 * 24 * time.Hour
	// maxFile is how large a file may be that is mounted alone.
	maxFile = 1 << 20

	cannotImage = "cannot make an image"
)

// drives are the images that a machine with a spec has beside its own disk, in
// the order of their devices; where its own disk comes, [Drive.Path] is empty.
func (i *images) drives(ctx context.Context, dir string, spec vmm.Spec) ([]Drive, error) {
	root, err := i.image(ctx, dir, "build-"+spec.BuildID, func() (string, error) { return makeImage(ctx, dir, spec.RootFS) })
	if err != nil {
		return nil, err
	}
	drives := []Drive{{Path: root, ReadOnly: true, Role: bootline.RoleRoot}, {Role: bootline.RoleDisk}}
	for _, m := range spec.Mounts {
		drive, err := i.mount(ctx, dir, m)
		if err != nil {
			return nil, err
		}
		drives = append(drives, drive)
	}
	return drives, nil
}

// mount gives the drive that shows a machine a directory of the host, or a file.
func (i *images) mount(ctx context.Context, dir string, m vmm.HostMount) (Drive, error) {
	info, err := os.Stat(m.Source)
	if err != nil {
		return Drive{}, errors.Wrap(err, errors.NotFound, "what is to be mounted is not there").WithField("mounts")
	}
	drive := Drive{ReadOnly: true}
	switch {
	case info.IsDir():
		drive.Role = bootline.RoleMount + m.Target
		drive.Path, err = i.image(ctx, dir, treeName(m.Source, info), func() (string, error) { return makeImage(ctx, dir, m.Source) })
	case info.Mode().IsRegular():
		var content []byte
		if content, err = readFile(m.Source); err != nil {
			return drive, err
		}
		drive.Role = bootline.RoleFile + m.Target
		drive.Path, err = i.image(ctx, dir, fileName(content, info.Mode()), func() (string, error) {
			return makeFileImage(ctx, dir, content, info.Mode().Perm())
		})
	default:
		err = errors.New(errors.InvalidArgument, "only directories and files can be mounted").WithField("mounts")
	}
	return drive, err
}

// treeName names the image of a directory of the host as it is now: what is
// shared with machines is put there whole and not changed. Another one that was
// put in its place has another time, should it have the same inode.
func treeName(source string, info os.FileInfo) string {
	var device, inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		device, inode = st.Dev, st.Ino
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d %d %d", source, device, inode, info.ModTime().UnixNano()))
	return "mount-" + hex.EncodeToString(sum[:12])
}

// fileName names the image of a file by all that is in it: files are small, and
// written anew where they are not changed.
func fileName(content []byte, mode os.FileMode) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%o\n%s", mode.Perm(), content))
	return "file-" + hex.EncodeToString(sum[:12])
}

// readFile reads a file that is to be mounted.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Of(err, "what is to be mounted cannot be read")
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		return nil, errors.New(errors.InvalidArgument, "a file that is mounted has at most %d bytes", maxFile).WithField("mounts")
	}
	return content, fault.Of(err, "what is to be mounted cannot be read")
}

// image gives the path of an image, which pack makes if need be. What is named
// here is a symbolic link to it: see [settle].
// Returns Unsupported, NoSpace.
func (i *images) image(ctx context.Context, dir, name string, pack func() (string, error)) (string, error) {
	link := filepath.Join(dir, name+imageExt)
	err := i.making.Do(ctx, name,
		func() (bool, error) { return used(link), nil },
		func() error {
			image, err := pack()
			if err != nil {
				return err
			}
			if err := os.Remove(link); err != nil && !os.IsNotExist(err) { // it led to what is gone
				return fault.Of(err, cannotImage)
			}
			return fault.Of(os.Symlink(filepath.Base(image), link), cannotImage)
		})
	if err != nil {
		return "", err
	}
	image, err := imageOf(link)
	return image, fault.Of(err, cannotImage)
}

// used notes the use of what is kept for a while after its last, if it is there.
func used(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// imageOf gives the path of the image that a link leads to. An image is its own:
// drivers of before named them by what they are made of.
func imageOf(path string) (string, error) {
	image, err := os.Readlink(path)
	if errors.Is(err, syscall.EINVAL) {
		return path, nil
	}
	return filepath.Join(filepath.Dir(path), image), err
}

// settle names an image that was written under another name by what is in it, so
// that the same files are there once whatever they came from.
func settle(ctx context.Context, written *os.File) (string, error) {
	// An image with a name is whole, also after the host lost its power.
	if err := errors.Join(written.Chmod(0o644), written.Sync()); err != nil {
		return "", fault.Of(err, cannotImage)
	}
	sum, err := readSum(ctx, written.Name())
	if err != nil {
		return "", fault.Of(err, cannotImage)
	}
	path := filepath.Join(filepath.Dir(written.Name()), imageName(sum))
	if used(path) {
		return path, nil // machines have it already
	}
	return path, fault.Of(os.Rename(written.Name(), path), cannotImage)
}

// makeImage packs a directory with its owners, modes, times and attributes. It
// is not compressed: a guest reads faster than it unpacks, and the host's page
// cache holds it once for all.
func makeImage(ctx context.Context, dir, source string) (string, error) {
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		return "", errors.New(errors.NotFound, "there is nothing to make an image of").WithField("rootfs")
	}
	// A name of its own: the tool of a process that was killed may still write.
	f, err := os.CreateTemp(dir, ".image-*")
	if err != nil {
		return "", fault.Of(err, cannotImage)
	}
	defer f.Close()
	defer os.Remove(f.Name()) // unless it has its name by then
	if err := tool(ctx, "mkfs.erofs", "erofs-utils", "--quiet", "-x1", f.Name(), source); err != nil {
		return "", err
	}
	return settle(ctx, f)
}

// makeFileImage packs a file alone.
func makeFileImage(ctx context.Context, dir string, content []byte, mode os.FileMode) (string, error) {
	alone, err := os.MkdirTemp(dir, ".file-")
	if err != nil {
		return "", fault.Of(err, cannotImage)
	}
	defer os.RemoveAll(alone)
	file := filepath.Join(alone, bootline.FileName)
	if err := errors.Join(os.WriteFile(file, content, 0o600), os.Chmod(file, mode), os.Chmod(alone, 0o755)); err != nil {
		return "", fault.Of(err, cannotImage)
	}
	return makeImage(ctx, dir, alone)
}

// tool runs a program that makes file systems.
func tool(ctx context.Context, name, pkg string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := exec.LookPath(name); err == nil {
		cmd.Path, cmd.Err = path, nil
	} else if _, err := os.Stat("/usr/sbin/" + name); err == nil {
		cmd.Path, cmd.Err = "/usr/sbin/"+name, nil
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return errors.Wrap(err, errors.Unsupported, "%s is not installed", name).WithHint("install %s", pkg)
	case strings.Contains(said.String(), syscall.ENOSPC.Error()):
		return errors.Wrap(err, errors.NoSpace, "no space is left for %s", name)
	}
	return errors.Wrap(errors.Join(err, errors.Plain(strings.TrimSpace(said.String()))), errors.Internal, "%s failed", name)
}

// sweep removes images that were not used for long and that no machine has, and
// links to what is not there any more.
func (i *images) sweep(dir string, inUse map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Of(err, "cannot list the images")
	}
	old := func(e os.DirEntry) bool {
		if strings.HasPrefix(e.Name(), ".") { // half of one
			return true
		}
		image, err := imageOf(filepath.Join(dir, e.Name()))
		if err != nil {
			return false
		}
		info, err := os.Stat(image)
		if err != nil {
			return os.IsNotExist(err)
		}
		return !inUse[image] && time.Since(info.ModTime()) > keepImages
	}
	for _, e := range entries {
		if old(e) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fault.Of(err, "cannot remove an image")
			}
		}
	}
	return nil
}

// blank gives the volume with an empty disk of a size, making it if need be.
func (d *Driver) blank(ctx context.Context, size int64) (string, error) {
	volume := d.cfg.volume(blankVolume, fmt.Sprint(size/mib))
	path := filepath.Join(d.cfg.Volumes.Path(volume), diskFile)
	d.images.blanks.Lock()
	defer d.images.blanks.Unlock()
	if used(path) {
		return volume, nil
	}
	// One that a crash cut short is made again from nothing.
	if err := d.cfg.Volumes.Delete(ctx, volume); err != nil {
		return "", err
	}
	if err := d.cfg.Volumes.Create(ctx, volume, 0); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".disk-*")
	if err != nil {
		return "", fault.Of(err, "cannot make a disk")
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return "", fault.Of(err, "cannot make a disk")
	}
	// Nothing is left for the guest to initialize later, behind its user's back:
	// what is not written is zero in a sparse file.
	err = tool(ctx, "mke2fs", "e2fsprogs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", "aetherium",
		"-O", "^resize_inode", "-E", "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0", f.Name())
	if err != nil {
		return "", err
	}
	return volume, fault.Of(errors.Join(f.Sync(), os.Rename(f.Name(), path)), "cannot make a disk")
}

// sweepBlanks removes empty disks that were not used for long.
func (d *Driver) sweepBlanks(ctx context.Context) error {
	volumes, err := d.cfg.Volumes.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if !strings.HasPrefix(v, d.cfg.volumes(blankVolume)) {
			continue
		}
		info, err := os.Stat(filepath.Join(d.cfg.Volumes.Path(v), diskFile))
		if err == nil && time.Since(info.ModTime()) < keepImages {
			continue
		}
		if err := d.cfg.Volumes.Delete(ctx, v); err != nil { // or it was never made wholly
			return err
		}
	}
	return nil
}
