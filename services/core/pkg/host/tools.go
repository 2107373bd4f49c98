package host

import (
	"os"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/untar"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// toolsConfig is how the worker has tools installed.
func toolsConfig(s Settings, driver string) (worker.ToolsConfig, error) {
	env, err := s.Tools.Environment()
	if err != nil {
		return worker.ToolsConfig{}, err
	}
	size := int64(s.Tools.MaxSize)
	return worker.ToolsConfig{
		Config: tools.Config{
			Mise: s.Tools.Mise, Registry: s.Tools.Registry, CAFile: trusted(s.Tools.CAFile), Env: env,
			Timeout: time.Duration(s.Tools.Timeout), Remember: time.Duration(s.Tools.Remember), Limits: untar.Limits{Bytes: size},
		},
		Driver: driver, Template: s.Tools.Template, MaxCache: int64(s.Tools.MaxCache),
		Machine: domain.Resources{
			MilliCPU: s.VM.MilliCPU, MemoryBytes: 2 << 30, PIDs: 4096,
			DiskBytes: 3*size + 1<<30, // the download, what is in it, and what the installation leaves around
		},
	}, nil
}

// trusted finds the file of certificates that installations trust. What this
// host trusts beyond the usual, such as a proxy that looks into connections,
// they have to trust to get through.
func trusted(file string) string {
	switch file {
	case "":
	case "none":
		return ""
	default:
		return file
	}
	for _, file := range []string{
		os.Getenv("SSL_CERT_FILE"),
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora and its kin
		"/etc/ssl/ca-bundle.pem",                            // SUSE
		"/etc/ssl/cert.pem",                                 // others
	} {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file
		}
	}
	return ""
}
