package fake

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a process of a machine as /proc tells of it (proc_pid_stat(5)).
type process struct {
	pid, parent, session int
	cpu                  time.Duration
	resident             int64
}

// clockTicks is USER_HZ, 100 on every architecture that Go runs Linux on.
const clockTicks = 100

// processes finds what runs in a machine: processes whose home is in its
// directory, those of their sessions, and their children.
func (m *machine) processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := make(map[int]process)
	mine := make(map[int]bool)
	sessions := make(map[int]bool)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, ok := readProcess(pid)
		if !ok {
			continue
		}
		all[pid] = p
		if env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ")); err == nil && m.marks(env) {
			mine[pid] = true
			sessions[p.session] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, p := range all {
			if !mine[pid] && pid != os.Getpid() && (sessions[p.session] || mine[p.parent]) {
				mine[pid], sessions[p.session], grown = true, true, true
			}
		}
	}
	out := make([]process, 0, len(mine))
	for pid := range mine {
		out = append(out, all[pid])
	}
	return out
}

// marks reports whether an environment is that of a command in the machine.
func (m *machine) marks(env []byte) bool {
	prefix := []byte("HOME=" + m.dir + string(filepath.Separator))
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.HasPrefix(v, prefix) {
			return true
		}
	}
	return false
}

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, false
	}
	// The name in parentheses may hold anything, also parentheses.
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return process{}, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 22 || f[0] == "Z" || f[0] == "X" {
		return process{}, false
	}
	number := func(i int) int { n, _ := strconv.Atoi(f[i]); return n }
	return process{
		pid: pid, parent: number(1), session: number(3),
		cpu:      time.Duration(number(11)+number(12)) * time.Second / clockTicks,
		resident: int64(number(21)) * int64(os.Getpagesize()),
	}, true
}

// processesOf are those of a run. One whose agent never started any has none,
// which spares looking at all of the host's.
func (m *machine) processesOf(r *run) []process {
	if r.agent != nil && !r.agent.Spawned() {
		return nil
	}
	return m.processes()
}

// signal signals everything in the machine while it has a run.
func (m *machine) signal(r *run, sig syscall.Signal) {
	for _, p := range m.processesOf(r) {
		_ = syscall.Kill(p.pid, sig)
	}
}
