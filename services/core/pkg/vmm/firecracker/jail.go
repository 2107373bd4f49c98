package firecracker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// Where a monitor finds things in its root. Saved devices name them, so they
// are the same for every guest.
const (
	jailKernel = "/kernel"
	jailInitrd = "/initrd"
	jailRun    = "/run"
	jailSave   = "/save" // where a snapshot's directory is mounted while it is taken
	jailState  = "/snapshot/state"
	jailMemory = "/snapshot/memory"
	jailVoid   = "/void" // an empty directory: the page server's root
)

func jailDrive(i int) string { return "/drives/" + strconv.Itoa(i) }

// jailSize bounds what is written in a monitor's root: Firecracker's copy, which
// the jailer makes, and what a monitor may want to put there, which is nothing.
const jailSize = "16m"

// jail is the root of a monitor.
type jail struct {
	base string // an empty directory of the host; a file system is mounted there that nobody else sees
	root string // below it, where the jailer makes the root
	run  string // the directory of the host that is jailRun
	made bool   // its directories are there
	// files of the host that the root shows, by their names there.
	files []jailed
}

type jailed struct {
	name     string
	path     string
	writable bool
}

func newJail(g microvm.Guest, binary string) *jail {
	base := filepath.Join(g.Dir, "jail")
	j := &jail{base: base, root: filepath.Join(base, filepath.Base(binary), g.ID, "root"), run: runDir(g)}
	for i, d := range g.Drives {
		j.files = append(j.files, jailed{jailDrive(i), d.Path, !d.ReadOnly})
	}
	return j
}

// makeDirs makes what has to be on the host.
func (j *jail) makeDirs(uid uint32) error {
	if j.made {
		return nil
	}
	if err := os.Mkdir(j.base, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(j.run, 0o700); err != nil {
		return err
	}
	return os.Chown(j.run, int(uid), int(uid))
}

// build gives the calling thread a mount namespace in which the root is made.
// The jailer makes a copy of that, and both end with their last process.
func (j *jail) build() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	b := new(builder)
	b.do("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	// Devices are made in there, and a program is run.
	b.do("mount a root", unix.Mount("jail", j.base, "tmpfs", unix.MS_NOSUID, "mode=755,size="+jailSize))
	for _, dir := range []string{jailRun, jailSave, jailVoid} {
		b.do("make the root", os.MkdirAll(filepath.Join(j.root, dir), 0o755)) // the monitor passes
	}
	b.bind(j.run, filepath.Join(j.root, jailRun), true)
	for _, f := range j.files {
		place := filepath.Join(j.root, f.name)
		b.do("make the root", os.MkdirAll(filepath.Dir(place), 0o755))
		b.do("make the root", os.WriteFile(place, nil, 0o444))
		b.bind(f.path, place, f.writable)
	}
	return b.err
}

// builder remembers the first thing that went wrong.
type builder struct{ err error }

func (b *builder) do(what string, err error) {
	if b.err == nil && err != nil {
		b.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (b *builder) bind(from, to string, writable bool) {
	if b.err != nil {
		return
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if !writable {
		flags |= unix.MS_RDONLY
	}
	b.do("show "+from, unix.Mount(from, to, "", unix.MS_BIND, ""))
	b.do("protect "+from, unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""))
}

// inside mounts a directory of the host in a running monitor's root, calls f,
// and takes it away again.
func inside(pid int, dir, at string, f func() error) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	defer unix.Close(tree)
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	err = within(ns, func() error {
		_ = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // of one who died here
		// The monitor can put links into its root; none is followed.
		return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH))
	})
	if err != nil {
		return err
	}
	result := f()
	err = within(ns, func() error {
		return os.NewSyscallError("umount", unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	})
	if result == nil && err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		result = err
	}
	return result
}
