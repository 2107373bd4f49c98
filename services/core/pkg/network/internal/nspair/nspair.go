// Package nspair makes user and network namespaces together, as a pair, and
// keeps them without a process by bind mounts of their nsfs files.
//
// They are made together because a network namespace belongs for life to the
// user namespace that its creator was in (user_namespaces(7)): only a process
// of that user namespace may mount sysfs over it or be its root.
package nspair

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// The names of the two pins in a pair's directory.
const (
	UserFile = "user"
	NetFile  = "net"
)

// Identity is what the kernel calls the two namespaces: their nsfs inode
// numbers. They are unique while the namespaces live.
type Identity struct {
	User uint64 `json:"user"`
	Net  uint64 `json:"net"`
}

// Zero reports whether the identity is unset.
func (i Identity) Zero() bool { return i == Identity{} }

// Maker makes pairs. It is safe for concurrent use.
type Maker struct {
	program *os.File
}

// NewMaker returns Unsupported on a processor it has no program for, and
// Unavailable where the host lets none run from memory.
func NewMaker() (*Maker, error) {
	f, err := program()
	return &Maker{f}, err
}

// Close ends the making; what was made stays.
func (m *Maker) Close() error { return m.program.Close() }

// Make creates a pair whose user namespace maps 0..count-1 to the host's IDs
// base..base+count-1, and pins it in dir, which must exist and hold no pins.
// A pair half made by a failure or a crash is removed by [Remove].
// Returns Unavailable when the kernel refuses.
func (m *Maker) Make(ctx context.Context, dir string, base, count uint32) (Identity, error) {
	holder, err := m.startHolder(ctx, base, count)
	if err != nil {
		return Identity{}, errors.Wrap(err, errors.Unavailable, "the host refused a user and network namespace").
			WithHint("check /proc/sys/user/max_user_namespaces and max_net_namespaces")
	}
	defer holder.end()
	for _, name := range []string{UserFile, NetFile} {
		if err := pin(fmt.Sprintf("/proc/%d/ns/%s", holder.cmd.Process.Pid, name), filepath.Join(dir, name)); err != nil {
			return Identity{}, errors.Wrap(err, errors.Unavailable, "cannot pin a namespace")
		}
	}
	return Identify(dir)
}

// holder is a process that does nothing but be in the new namespaces until
// they are pinned. It reads a socket whose other end this process alone has, so
// it ends with this process whatever happens.
type holder struct {
	cmd  *exec.Cmd
	talk *os.File
}

// startHolder starts it as the range's first ID: a user namespace's owner is
// whoever makes it, and what the kernel counts per user and namespace (inotify,
// message queues; namespaces(7), getrlimit(2)) it counts for the owner, too. With
// one owner for all pairs, the guests of one could leave nothing to all others
// and to the host's root.
//
// A program makes them and not a clone(2) of this process, which would have to
// copy all of its page tables: a child that shares them cannot wait for its IDs.
func (m *Maker) startHolder(ctx context.Context, base, count uint32) (*holder, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	h := &holder{talk: os.NewFile(uintptr(ends[0]), "holder")}
	theirs := os.NewFile(uintptr(ends[1]), "holder")
	h.cmd = exec.CommandContext(ctx, fmt.Sprintf("/proc/self/fd/%d", m.program.Fd()))
	h.cmd.Args, h.cmd.Env, h.cmd.Dir = []string{"aetherium-namespaces"}, []string{}, "/"
	h.cmd.Stdin, h.cmd.Stdout, h.cmd.Stderr = theirs, theirs, theirs
	h.cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: base, Gid: base},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN}, // not everywhere may users make namespaces
		Setsid:      true,
	}
	err = h.cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = h.talk.Close()
		return nil, err
	}
	if _, err := h.talk.Read(make([]byte, 1)); err != nil {
		return nil, h.refused()
	}
	ids := fmt.Appendf(nil, "0 %d %d\n", base, count)
	for _, name := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", h.cmd.Process.Pid, name), ids, 0); err != nil {
			h.end()
			return nil, err
		}
	}
	return h, nil
}

// refused is why a holder ended by itself: its exit code is the error's number.
func (h *holder) refused() error {
	_ = h.talk.Close()
	err := h.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return os.NewSyscallError("unshare", syscall.Errno(exit.ExitCode()))
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (h *holder) end() {
	_ = h.cmd.Process.Kill()
	_ = h.talk.Close()
	_ = h.cmd.Wait()
}

func pin(source, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	_ = f.Close()
	return os.NewSyscallError("mount", unix.Mount(source, target, "", unix.MS_BIND, ""))
}

// Identify reads the identity of a pinned pair. Returns NotFound when one of
// the pins is missing or is no namespace.
func Identify(dir string) (Identity, error) {
	user, err := inode(filepath.Join(dir, UserFile))
	if err != nil {
		return Identity{}, err
	}
	net, err := inode(filepath.Join(dir, NetFile))
	return Identity{User: user, Net: net}, err
}

func inode(path string) (uint64, error) {
	var sfs unix.Statfs_t
	if err := unix.Statfs(path, &sfs); err != nil {
		return 0, errors.Wrap(err, errors.NotFound, "a namespace pin is missing")
	}
	if sfs.Type != unix.NSFS_MAGIC {
		return 0, errors.New(errors.NotFound, "a namespace pin is not mounted")
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, errors.Wrap(err, errors.NotFound, "a namespace pin is missing")
	}
	return st.Ino, nil
}

// Remove takes the pins away. Namespaces that no process is in end then.
// Absent pins are success.
func Remove(dir string) error {
	var all []error
	for _, name := range []string{NetFile, UserFile} {
		path := filepath.Join(dir, name)
		if err := unpin(path); err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

func unpin(path string) error {
	for {
		// A crash between two pinnings, or a second mount by someone else, can stack mounts.
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return os.NewSyscallError("umount2", err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
