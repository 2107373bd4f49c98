// Command worker (aetherium-worker) has the VMs on its host, for the gateways of
// the installation that it has joined.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/internal/workerd"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/core/pkg/daemon/commandline"
	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
)

func main() { os.Exit(commandline.Main(run)) }

// run is main as a value: it returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &program{commandline.Program{Name: "aetherium-worker", Environ: environ, Stdout: stdout, Stderr: stderr}}
	defaults := node.Defaults()
	return p.Run(ctx, args, "Machines for AI agents: a host's worker", p.serve(), p.down(), p.doctor(), p.health(), p.Reference(&defaults))
}

type program struct{ commandline.Program }

func (p *program) load() (node.Settings, error) { return node.Load(p.ConfigFile, p.Environ) }

func (p *program) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the worker in the foreground; its VMs outlive it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, release, err := p.Begin(s.Common, node.TokenVariable, node.StorageKeyVariable)
			if err != nil {
				return err
			}
			defer release()
			return workerd.Serve(cmd.Context(), s, log, p.Collectors(), p.Files(), p.Ready)
		},
	}
}

func (p *program) health() *cobra.Command {
	return p.Healthcheck(func() (address, path string, err error) {
		s, err := p.load()
		return s.Worker.Metrics, "/healthz", err
	})
}

func (p *program) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the worker's VMs and remove all it made on the host but its data", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, err := p.Logger(s.Common)
			if err != nil {
				return err
			}
			release, err := daemon.Hold(s.LockFile(), s.PIDFile())
			if errors.HasCode(err, errors.Conflict) {
				return errors.Wrap(err, errors.Conflict, "the worker runs").WithHint("end it first")
			}
			if err != nil {
				return err
			}
			defer release()
			if err := workerd.Down(cmd.Context(), s, log); err != nil {
				return err
			}
			fmt.Fprintf(p.Stdout, "nothing is left running; the data is kept in %s\n", s.DataDir)
			return nil
		},
	}
}

func (p *program) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Show what this host offers, by trying it, as JSON", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, err := logging.New(p.Stderr, logging.Text, "error")
			if err != nil {
				return err
			}
			d, err := host.Examine(cmd.Context(), host.Settings{Common: s.Common, Host: s.Host}, log)
			if err != nil {
				return err
			}
			out := json.NewEncoder(p.Stdout)
			out.SetIndent("", "  ")
			return out.Encode(d)
		},
	}
}
