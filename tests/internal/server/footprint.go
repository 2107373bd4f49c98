package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// lease is what an installation has reserved on the host: its names.
type lease struct {
	Instance string `json:"instance"`
	Prefix   string `json:"prefix"` // of its network interfaces
}

// learn reads the names under which the running server makes things.
func (s *Server) learn() error {
	raw, err := os.ReadFile(filepath.Join(s.RuntimeDir, "net", "instance.json"))
	if err != nil {
		return err
	}
	var file struct {
		Lease lease `json:"lease"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return err
	}
	if file.Lease.Instance == "" || file.Lease.Prefix == "" {
		return fmt.Errorf("%s names no instance", raw)
	}
	s.lease = file.Lease
	return nil
}

// Instance is the name that is in everything this server makes on the host.
func (s *Server) Instance() string { return s.lease.Instance }

// Footprint lists what of this server, and of no other installation on the
// host, is there now: mounts, interfaces, firewall tables, control groups, loop
// devices, processes, runtime files. The server must have been started once.
func (s *Server) Footprint(ctx context.Context) []string {
	var out []string
	add := func(kind, text string, marks ...string) {
		for line := range strings.Lines(text) {
			if slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) }) {
				out = append(out, kind+" "+strings.Join(strings.Fields(line), " "))
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	add("mount", string(mounts), s.RuntimeDir, s.DataDir, s.lease.Instance)
	tables, _ := exec.CommandContext(ctx, "nft", "list", "tables").Output()
	add("nft", string(tables), s.lease.Instance)
	out = append(out, s.loops(ctx)...)
	for _, pattern := range []string{
		s.RuntimeDir, "/run/aetherium-host/leases/" + s.lease.Instance + "*", "/sys/class/net/" + s.lease.Prefix + "*",
		"/sys/fs/cgroup/aetherium-" + s.lease.Instance, "/sys/fs/cgroup/*/aetherium-" + s.lease.Instance,
		"/sys/fs/cgroup/aetherium-" + s.lease.Instance + ".*", "/sys/fs/cgroup/*/aetherium-" + s.lease.Instance + ".*",
	} {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			out = append(out, "file "+n)
		}
	}
	out = append(out, s.processes()...)
	slices.Sort(out)
	return out
}

// loops lists the server's loop devices. One is given up with the last mount of
// it on the host, and whoever gets a mount namespace of its own, as a runtime
// of containers or another test does, has copies of all mounts for as long as
// it keeps them: what is mounted there alone is nobody's leftover.
func (s *Server) loops(ctx context.Context) []string {
	var before []string
	for {
		var now []string
		text, _ := exec.CommandContext(ctx, "losetup", "--noheadings", "-O", "NAME,BACK-FILE", "-a").Output()
		copied, leaving := mountedElsewhere()
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); strings.Contains(line, s.DataDir) && !copied[fields[0]] {
				now = append(now, "loop "+strings.Join(fields, " "))
			}
		}
		// Who held a copy may have ended since the devices were listed, or is about to:
		// what it held is unmounted before it is gone.
		if len(now) == 0 || !leaving && slices.Equal(now, before) || ctx.Err() != nil {
			return now
		}
		before = now
		if leaving {
			before = nil
		}
	}
}

// mountedElsewhere has the sources of the mounts of all mount namespaces but
// the caller's. leaving: a task that ends has given up its namespaces, and may
// still be unmounting what was there alone.
func mountedElsewhere() (sources map[string]bool, leaving bool) {
	seen := map[string]bool{}
	sources = map[string]bool{}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	seen[own] = true
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, task := range tasks {
		ns, err := os.Readlink(task + "/ns/mnt")
		if err != nil {
			leaving = leaving || errors.Is(err, fs.ErrNotExist) && ends(task)
			continue
		}
		if seen[ns] {
			continue
		}
		seen[ns] = true
		mounts, _ := os.ReadFile(task + "/mounts")
		for line := range strings.Lines(string(mounts)) {
			source, _, _ := strings.Cut(line, " ")
			sources[source] = true
		}
	}
	return sources, leaving
}

// ends tells of a task without namespaces that it has not ended yet: what waits for
// its parent alone has (proc_pid_stat(5): field 3).
func ends(task string) bool {
	stat, err := os.ReadFile(task + "/stat") //nolint:gosec // below /proc
	_, rest, ok := strings.Cut(string(stat), ") ")
	return err == nil && ok && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// process is one that belongs to the server.
type process struct {
	pid              int
	command, cgroups string
	zombie           bool // ended; its parent has not looked yet
}

// processes lists the server, its helpers, and everything in its VMs. What has
// ended, and only waits for its parent to look, is not there.
func (s *Server) processes() []string {
	var out []string
	for _, p := range s.found() {
		if !p.zombie {
			out = append(out, "process "+p.command)
		}
	}
	return out
}

// found looks at every process of the host and keeps what is this server's.
func (s *Server) found() []process {
	var out []process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		environ, _ := os.ReadFile(dir + "/environ")
		cgroups, _ := os.ReadFile(dir + "/cgroup")
		ours := strings.Contains(string(cgroups), "aetherium-"+s.lease.Instance) ||
			strings.Contains(string(cmdline), s.RuntimeDir+"/") ||
			strings.Contains(string(environ), "AETHERIUM_DATA_DIR="+s.DataDir+"\x00") && !isSelf(dir)
		if !ours {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		out = append(out, process{pid, strings.ReplaceAll(string(cmdline), "\x00", " "), string(cgroups), zombie(dir)})
	}
	return out
}

// zombie reports whether a process has ended, and init has not looked yet.
func zombie(dir string) bool {
	stat, _ := os.ReadFile(dir + "/stat")
	_, after, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), ") ")
	return strings.HasPrefix(after, "Z")
}

func isSelf(dir string) bool { return filepath.Base(dir) == strconv.Itoa(os.Getpid()) }
