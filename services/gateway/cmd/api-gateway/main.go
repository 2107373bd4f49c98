// Command api-gateway (aetherium-gateway) serves the API, previews and streams of
// an installation whose workers are processes of their own.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/services/core/pkg/daemon/commandline"
	"github.com/aetherium/aetherium/services/gateway/internal/gatewayd"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

func main() { os.Exit(commandline.Main(run)) }

// run is main as a value: it returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &program{commandline.Program{Name: "aetherium-gateway", Environ: environ, Stdout: stdout, Stderr: stderr}}
	defaults := settings.DefaultGateway()
	return p.Run(ctx, args, "Machines for AI agents: the API of many workers", p.serve(), p.health(), p.Reference(&defaults))
}

type program struct{ commandline.Program }

func (p *program) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the gateway in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.LoadGateway(p.ConfigFile, p.Environ)
			if err != nil {
				return err
			}
			log, release, err := p.Begin(s.Common)
			if err != nil {
				return err
			}
			defer release()
			if !s.Loopback() {
				log.Warn("the API can be reached from other hosts; its keys are all that protects it", "address", s.Listen.Address, "tls", s.TLS.Address)
			}
			return gatewayd.Serve(cmd.Context(), s, log, p.Collectors(), gatewayd.Logs{Loki: p.Loki(), File: p.Files()}, func(string) error { return p.Ready() })
		},
	}
}

func (p *program) health() *cobra.Command {
	return p.Healthcheck(func() (address, path string, err error) {
		s, err := settings.LoadGateway(p.ConfigFile, p.Environ)
		return s.Listen.Address, "/ready", err
	})
}
