package cgroup

import (
	"os"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// CPUPeriod is the length of a CPU quota's period in microseconds, the kernel's default.
const CPUPeriod = 100_000

// Limits bound a group. Zero fields are left as they are.
type Limits struct {
	MilliCPU int64 // thousandths of a core
	Memory   int64 // bytes; no swap on top
	PIDs     int64
}

// Quota is how many microseconds of CPU time milli thousandths of a core are per [CPUPeriod].
func Quota(milli int64) int64 {
	const least = 1000 // the kernel refuses less than a millisecond
	return max(milli*CPUPeriod/1000, least)
}

// Shares is the weight of milli thousandths of a core in version 1's scale,
// where 1024 is a core.
func Shares(milli int64) uint64 { return uint64(max(milli*1024/1000, 2)) }

// Weight is the same in version 2's scale (1..10000), converted as OCI runtimes do.
func Weight(milli int64) uint64 { return 1 + (min(Shares(milli), 262144)-2)*9999/262142 }

type setting struct{ controller, file, value string }

// SetLimits changes the limits of a living group. Returns Conflict when the
// group uses more memory than asked for and cannot give it back.
func (g Group) SetLimits(l Limits) error {
	for _, s := range g.settings(l) {
		err := os.WriteFile(g.file(s.controller, s.file), []byte(s.value), 0)
		switch {
		case err == nil:
		case os.IsNotExist(err) && (s.file == "memory.swap.max" || s.file == "memory.memsw.limit_in_bytes"):
			// This kernel does not account for swap.
		case os.IsNotExist(err):
			return errors.Wrap(err, errors.NotFound, "the control group is gone")
		case s.controller == "memory":
			return errors.Wrap(err, errors.Conflict, "the machine uses more memory than that")
		default:
			return errors.Wrap(err, errors.Internal, "cannot set %s", s.file)
		}
	}
	return nil
}

func (g Group) settings(l Limits) []setting {
	var all []setting
	text := func(n int64) string { return strconv.FormatInt(n, 10) }
	unified := g.host.unified
	if l.MilliCPU > 0 && unified {
		all = append(all,
			setting{"cpu", "cpu.max", text(Quota(l.MilliCPU)) + " " + text(CPUPeriod)},
			setting{"cpu", "cpu.weight", strconv.FormatUint(Weight(l.MilliCPU), 10)})
	} else if l.MilliCPU > 0 {
		all = append(all,
			setting{"cpu", "cpu.cfs_quota_us", text(Quota(l.MilliCPU))},
			setting{"cpu", "cpu.shares", strconv.FormatUint(Shares(l.MilliCPU), 10)})
	}
	if l.Memory > 0 && unified {
		all = append(all, setting{"memory", "memory.max", text(l.Memory)}, setting{"memory", "memory.swap.max", "0"})
	} else if l.Memory > 0 {
		memory := setting{"memory", "memory.limit_in_bytes", text(l.Memory)}
		both := setting{"memory", "memory.memsw.limit_in_bytes", text(l.Memory)}
		// Memory may never exceed memory and swap together, so the order depends on the direction.
		if old, _ := readInt(g.file("memory", memory.file)); old != 0 && l.Memory > old {
			all = append(all, both, memory)
		} else {
			all = append(all, memory, both)
		}
	}
	if l.PIDs > 0 {
		all = append(all, setting{"pids", "pids.max", text(l.PIDs)})
	}
	return all
}
