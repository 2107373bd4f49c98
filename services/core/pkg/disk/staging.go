package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// staging names directories in the making so that another process can tell
// whose they are: <counter>.<pid>-<start time>.<volume>.
type staging struct {
	dir   string
	owner string
	count atomic.Uint64
}

func newStaging(dir string) (*staging, error) {
	owner, err := processTag(os.Getpid())
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "cannot read /proc")
	}
	return &staging{dir: dir, owner: owner}, nil
}

// next is a path that no other call and no other process gets.
func (s *staging) next(id string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%d.%s.%s", s.count.Add(1), s.owner, id))
}

// abandoned lists what was made by processes that no longer run.
func (s *staging) abandoned() []string {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil
	}
	var left []string
	for _, e := range entries {
		parts := strings.SplitN(e.Name(), ".", 3)
		if len(parts) == 3 && ownerAlive(parts[1]) {
			continue
		}
		left = append(left, filepath.Join(s.dir, e.Name()))
	}
	return left
}

func ownerAlive(tag string) bool {
	pid, _, ok := strings.Cut(tag, "-")
	n, err := strconv.Atoi(pid)
	if !ok || err != nil {
		return false
	}
	now, err := processTag(n)
	return err == nil && now == tag
}

// processTag is a process's ID and start time (proc_pid_stat(5), field 22):
// together they are not used twice while the host is up. One that has ended and
// is only waiting for its parent to look has no tag any more.
func processTag(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The command name in parentheses may hold anything; fields count from its end.
	rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", errors.Plain("short stat line")
	}
	if state := fields[0]; state == "Z" || state == "X" || state == "x" {
		return "", errors.Plain("the process has ended")
	}
	return strconv.Itoa(pid) + "-" + fields[19], nil
}
