package oci

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// stage is a mount namespace with little more in it than an OCI runtime needs
// to start a machine. Every start makes a copy of it, mounts the machine's root
// there, and runs the runtime in it. So what is mounted for a machine is gone
// with its last process, whatever happens to this one; the host's mount table
// stays as it was; and a start costs the same with one machine and with a
// thousand, for to make a mount namespace is to copy one (mount_namespaces(7)).
type stage struct {
	ns *os.File
}

// openStage makes a stage in which the file systems that lead to the given
// paths are mounted, and those that every container is made of, but none of
// those to hide.
func openStage(hide []string, paths ...string) (*stage, error) {
	needed := make([]string, 0, len(paths))
	for _, p := range paths {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return nil, err
		}
		needed = append(needed, real)
	}
	s := new(stage)
	err := onOwnThread(func() error {
		if err := ownMounts(); err != nil {
			return err
		}
		mounts, err := mountPoints()
		if err != nil {
			return err
		}
		// Later mounts may be on earlier ones.
		for _, m := range slices.Backward(mounts) {
			if slices.Contains(hide, m) || !onStage(m, needed) {
				// One that is below another that is gone is gone, too.
				if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT { //nolint:errorlint // a raw errno
					return &os.PathError{Op: "umount", Path: m, Err: err}
				}
			}
		}
		s.ns, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "cannot make a mount namespace")
	}
	return s, nil
}

// ownMounts gives the calling thread a mount namespace of its own, from which
// nothing gets back to where it was copied from.
func ownMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// onStage reports whether a mount is needed: because a needed path is on it or
// below it, or because containers get devices, /proc, /sys and control groups.
func onStage(mount string, needed []string) bool {
	switch mount {
	case "/", "/proc", "/sys", "/dev":
		return true
	}
	if within(mount, "/sys/fs/cgroup") {
		return true
	}
	return slices.ContainsFunc(needed, func(p string) bool { return within(p, mount) })
}

// mountPoints lists the calling thread's mounts in the order of the table
// (proc_pid_mountinfo(5): field 5, with blanks and backslashes in octal).
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			all = append(all, unescapeOctal(fields[4]))
		}
	}
	return all, lines.Err()
}

// unescapeOctal undoes the kernel's mangle_path: \ooo is a byte.
func unescapeOctal(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(b))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// enter moves the calling thread, which must not be used for anything else
// afterwards, into a copy of the stage.
func (s *stage) enter() error {
	// A thread that shares its root and working directory cannot change namespaces.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNS))
}

func (s *stage) close() error { return s.ns.Close() }
