// Package settings is the configuration of the single-process installation.
package settings

import (
	"github.com/aetherium/aetherium/libs/common/pkg/config"
	core "github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
	gateway "github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// Settings are read from one YAML file and AETHERIUM_* variables.
type Settings struct {
	core.Common   `yaml:",inline"`
	node.Host     `yaml:",inline"`
	core.Service  `yaml:",inline"`
	gateway.Front `yaml:",inline"`
}

// Defaults for this host.
func Defaults() Settings {
	return Settings{core.DefaultCommon(), node.DefaultHost(), core.DefaultService(), gateway.DefaultFront()}
}

// Load reads a file (none where path is empty) and the environment.
// Returns InvalidArgument, NotFound.
func Load(path string, environ []string) (Settings, error) {
	s := Defaults()
	if err := config.Load(&s, path, core.Prefix, environ); err != nil {
		return s, err
	}
	return s, s.check()
}

func (s *Settings) check() error {
	if err := s.Common.Check(); err != nil {
		return err
	}
	if err := s.Host.Check(s.VM.Driver); err != nil {
		return err
	}
	if err := s.Service.Check(); err != nil {
		return err
	}
	return s.Front.Check()
}

// KernelDir is where the kernel of VMs that have one of their own is.
func (s Settings) KernelDir() string { return s.Host.KernelDir(s.DataDir) }
