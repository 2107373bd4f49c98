package node

import (
	"net"
	"net/url"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
)

// Settings are what a worker is told that is a process of its own: one YAML file
// and AETHERIUM_* variables.
type Settings struct {
	settings.Common `yaml:",inline"`
	Host            `yaml:",inline"`
	Worker          Worker `yaml:"worker"`
}

// TokenVariable is the environment variable of Worker.Token.
const TokenVariable = settings.Prefix + "_WORKER_TOKEN"

// Worker is how a worker belongs to an installation (docs/WORKERS.md).
type Worker struct {
	Name      string         `yaml:"name" doc:"What the worker is called, as no other is; default: the host's name."`
	Address   string         `yaml:"address" doc:"Address and port on which gateways are listened to. Only they are let in, by their certificates."`
	Advertise string         `yaml:"advertise" doc:"Address or name, and port, at which gateways reach it; default: address, which then has to be one of this host's."`
	Gateway   string         `yaml:"gateway" doc:"URL of a gateway's API, for joining and to renew the worker's certificate."`
	Token     logging.Secret `yaml:"token" doc:"Join token (aetherium worker token create), for the first start only."`
	Metrics   string         `yaml:"metrics" doc:"Address and port of /metrics and /healthz; empty: none."`
}

// Defaults for this host.
func Defaults() Settings {
	return Settings{
		settings.DefaultCommon(), DefaultHost(), Worker{Address: "127.0.0.1:7310", Gateway: "http://127.0.0.1:7300", Metrics: "127.0.0.1:7311"},
	}
}

// Load reads a file (none where path is empty) and the environment.
// Returns InvalidArgument, NotFound.
func Load(path string, environ []string) (Settings, error) {
	s := Defaults()
	if err := config.Load(&s, path, settings.Prefix, environ); err != nil {
		return s, err
	}
	if err := s.Common.Check(); err != nil {
		return s, err
	}
	if err := s.Common.CheckShared(); err != nil {
		return s, err
	}
	if err := s.Host.Check(s.VM.Driver); err != nil {
		return s, err
	}
	return s, s.Worker.check()
}

// Files of a worker.

// KernelDir is where the kernel of VMs that have one of their own is.
func (s Settings) KernelDir() string { return s.Host.KernelDir(s.DataDir) }

func (w Worker) check() error {
	for field, address := range map[string]string{"worker.address": w.Address, "worker.advertise": w.Advertise, "worker.metrics": w.Metrics} {
		if address == "" && field != "worker.address" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", address).WithField(field).WithHint("such as 10.0.0.7:7310")
		}
	}
	if host, _, _ := net.SplitHostPort(w.Address); w.Advertise == "" && anywhere(host) {
		return errors.New(errors.InvalidArgument, "gateways cannot be told to reach %s", w.Address).WithField("worker.advertise").
			WithHint("say by which address or name of this host they do")
	}
	if u, err := url.Parse(w.Gateway); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New(errors.InvalidArgument, "%q is not the URL of a gateway", w.Gateway).WithField("worker.gateway").WithHint("such as https://api.example.com")
	}
	return nil
}

// anywhere reports whether a host to listen on stands for all of them.
func anywhere(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}
