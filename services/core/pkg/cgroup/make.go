package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Make makes the group, and those above it, in each hierarchy that limits and
// measurements need. One that exists is success. Returns Unsupported where
// version 2 does not give its controllers away.
func (g Group) Make() error {
	for _, mount := range g.host.needed() {
		dir := mount
		for name := range strings.SplitSeq(strings.Trim(g.path, "/"), "/") {
			if g.host.unified {
				if err := enable(dir); err != nil {
					return err
				}
			}
			dir = filepath.Join(dir, name)
			if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
				return errors.Wrap(err, errors.Unsupported, "cannot make a control group")
			}
		}
	}
	return nil
}

// Dirs are the directories of a group that [Group.Make] made: a process that is
// written to cgroup.procs in each of them is in the group.
func (g Group) Dirs() []string {
	dirs := g.host.needed()
	for i, mount := range dirs {
		dirs[i] = filepath.Join(mount, g.path)
	}
	return dirs
}

// needed are the mount points of what limits and measurements need, in a fixed order.
func (h *Host) needed() []string {
	if h.unified {
		return []string{unifiedRoot}
	}
	var dirs []string
	for _, controller := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
		if mount := h.mounts[controller]; !slices.Contains(dirs, mount) {
			dirs = append(dirs, mount)
		}
	}
	return dirs
}

// enable has a group of version 2 give its controllers to the groups below it.
func enable(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	raw, err := os.ReadFile(file)
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "cannot read which controllers groups have")
	}
	have := strings.Fields(string(raw))
	var want []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, c) {
			want = append(want, "+"+c)
		}
	}
	if len(want) == 0 {
		return nil
	}
	if err := os.WriteFile(file, []byte(strings.Join(want, " ")), 0); err != nil {
		return errors.Wrap(err, errors.Unsupported, "this host gives no control groups to machines")
	}
	return nil
}
