package osuser

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Do runs fn with the file rights of u: what fn opens, makes, renames or
// removes is decided by the kernel as for u, and what it makes belongs to u.
//
// The agent is root, so fn runs on a thread of its own that has taken on u's
// filesystem user and group (setfsuid(2)) and supplementary groups. Leaving
// fsuid 0 makes the kernel drop the capabilities that override file rights
// from the thread's effective set, and coming back restores them
// (capabilities(7)). All three are raw per-thread calls: package syscall's
// wrappers would change every thread. The Go runtime never clones a new thread
// from a locked one, so the identity cannot spread, and it must not wander
// either: fn must not use other goroutines for file work, nor start processes.
//
// An agent that is not root itself can act as its own user only; otherwise Do
// returns PermissionDenied. Returns InvalidArgument for a number that the
// machine's user namespace does not map.
func Do(u *User, fn func() error) error {
	if os.Geteuid() != 0 {
		if int(u.UID) == os.Geteuid() {
			return fn()
		}
		return errors.New(errors.PermissionDenied, "the agent does not run as root and cannot act as %q", u.Name)
	}
	if u.UID == 0 && u.GID == 0 {
		return fn()
	}
	runtime.LockOSThread()
	own, err := getGroups()
	if err != nil {
		runtime.UnlockOSThread()
		return errors.Wrap(err, errors.Internal, "the agent's groups cannot be read")
	}
	defer func() {
		// In this order: with fsuid 0 the capabilities are back.
		setFS(unix.SYS_SETFSUID, 0)
		setFS(unix.SYS_SETFSGID, 0)
		if err := setGroups(own); (err == nil || len(own) == 0) && setFS(unix.SYS_SETFSUID, 0) == 0 && setFS(unix.SYS_SETFSGID, 0) == 0 {
			runtime.UnlockOSThread()
		}
		// Else the thread stays locked and dies with its goroutine, taking the
		// identity with it.
	}()
	// A user namespace may deny setgroups(2); that matters only where there are
	// groups of the agent's to be rid of.
	err = setGroups(u.Groups)
	if errors.Is(err, unix.EINVAL) {
		return errors.New(errors.InvalidArgument, "the user %q has a number that this machine does not have", u.Name).WithField("user").
			WithHint("a machine has the numbers that its user namespace maps, usually 0 to 65535")
	}
	if err != nil && (len(own) > 0 || !errors.Is(err, unix.EPERM)) {
		return errors.Wrap(err, errors.Internal, "the groups of %q cannot be taken on", u.Name)
	}
	setFS(unix.SYS_SETFSGID, u.GID)
	setFS(unix.SYS_SETFSUID, u.UID)
	// setfsuid reports no error; asking again returns what holds now.
	if setFS(unix.SYS_SETFSGID, u.GID) != u.GID || setFS(unix.SYS_SETFSUID, u.UID) != u.UID {
		return errors.New(errors.PermissionDenied, "the rights of %q cannot be taken on", u.Name)
	}
	return fn()
}

// setFS calls setfsuid or setfsgid for this thread and returns the former ID.
func setFS(call uintptr, id uint32) uint32 {
	former, _, _ := unix.RawSyscall(call, uintptr(id), 0, 0)
	return uint32(former)
}

// getGroups reads this thread's supplementary groups; the process-wide getter
// would do, but pairs badly with a per-thread setter.
func getGroups() ([]uint32, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_GETGROUPS, 0, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	if n == 0 {
		return nil, nil
	}
	groups := make([]uint32, n)
	n, _, errno = unix.RawSyscall(unix.SYS_GETGROUPS, n, uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno != 0 {
		return nil, errno
	}
	return groups[:n], nil
}

// setGroups sets this thread's supplementary groups.
func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0)
	runtime.KeepAlive(groups)
	if errno != 0 {
		return errno
	}
	return nil
}
