package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shown is a file of the host that a monitor's root shows under a name.
type shown struct {
	name     string
	path     string
	writable bool
	device   bool
}

// library is where programs and what they need to run are, on any distribution.
func library() []string {
	return []string{"/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"}
}

// buildRoot gives the calling thread a mount namespace with a root that shows
// QEMU and a few files only, and nothing that can be written but those of them
// that may. at is a directory to mount it at; nobody else sees it.
func buildRoot(at, binary string, files []shown) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	b := &rootBuilder{at: at}
	b.do("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	files = slices.Concat(basics(), files)
	// The new root may come to lie on some of them.
	found := make([]int, len(files))
	for i, f := range files {
		fd, err := unix.Open(f.path, unix.O_PATH|unix.O_CLOEXEC, 0)
		b.do("find "+f.path, err)
		if err == nil {
			defer unix.Close(fd)
		}
		found[i] = fd
	}
	b.do("mount a root", unix.Mount("root", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"))
	for _, dir := range library() {
		b.tree(dir)
	}
	if !b.has(binary) {
		b.tree(filepath.Dir(filepath.Dir(binary)))
	}
	for i, f := range files {
		b.file(f, found[i])
	}
	b.do("close the root", unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""))
	if b.err != nil {
		return b.err
	}
	// pivot_root(2): the old root comes to lie on the new one, and goes.
	if err := unix.Chdir(at); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// basics are the files that every program wants.
func basics() []shown {
	files := []shown{
		{name: os.DevNull, path: os.DevNull, writable: true, device: true},
		{name: "/dev/urandom", path: "/dev/urandom", device: true},
	}
	const libraries = "/etc/ld.so.cache"
	if _, err := os.Stat(libraries); err == nil {
		files = append(files, shown{name: libraries, path: libraries})
	}
	return files
}

// rootBuilder remembers the first thing that went wrong.
type rootBuilder struct {
	at    string
	trees []string
	err   error
}

func (b *rootBuilder) do(what string, err error) {
	if b.err == nil && err != nil {
		b.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (b *rootBuilder) has(path string) bool {
	for _, t := range b.trees {
		if strings.HasPrefix(path, t+"/") {
			return true
		}
	}
	return false
}

// tree shows a directory of the host with all that is on its file system; a
// link stays one; what is not there is not shown.
func (b *rootBuilder) tree(path string) {
	info, err := os.Lstat(path)
	if err != nil || b.err != nil {
		return
	}
	place := filepath.Join(b.at, path)
	b.do("show "+path, os.MkdirAll(filepath.Dir(place), 0o755))
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		b.do("show "+path, err)
		b.do("show "+path, os.Symlink(to, place))
		return
	}
	b.do("show "+path, os.MkdirAll(place, 0o755))
	b.bind(path, place, unix.MS_RDONLY|unix.MS_NODEV)
	b.trees = append(b.trees, path)
}

func (b *rootBuilder) file(f shown, fd int) {
	if b.err != nil {
		return
	}
	place := filepath.Join(b.at, f.name)
	b.do("show "+f.name, os.MkdirAll(filepath.Dir(place), 0o755))
	// Made without being opened: a program that this process starts meanwhile would
	// have it open to write as well, until it begins, and the root could not be closed.
	b.do("show "+f.name, unix.Mknod(place, unix.S_IFREG|0o444, 0))
	flags := uintptr(unix.MS_NOEXEC)
	if !f.device {
		flags |= unix.MS_NODEV
	}
	if !f.writable {
		flags |= unix.MS_RDONLY
	}
	b.bind("/proc/thread-self/fd/"+strconv.Itoa(fd), place, flags)
}

func (b *rootBuilder) bind(from, to string, flags uintptr) {
	b.do("show "+from, unix.Mount(from, to, "", unix.MS_BIND, ""))
	b.do("protect "+from, unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|flags, ""))
}
