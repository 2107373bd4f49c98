package cgroup

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
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
