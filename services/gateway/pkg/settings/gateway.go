package settings

import (
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	core "github.com/aetherium/aetherium/services/core/pkg/settings"
)

// Gateway is what a gateway is told that is a process of its own: one YAML file
// and AETHERIUM_* variables.
type Gateway struct {
	core.Common  `yaml:",inline"`
	core.Service `yaml:",inline"`
	Front        `yaml:",inline"`
	Tools        Tools   `yaml:"tools"`
	Workers      Workers `yaml:"workers"`
}

// Tools are what VMs are given beside their template; workers are told where they come from.
type Tools struct {
	Default []string `yaml:"default" doc:"Tools that every VM gets, such as git,node@22,bun,claude-code. One that cannot be had keeps VMs from being made."`
}

// Workers is whom the gateway takes for a worker (docs/WORKERS.md).
type Workers struct {
	AwayAfter config.Duration `yaml:"away_after" doc:"After how long without a sign of life a worker is taken for away; it gives one every 5 seconds. The same for all gateways."`
	CAFile    string          `yaml:"ca_file" doc:"Certificate (PEM) of the authority that signs for workers and gateways; default: one of the installation's own, which all its gateways find in the database."`
	CAKeyFile string          `yaml:"ca_key_file" doc:"Key (PEM) of the certificate in ca_file."`
}

// DefaultGateway is for this host.
func DefaultGateway() Gateway {
	return Gateway{
		Common: core.DefaultCommon(), Service: core.DefaultService(), Front: DefaultFront(),
		Workers: Workers{AwayAfter: config.Duration(20 * time.Second)},
	}
}

// Bounds of Workers.AwayAfter. A sign of life may be late.
const (
	minAway = 10 * time.Second
	maxAway = time.Hour
)

// LoadGateway reads a file (none where path is empty) and the environment.
// Returns InvalidArgument, NotFound.
func LoadGateway(path string, environ []string) (Gateway, error) {
	s := DefaultGateway()
	if err := config.Load(&s, path, core.Prefix, environ); err != nil {
		return s, err
	}
	if err := s.Common.Check(); err != nil {
		return s, err
	}
	if err := s.Common.CheckShared(); err != nil {
		return s, err
	}
	if err := s.Service.Check(); err != nil {
		return s, err
	}
	if err := domain.ValidateTools("tools.default", s.Tools.Default); err != nil {
		return s, err
	}
	if d := time.Duration(s.Workers.AwayAfter); d < minAway || d > maxAway {
		return s, errors.New(errors.InvalidArgument, "workers cannot be taken for away after %s", d).WithField("workers.away_after").
			WithHint("from %s to %s", minAway, maxAway)
	}
	if (s.Workers.CAFile == "") != (s.Workers.CAKeyFile == "") {
		return s, errors.New(errors.InvalidArgument, "a certificate takes a key, and a key a certificate").WithField("workers.ca_file")
	}
	return s, s.Front.Check()
}
