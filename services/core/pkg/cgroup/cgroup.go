// Package cgroup reads and steers control groups by path, in version 2
// (Documentation/admin-guide/cgroup-v2.rst) and in version 1 or hybrid
// (Documentation/admin-guide/cgroup-v1). An OCI runtime makes
// groups of its own; whoever made a group's path can find it again.
package cgroup

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// Host is how control groups are mounted here.
type Host struct {
	unified bool
	mounts  map[string]string // controller or name to mount point; version 2: only ""
	own     string            // the cgroup.procs of this process's group in one hierarchy; "": not found
}

// unifiedRoot is where runtimes look for version 2 (systemd's file hierarchy).
const unifiedRoot = "/sys/fs/cgroup"

// Detect finds the mounted hierarchies. Returns Unsupported when there are none.
func Detect() (*Host, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(unifiedRoot, &st); err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "control groups are not mounted at %s", unifiedRoot)
	}
	if int64(st.Type) == unix.CGROUP2_SUPER_MAGIC { //nolint:unconvert // Type differs by architecture
		h := &Host{unified: true, mounts: map[string]string{"": unifiedRoot}}
		return h, h.findOwn()
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "cannot read the mount table")
	}
	defer f.Close()
	mounts, err := parseMounts(f)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "cannot read the mount table")
	}
	for _, need := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
		if mounts[need] == "" {
			return nil, errors.New(errors.Unsupported, "the control group controller %q is not mounted", need)
		}
	}
	h := &Host{mounts: mounts}
	return h, h.findOwn()
}

// parseMounts finds version 1 hierarchies in the form of proc_pid_mountinfo(5):
// the super options after the dash name the controllers.
func parseMounts(r io.Reader) (map[string]string, error) {
	mounts := map[string]string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 5 || len(tail) < 3 {
			continue
		}
		if tail[0] == "cgroup2" { // hybrid: no controllers, but runtimes make groups there, too
			mounts["unified"] = head[4]
		}
		if tail[0] != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(tail[2], ",") {
			if option == "rw" || option == "ro" {
				continue
			}
			if _, known := mounts[option]; !known {
				mounts[option] = head[4]
			}
		}
	}
	return mounts, lines.Err()
}

// Unified reports version 2.
func (h *Host) Unified() bool { return h.unified }

// SwapLimit reports whether swap can be limited.
func (h *Host) SwapLimit() bool {
	if h.unified {
		return true // without swap accounting there is no file, and runtimes accept that for zero
	}
	_, err := os.Stat(filepath.Join(h.mounts["memory"], "memory.memsw.limit_in_bytes"))
	return err == nil
}

// Children names the groups directly below path, in any hierarchy.
func (h *Host) Children(path string) ([]string, error) {
	seen := map[string]bool{}
	var names []string
	for _, mount := range h.distinct() {
		entries, err := os.ReadDir(filepath.Join(mount, path))
		if err != nil && !os.IsNotExist(err) {
			return nil, errors.Wrap(err, errors.Internal, "cannot list control groups")
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// distinct is every hierarchy once: several controllers may share one.
func (h *Host) distinct() []string {
	seen := map[string]bool{}
	var all []string
	for _, mount := range h.mounts {
		if !seen[mount] {
			seen[mount] = true
			all = append(all, mount)
		}
	}
	return all
}

// Group is the group at an absolute path in every hierarchy; it need not exist.
func (h *Host) Group(path string) Group { return Group{host: h, path: path} }

// Group is one control group.
type Group struct {
	host *Host
	path string
}

// Path is the group's path below the mount points.
func (g Group) Path() string { return g.path }

// file is a file of the group in a controller's hierarchy.
func (g Group) file(controller, name string) string {
	if g.host.unified {
		controller = ""
	}
	return filepath.Join(g.host.mounts[controller], g.path, name)
}

// Exists reports whether the group is there in any hierarchy.
func (g Group) Exists() bool {
	for _, mount := range g.host.distinct() {
		if _, err := os.Stat(filepath.Join(mount, g.path)); err == nil {
			return true
		}
	}
	return false
}
