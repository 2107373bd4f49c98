package spawn

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

const (
	oomFile      = "/proc/self/oom_score_adj"
	oomProtected = "-999" // all but never the kernel's choice (proc_pid_oom_score_adj(5))
	oomNeutral   = "0"
)

// OOMGuard keeps the agent from being the kernel's choice when the machine is
// out of memory, and its children from inheriting that.
//
// The score is inherited at fork and there is no way to set it in the child
// before it runs; so the agent stands unprotected for the moment of a fork.
// That needs CAP_SYS_RESOURCE in the first user namespace: where it is missing
// the score given by whoever started the agent stays, and a negative one is
// raised for each child right after its start.
type OOMGuard struct {
	mu      sync.Mutex
	file    *os.File // open while protected
	raising bool
}

// NewOOMGuard protects this process as far as it may. Use it once per process,
// in the agent proper, not in tests that share one.
func NewOOMGuard() *OOMGuard {
	g := &OOMGuard{}
	f, err := os.OpenFile(oomFile, os.O_RDWR, 0)
	if err != nil {
		return g
	}
	var given [16]byte
	n, _ := f.ReadAt(given[:], 0)
	score, _ := strconv.Atoi(strings.TrimSpace(string(given[:n])))
	if _, err := f.WriteAt([]byte(oomProtected), 0); err != nil {
		g.raising = score < 0
		_ = f.Close()
		return g
	}
	g.file = f
	return g
}

// Fork runs start with a neutral score. A nil guard protects nothing.
func (g *OOMGuard) Fork(start func() (pid int, err error)) (int, error) {
	if g == nil {
		return start()
	}
	if g.file == nil {
		pid, err := start()
		if err == nil && g.raising {
			_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(oomNeutral), 0)
		}
		return pid, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = g.file.WriteAt([]byte(oomNeutral), 0)
	pid, err := start()
	_, _ = g.file.WriteAt([]byte(oomProtected), 0)
	return pid, err
}
