package cgroup

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// findOwn finds the group that this process is in, by cgroups(7):
// /proc/self/cgroup has a line "ID:controllers:path" per hierarchy.
func (h *Host) findOwn() error {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "cannot read this process's control groups")
	}
	h.own = h.ownProcs(string(raw))
	return nil
}

func (h *Host) ownProcs(groups string) string {
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		controller, _, _ := strings.Cut(fields[1], ",")
		mount, mounted := h.mounts[controller]
		// Version 2 has an empty list of controllers, and so has hybrid's line of it.
		if !mounted || controller == "" && !h.unified {
			continue
		}
		file := filepath.Join(mount, fields[2], "cgroup.procs")
		if _, err := os.Stat(file); err == nil { // in a namespace, what is mounted may be elsewhere
			return file
		}
	}
	return ""
}

// ExpectMoves prepares the kernel for processes that will soon be moved into
// groups, and returns when that is done. The first move in a while waits for
// an RCU grace period, some 8 ms, for the lock that moves and forks share to
// become one that movers may hold (percpu_down_write of
// cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c); those that follow within
// a few milliseconds do not. So a move of this process into the group it is in
// already, which changes nothing, takes the wait off a runtime's way when it is
// made while the runtime is still starting.
func (h *Host) ExpectMoves() {
	if h.own != "" {
		_ = os.WriteFile(h.own, []byte("0"), 0) // nothing depends on it
	}
}

// favoring is the name of the hierarchy that FavorMoves makes.
const favoring = "aetherium"

// FavorMoves has the kernel move processes without the wait of which ExpectMoves
// tells, at the price of some nanoseconds per fork, until what it returns is
// closed or this process has ended. Linux 6.0 has that as an option of mounts,
// favordynmods (cgroups-v1/cgroups.rst, cgroup-v2.rst), that holds for the whole
// kernel while one hierarchy has it. The hosts' own are not touched: it is given
// to a hierarchy without controllers, in which all processes are in the root
// group, and which is mounted nowhere. Its only trace is a line in
// /proc/PID/cgroup. Several processes share one. Returns Unsupported; so it does
// where version 2 is alone, for that line would be the only one of version 1 and
// programs that look for their limits (libuv's uv_get_constrained_memory) take
// the first to tell the version.
func (h *Host) FavorMoves() (io.Closer, error) {
	if h.unified {
		return nil, errors.New(errors.Unsupported, "moves are not favored where control groups are of version 2 alone")
	}
	return favorMoves(favoring)
}

func favorMoves(name string) (io.Closer, error) {
	unsupported := func(what string, err error) error {
		return errors.Wrap(os.NewSyscallError(what, err), errors.Unsupported, "this kernel cannot favor moves between control groups")
	}
	ctx, err := unix.Fsopen("cgroup", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, unsupported("fsopen", err)
	}
	defer unix.Close(ctx)
	for _, err := range []error{
		unix.FsconfigSetFlag(ctx, "none"), // no controllers
		unix.FsconfigSetString(ctx, "name", name),
		unix.FsconfigSetFlag(ctx, "favordynmods"),
		unix.FsconfigCreate(ctx),
	} {
		if err != nil {
			return nil, unsupported("fsconfig", err)
		}
	}
	mount, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, unsupported("fsmount", err)
	}
	return os.NewFile(uintptr(mount), name), nil
}
