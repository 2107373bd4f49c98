// Command worker (aetherium-worker) has the VMs on its host, for the gateways of
// the installation that it has joined.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/services/core/internal/workerd"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
)

const name = "aetherium-worker"

// readyVariable tells a worker that somebody waits for it to be ready.
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
		Use: name, Short: "Machines for AI agents: a host's worker",
		SilenceUsage: true, SilenceErrors: true, Version: version.String(),
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.PersistentFlags().StringVar(&p.configFile, "config", "", "YAML configuration file")
	root.AddCommand(p.serve(), p.down(), p.doctor(), p.reference())
	return root
}

func (p *program) load() (node.Settings, error) { return node.Load(p.configFile, p.environ) }

func (p *program) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the worker in the foreground; its VMs outlive it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			if err := daemon.Forget(settings.SealKeysVariable, settings.DatabaseVariable, settings.QueueVariable, node.TokenVariable); err != nil {
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
			return workerd.Serve(cmd.Context(), s, log, func() error { return daemon.Ready(readyVariable) })
		},
	}
}

func (p *program) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the worker's VMs and remove all it made on the host but its data", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, err := logging.New(p.stderr, logging.Format(s.Log.Format), s.Log.Level)
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
			fmt.Fprintf(p.stdout, "nothing is left running; the data is kept in %s\n", s.DataDir)
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
			log, err := logging.New(p.stderr, logging.Text, "error")
			if err != nil {
				return err
			}
			d, err := host.Examine(cmd.Context(), host.Settings{Common: s.Common, Host: s.Host}, log)
			if err != nil {
				return err
			}
			out := json.NewEncoder(p.stdout)
			out.SetIndent("", "  ")
			return out.Encode(d)
		},
	}
}

func (p *program) reference() *cobra.Command {
	return &cobra.Command{
		Use: "reference", Short: "Print every setting as Markdown", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d := node.Defaults()
			_, err := fmt.Fprint(p.stdout, config.Reference(&d, settings.Prefix))
			return err
		},
	}
}
