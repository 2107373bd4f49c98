// Package limits keeps what runs in a machine with a kernel of its own within
// bounds, so that the agent can always answer: commands run in a control group,
// and what they start stays in it, while the agent is outside.
package limits

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Root is where the control groups are mounted (cgroup_namespaces(7)).
const Root = "/sys/fs/cgroup"

const (
	name   = "vm"
	period = 100_000 // µs, the kernel's default
	least  = 1_000   // µs, the least that the kernel takes as a quota

	maxPIDs     = 4 << 20 // PID_MAX_LIMIT
	maxMilliCPU = 1 << 20
)

// Limits bound what runs; 0 is no limit.
type Limits struct {
	PIDs     int64 // processes and threads
	MilliCPU int64 // thousandths of a core
}

// Check reports limits that no kernel knows. Returns InvalidArgument.
func (l Limits) Check() error {
	switch {
	case l.PIDs < 0 || l.PIDs > maxPIDs:
		return errors.New(errors.InvalidArgument, "a limit of %d processes is not possible", l.PIDs).WithField("limits.pids")
	case l.MilliCPU < 0 || l.MilliCPU > maxMilliCPU:
		return errors.New(errors.InvalidArgument, "a limit of %d thousandths of a core is not possible", l.MilliCPU).WithField("limits.milli_cpu")
	}
	return nil
}

// Group is the control group of all commands. Until Set there is none.
type Group struct {
	Root string // empty: [Root]

	mu   sync.RWMutex
	dir  *os.File
	now  Limits // where there is a dir
	held *hold  // nil: nothing is
}

// Set gives the group its limits, and makes it first if need be. Where there
// are no control groups of version 2, or not of the kind, nothing is limited.
// Limits that it has been given last are let be.
// Returns Internal when the kernel refuses.
func (g *Group) Set(l Limits) error {
	g.mu.RLock()
	has := g.dir != nil && g.now == l
	g.mu.RUnlock()
	if has {
		return nil
	}
	root := g.Root
	if root == "" {
		root = Root
	}
	if !version2(root) {
		return nil
	}
	if err := g.set(root, l); err != nil {
		return errors.Wrap(err, errors.Internal, "the machine's limits cannot be set: %s", err)
	}
	return nil
}

// version2 tells whether control groups of version 2 are mounted there.
func version2(root string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(root, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

func (g *Group) set(root string, l Limits) error {
	known, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	controllers := strings.Fields(string(known))
	path := filepath.Join(root, name)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, limit := range []struct{ controller, file, value string }{
		{"pids", "pids.max", pidsMax(l.PIDs)},
		{"cpu", "cpu.max", cpuMax(l.MilliCPU)},
		{"memory", "memory.max", memoryMax()},
	} {
		if !slices.Contains(controllers, limit.controller) {
			continue
		}
		if err := write(filepath.Join(root, "cgroup.subtree_control"), "+"+limit.controller); err != nil {
			return err
		}
		if err := write(filepath.Join(path, limit.file), limit.value); err != nil {
			return err
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	g.mu.Lock()
	old := g.dir
	g.dir, g.now = dir, l
	g.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	return nil
}

// Start runs start with a descriptor of the group, -1 where there is none.
// A nil group has none. Returns [ErrHeld] where what runs is held.
func (g *Group) Start(start func(fd int) (pid int, err error)) (int, error) {
	if g == nil {
		return start(-1)
	}
	g.mu.RLock() // or Set could close it
	defer g.mu.RUnlock()
	if g.held != nil {
		return 0, ErrHeld
	}
	if g.dir == nil {
		return start(-1)
	}
	return start(int(g.dir.Fd()))
}

func pidsMax(n int64) string {
	if n == 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// cpuMax is a quota, or none where all processors together are no more: it
// would only have to be kept.
func cpuMax(milli int64) string {
	if milli == 0 || milli >= int64(runtime.NumCPU())*1000 {
		return "max " + strconv.Itoa(period)
	}
	return strconv.FormatInt(max(milli*period/1000, least), 10) + " " + strconv.Itoa(period)
}

// reserve is what commands leave to the kernel and the agent, at least. A
// machine whose memory is all taken by one of them has the kernel look for more
// for minutes, at times, before it ends that one.
const reserve = 16 << 20

// memoryMax is what all commands may take together.
func memoryMax() string {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "max"
	}
	total := info.Totalram * uint64(info.Unit)
	kept := max(reserve, total/32)
	if total < 2*kept {
		return "max"
	}
	return strconv.FormatUint(total-kept, 10)
}

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
