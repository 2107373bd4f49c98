package docker

import (
	"os"
	"path/filepath"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/executable"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// agentCache lets one call at a time put the agent's binary where containers reach it.
type agentCache struct{ mu sync.Mutex }

// agentBinary gives the path of a copy of the agent in the runtime directory,
// which a container's root can reach wherever the original is. The path is the
// same for ever, for containers name it; what runs keeps the copy that it was
// started with when a newer agent is installed.
func (d *Driver) agentBinary() (string, error) {
	d.agent.mu.Lock()
	defer d.agent.mu.Unlock()
	src, err := os.Open(d.cfg.AgentPath)
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "the guest agent is not installed")
	}
	defer func() { _ = src.Close() }()
	want, err := src.Stat()
	if err != nil {
		return "", fault.Of(err, "cannot read the guest agent")
	}
	if !want.Mode().IsRegular() {
		return "", errors.New(errors.Unsupported, "the guest agent is not a file")
	}
	path := filepath.Join(d.cfg.RuntimeDir, "a", "fc-agent")
	if have, err := os.Stat(path); err == nil && have.Size() == want.Size() && have.ModTime().Equal(want.ModTime()) {
		return path, nil
	}
	return path, fault.Of(executable.Install(src, path, want.ModTime()), "cannot copy the guest agent")
}
