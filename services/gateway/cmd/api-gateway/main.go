// Command api-gateway (aetherium-gateway) serves the API, previews and streams of
// an installation whose workers are processes of their own.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	core "github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/gateway/internal/gatewayd"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

const name = "aetherium-gateway"

// readyVariable tells a gateway that somebody waits for it to be ready.
const readyVariable = "AETHERIUM_READY_FD"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	p := &program{environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr}
	cmd := p.root()
	cmd.SetArgs(os.Args[1:])
	code := daemon.Report(name, cmd.ExecuteContext(ctx), os.Stderr)
	stop()
	os.Exit(code)
}

type program struct {
	environ        []string
	stdout, stderr io.Writer
	configFile     string
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use: name, Short: "Machines for AI agents: the API of many workers",
		SilenceUsage: true, SilenceErrors: true, Version: version.String(),
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.PersistentFlags().StringVar(&p.configFile, "config", "", "YAML configuration file")
	root.AddCommand(p.serve(), p.reference())
	return root
}

func (p *program) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the gateway in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.LoadGateway(p.configFile, p.environ)
			if err != nil {
				return err
			}
			if err := daemon.Forget(core.SealKeysVariable, core.DatabaseVariable, core.QueueVariable); err != nil {
				return err
			}
			log, err := logging.New(p.stderr, logging.Format(s.Log.Format), s.Log.Level)
			if err != nil {
				return err
			}
			redis.LogTo(log)
			release, err := daemon.Hold(s.LockFile(), s.PIDFile())
			if err != nil {
				return err
			}
			defer release()
			if !s.Loopback() {
				log.Warn("the API can be reached from other hosts; its keys are all that protects it", "address", s.Listen.Address, "tls", s.TLS.Address)
			}
			return gatewayd.Serve(cmd.Context(), s, log, func(string) error { return daemon.Ready(readyVariable) })
		},
	}
}

func (p *program) reference() *cobra.Command {
	return &cobra.Command{
		Use: "reference", Short: "Print every setting as Markdown", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d := settings.DefaultGateway()
			_, err := fmt.Fprint(p.stdout, config.Reference(&d, core.Prefix))
			return err
		},
	}
}
