package server

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Helpers gives the process IDs of this server's helpers whose program has a name.
func (s *Server) Helpers(name string) []int {
	var out []int
	for _, p := range s.found() {
		program, _, _ := strings.Cut(p.command, " ")
		if filepath.Base(program) == name && !p.zombie {
			out = append(out, p.pid)
		}
	}
	return out
}

// PrivateMemory is the memory that a process has for itself alone, in bytes
// (proc_pid_smaps(5)).
func PrivateMemory(pid int) (sum int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if name, text, _ := strings.Cut(line, ":"); strings.HasPrefix(name, "Private_") {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			if err != nil {
				return 0, err
			}
			sum += kib << 10
		}
	}
	return sum, nil
}

// Files lists what the server has written in its own directories, without
// VMs' disks, templates and the output of commands.
func (s *Server) Files() []string {
	var out []string
	for _, dir := range []string{s.DataDir, s.RuntimeDir} {
		device := deviceOf(dir)
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil //nolint:nilerr // it went
			case d.IsDir() && (d.Name() == "images" || d.Name() == "journals" || deviceOf(path) != device):
				return fs.SkipDir // what is mounted is VMs'
			case d.Type().IsRegular() && filepath.Ext(path) != ".img":
				out = append(out, path)
			}
			return nil
		})
	}
	return out
}

func deviceOf(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return 0
	}
	return st.Dev
}
