package cgroup

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Stat is what a group uses. Sizes are bytes.
type Stat struct {
	CPU         time.Duration // cumulative, user and system
	Memory      int64         // working set: without file cache that can go at once
	MemoryPeak  int64         // 0 where the kernel does not tell (version 2 before Linux 5.19)
	MemoryLimit int64         // 0: none
	PIDs        int64
	OOMKills    int64 // processes killed for this group's memory limit
}

// Stat reads the group's usage. Returns NotFound when it is gone.
func (g Group) Stat() (Stat, error) {
	var s Stat
	var err error
	if g.host.unified {
		s, err = g.stat2()
	} else {
		s, err = g.stat1()
	}
	if os.IsNotExist(err) {
		return s, errors.Wrap(err, errors.NotFound, "the control group is gone")
	} else if err != nil {
		return s, errors.Wrap(err, errors.Internal, "cannot read the control group")
	}
	return s, nil
}

func (g Group) stat2() (Stat, error) {
	var s Stat
	cpu, err := readTable(g.file("", "cpu.stat"))
	if err != nil {
		return s, err
	}
	s.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
	mem, err := readTable(g.file("", "memory.stat"))
	if err != nil {
		return s, err
	}
	used, err := readInt(g.file("", "memory.current"))
	if err != nil {
		return s, err
	}
	s.Memory = max(used-mem["inactive_file"], 0)
	if s.MemoryPeak, err = readInt(g.file("", "memory.peak")); err != nil && !os.IsNotExist(err) {
		return s, err
	}
	if s.MemoryLimit, err = readInt(g.file("", "memory.max")); err != nil {
		return s, err
	}
	if s.PIDs, err = readInt(g.file("", "pids.current")); err != nil {
		return s, err
	}
	s.OOMKills, err = g.OOMKills()
	return s, err
}

func (g Group) stat1() (Stat, error) {
	var s Stat
	ns, err := readInt(g.file("cpuacct", "cpuacct.usage"))
	if err != nil {
		return s, err
	}
	s.CPU = time.Duration(ns)
	mem, err := readTable(g.file("memory", "memory.stat"))
	if err != nil {
		return s, err
	}
	used, err := readInt(g.file("memory", "memory.usage_in_bytes"))
	if err != nil {
		return s, err
	}
	s.Memory = max(used-mem["total_inactive_file"], 0)
	if s.MemoryPeak, err = readInt(g.file("memory", "memory.max_usage_in_bytes")); err != nil {
		return s, err
	}
	if s.MemoryLimit, err = readInt(g.file("memory", "memory.limit_in_bytes")); err != nil {
		return s, err
	}
	if s.PIDs, err = readInt(g.file("pids", "pids.current")); err != nil {
		return s, err
	}
	s.OOMKills, err = g.OOMKills()
	return s, err
}

// OOMKills counts processes killed for the group's memory limit. A group that
// is gone yields an error for which os.IsNotExist holds.
func (g Group) OOMKills() (int64, error) {
	name := "memory.oom_control"
	if g.host.unified {
		name = "memory.events"
	}
	table, err := readTable(g.file("memory", name))
	return table["oom_kill"], err
}

// readInt reads one number; "max" is 0, and so are version 1's huge values that mean none.
func readInt(file string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(raw))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	const none = 1 << 62 // PAGE_COUNTER_MAX in bytes is just below 2^63
	if n >= none {
		n = 0
	}
	return n, err
}

// readTable reads lines of a name and a number.
func readTable(file string) (map[string]int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	table := map[string]int64{}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(value, 10, 64); ok && err == nil {
			table[name] = n
		}
	}
	return table, nil
}
