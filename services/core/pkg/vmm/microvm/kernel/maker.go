package kernel

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// Maker gives what guests boot, and makes it anew when the kernel that is
// installed or the agent is another one. It is safe for concurrent use.
type Maker struct {
	Installed string // directory that Find looks in
	Agent     string // path of the agent
	Cache     string // directory that Build makes kernels in

	mu     sync.Mutex
	stamp  string // of what kernel was made of
	kernel microvm.Kernel
}

// Kernel gives what guests boot. Returns the errors of Find and Build.
func (m *Maker) Kernel(ctx context.Context) (microvm.Kernel, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	src, err := Find(m.Installed)
	if err != nil {
		return microvm.Kernel{}, err
	}
	stamp, err := stampOf(src.Image, src.Modules, m.Agent)
	if err != nil {
		return microvm.Kernel{}, err
	}
	if _, err := os.Stat(m.kernel.Initrd); err == nil && stamp == m.stamp {
		return m.kernel, nil
	}
	k, err := Build(ctx, src, m.Agent, m.Cache)
	if err != nil {
		return microvm.Kernel{}, err
	}
	m.stamp, m.kernel = stamp, k
	return k, nil
}

// stampOf tells whether files are those that they were.
func stampOf(paths ...string) (string, error) {
	stamp := ""
	for _, path := range paths {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", errors.Wrap(err, errors.Unsupported, "what guests boot is not there any more")
		}
		stamp += fmt.Sprintf("%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	return stamp, nil
}
