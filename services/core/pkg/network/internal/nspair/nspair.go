// Package nspair makes user and network namespaces together, as a pair, and
// keeps them without a process by bind mounts of their nsfs files.
//
// They are made together because a network namespace belongs for life to the
// user namespace that its creator was in (user_namespaces(7)): only a process
// of that user namespace may mount sysfs over it or be its root.
package nspair

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// Make creates a pair whose user namespace maps 0..count-1 to the host's IDs
// base..base+count-1, and pins it in dir, which must exist and hold no pins.
// A pair half made by a failure or a crash is removed by [Remove].
// Returns Unavailable when the kernel refuses.
func Make(ctx context.Context, dir string, base, count uint32) (Identity, error) {
	holder, err := startHolder(ctx, base, count)
	if err != nil {
		return Identity{}, errors.Wrap(err, errors.Unavailable, "the host refused a user and network namespace").
			WithHint("it takes the program unshare; check /proc/sys/user/max_user_namespaces and max_net_namespaces, too")
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
// they are pinned. It reads a pipe that only this process writes to, so it
// ends with this process whatever happens.
type holder struct {
	cmd  *exec.Cmd
	pipe io.Closer
}

// startHolder starts it as the range's first ID: a user namespace's owner is
// whoever makes it, and what the kernel counts per user and namespace (inotify,
// message queues; namespaces(7), getrlimit(2)) it counts for the owner, too. With
// one owner for all pairs, the guests of one could leave nothing to all others
// and to the host's root.
//
// unshare(1) makes them and not a clone(2) of this process, which would have to
// copy all of its page tables: a child that shares them cannot wait for its IDs.
func startHolder(ctx context.Context, base, count uint32) (*holder, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program("unshare"), "-U", "-n", program("cat"))
	cmd.Env, cmd.Dir, cmd.Stderr = []string{}, "/", &said
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: base, Gid: base},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN}, // not everywhere may users make namespaces
		Setsid:      true,
	}
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		return nil, err
	}
	err := cmd.Start()
	if err != nil {
		return nil, err
	}
	h := &holder{cmd: cmd, pipe: in}
	// What comes back has been through cat, so the namespaces are made.
	echo := []byte{'\n'}
	_, err = in.Write(echo)
	if err == nil {
		_, err = io.ReadFull(out, echo)
	}
	if err != nil {
		h.end() // and has said all it has to say
		return nil, errors.Join(errors.Plain(strings.TrimSpace(said.String())), err)
	}
	ids := fmt.Appendf(nil, "0 %d %d\n", base, count)
	for _, name := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, name), ids, 0); err != nil {
			h.end()
			return nil, err
		}
	}
	return h, nil
}

// program is the path of a program of every host's.
func program(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/bin/" + name // a service without PATH
	}
	return path
}

func (h *holder) end() {
	_ = h.cmd.Process.Kill()
	_ = h.pipe.Close()
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
