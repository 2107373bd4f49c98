package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/executable"
)

// agentCache is where the agent's binary was put for guests to reach.
type agentCache struct {
	mu   sync.Mutex
	path string
	of   string
}

// agentBinary gives a copy of the agent in the runtime directory, which a
// machine's root can reach, wherever the original is. Machines keep the copy
// they were started with when a newer agent is installed.
func (d *Driver) agentBinary() (string, error) {
	d.agent.mu.Lock()
	defer d.agent.mu.Unlock()
	src, err := os.Open(d.cfg.AgentPath)
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "the guest agent is not installed")
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return "", fail(err, "cannot read the guest agent")
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return "", errors.New(errors.Unsupported, "the guest agent is not a file")
	}
	// A file that is written anew, in place or by renaming, has another tag.
	tag := fmt.Sprintf("%x-%x-%x", st.Ino, info.ModTime().UnixNano(), info.Size())
	if d.agent.of == tag {
		if _, err := os.Stat(d.agent.path); err == nil {
			return d.agent.path, nil
		}
	}
	path := filepath.Join(d.cfg.RuntimeDir, "a", tag)
	_, err = os.Stat(path)
	if os.IsNotExist(err) {
		err = executable.Install(src, path, time.Time{})
	}
	if err != nil {
		return "", fail(err, "cannot copy the guest agent")
	}
	d.agent.path, d.agent.of = path, tag
	return path, nil
}
