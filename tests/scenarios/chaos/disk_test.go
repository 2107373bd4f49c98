package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk is far less than there is for what a worker believes, and most of it
// is never written: what fills it is reserved, and nothing more.
const smallDisk = 64 << 30

// smallFiles is how many files it has room for, those of each template among them.
const smallFiles = "500000"

// disk is a file system of its own, which can be filled.
type disk struct {
	name, dir string
}

// newDisk makes one below a directory. It is gone with the test.
func (f *field) newDisk(below, name string) *disk {
	f.t.Helper()
	d := &disk{name: name, dir: filepath.Join(below, "disk")}
	image := d.dir + ".img"
	must(f.t, os.Mkdir(d.dir, 0o711)) //nolint:gosec // the mapped roots of VMs walk through it
	must(f.t, os.WriteFile(image, nil, 0o600))
	must(f.t, os.Truncate(image, smallDisk))
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-T", "largefile4", "-N", smallFiles, "-m", "0", image},
		{"mount", "-o", "loop,noinit_itable", image, d.dir},
	} {
		if out, err := exec.CommandContext(f.ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil { //nolint:gosec // they are above
			f.t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	f.t.Cleanup(func() { must(f.t, unix.Unmount(d.dir, 0)) })
	must(f.t, os.Chmod(d.dir, 0o711)) //nolint:gosec // the same
	return d
}

// ballast is the file that takes the room.
func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes all room that there is.
func (d *disk) fill() error {
	file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	size := int64(0)
	for step := int64(1 << 30); step >= 4096 && err == nil; {
		switch err = unix.Fallocate(int(file.Fd()), 0, size, step); { //nolint:gosec // a descriptor
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step, err = step/2, nil
		}
	}
	return errors.Join(err, file.Close())
}

func (d *disk) free() error { return os.Remove(d.ballast()) }

func (d *disk) full(hold time.Duration) fault {
	return fault{fmt.Sprintf("the disk of %s is full", d.name), hold, d.fill, d.free}
}
