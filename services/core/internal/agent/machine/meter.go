package machine

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Usage is what the machine uses. Sizes are bytes.
type Usage struct {
	At          time.Time
	CPUs        int
	CPUPercent  float64 // of all CPUs together, since the last reading
	MemoryTotal uint64
	MemoryUsed  uint64 // without the page cache
	MemoryCache uint64
	DiskTotal   uint64 // of the root file system
	DiskUsed    uint64
}

// Meter reads what the machine uses. Where the machine is a container that
// sees its own control group, that is what counts; else /proc.
type Meter struct {
	mu   sync.Mutex
	at   time.Time
	busy time.Duration
}

// NewMeter begins to measure.
func NewMeter() *Meter {
	m := &Meter{at: time.Now()}
	m.busy, _ = cpuTime()
	return m
}

// Read reads now.
func (m *Meter) Read(now time.Time) (Usage, error) {
	u := Usage{At: now, CPUs: runtime.NumCPU()}
	busy, err := cpuTime()
	if err != nil {
		return Usage{}, errors.Wrap(err, errors.Internal, "the machine's CPU time cannot be read")
	}
	m.mu.Lock()
	if wall := now.Sub(m.at); wall > 0 {
		u.CPUPercent = max(0, min(100, 100*float64(busy-m.busy)/float64(wall)/float64(u.CPUs)))
	}
	m.at, m.busy = now, busy
	m.mu.Unlock()
	if err := readMemory(&u); err != nil {
		return Usage{}, errors.Wrap(err, errors.Internal, "the machine's memory cannot be read")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return Usage{}, errors.Wrap(err, errors.Internal, "the machine's disk cannot be read")
	}
	u.DiskTotal = fs.Blocks * uint64(fs.Bsize)
	u.DiskUsed = (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	return u, nil
}

// cpuTime is how long the machine's CPUs have been busy.
func cpuTime() (time.Duration, error) {
	if usec, ok := field("/sys/fs/cgroup/cpu.stat", "usage_usec"); ok && inContainer() {
		return time.Duration(usec) * time.Microsecond, nil
	}
	if ns, ok := number("/sys/fs/cgroup/cpuacct/cpuacct.usage"); ok {
		return time.Duration(ns), nil
	}
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return 0, err
	}
	// cpu user nice system idle iowait irq softirq steal …, in hundredths of a second
	var busy uint64
	for i, text := range strings.Fields(line) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err == nil && i != 4 && i != 5 && i <= 8 {
			busy += n
		}
	}
	return time.Duration(busy) * 10 * time.Millisecond, nil
}

// inContainer tells whether the control group at the root of the mount is a
// limited one: a machine with its own kernel has no memory.max there.
func inContainer() bool {
	_, err := os.Stat("/sys/fs/cgroup/memory.max")
	return err == nil
}

func readMemory(u *Usage) error {
	total, ok := field("/proc/meminfo", "MemTotal:")
	available, ok2 := field("/proc/meminfo", "MemAvailable:")
	cached, _ := field("/proc/meminfo", "Cached:")
	if !ok || !ok2 {
		return errors.Plain("/proc/meminfo lacks MemTotal or MemAvailable")
	}
	u.MemoryTotal, u.MemoryCache = total<<10, cached<<10
	u.MemoryUsed = (total - min(available, total)) << 10
	for _, group := range []struct{ limit, current, stat, cache string }{
		{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "file"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "cache"},
	} {
		current, ok := number(group.current)
		if !ok {
			continue
		}
		if limit, ok := number(group.limit); ok && limit < u.MemoryTotal {
			u.MemoryTotal = limit
		}
		u.MemoryCache, _ = field(group.stat, group.cache)
		u.MemoryUsed = current - min(u.MemoryCache, current)
		break
	}
	return nil
}

// number reads a file that holds one number; "max" is none.
func number(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// field reads the number after a key at the start of a line.
func field(path, key string) (uint64, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) >= 2 && words[0] == key {
			n, err := strconv.ParseUint(words[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
