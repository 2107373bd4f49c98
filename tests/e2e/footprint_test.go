package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// marks is what an installation leaves on a host while it runs.
type marks []string

// footprint lists mounts, interfaces, firewall tables, cgroups, loop devices,
// runtime directories and processes that are Aetherium's.
func footprint() marks {
	var out marks
	add := func(kind, text string) {
		for _, line := range strings.Split(text, "\n") {
			if strings.Contains(line, "aeth") {
				out = append(out, kind+" "+strings.Join(strings.Fields(line), " "))
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	add("mount", string(mounts))
	tables, _ := exec.Command("nft", "list", "tables").Output() //nolint:noctx // quick
	add("nft", string(tables))
	loops, _ := exec.Command("losetup", "--noheadings", "-O", "NAME,BACK-FILE", "-a").Output() //nolint:noctx // quick
	add("loop", string(loops))
	for _, pattern := range []string{"/run/aetherium-*", "/sys/fs/cgroup/aetherium-*", "/sys/fs/cgroup/*/aetherium-*"} {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			if n != "/run/aetherium-host" { // shared by all installations of the host
				out = append(out, "dir "+n)
			}
		}
	}
	links, _ := filepath.Glob("/sys/class/net/*")
	for _, l := range links {
		out = append(out, "link "+filepath.Base(l))
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		text, _ := os.ReadFile(p)
		cmd := strings.ReplaceAll(string(text), "\x00", " ")
		if strings.Contains(cmd, "/.aetherium/fc-agent ") || strings.Contains(cmd, "/aetherium-netd ") || strings.Contains(cmd, "/aetherium-standalone ") {
			out = append(out, "process "+cmd)
		}
	}
	slices.Sort(out)
	return out
}

// minus lists what is in m and not in before.
func (m marks) minus(before marks) []string {
	var more []string
	for _, x := range m {
		if !slices.Contains(before, x) {
			more = append(more, x)
		}
	}
	return more
}

// tail is the last lines of a text.
func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
