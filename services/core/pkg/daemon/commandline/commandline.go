// Package commandline is what the command lines of our servers have in common.
package commandline

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
)

// ReadyVariable tells a server that somebody waits for it to be ready.
const ReadyVariable = "AETHERIUM_READY_FD"

// Program is a server's program.
type Program struct {
	Name           string
	Environ        []string
	Stdout, Stderr io.Writer
	ConfigFile     string // what its flag says

	lost []prometheus.Collector
	loki *serverlog.Loki
	file *serverlog.Files
}

// Main runs a program until it ends or is told to, and gives its exit code.
func Main(run func(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
}

// Run runs one of the commands, and gives the exit code.
func (p *Program) Run(ctx context.Context, args []string, short string, commands ...*cobra.Command) int {
	root := &cobra.Command{Use: p.Name, Short: short, SilenceUsage: true, SilenceErrors: true, Version: version.String()}
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	root.PersistentFlags().StringVar(&p.ConfigFile, "config", "", "YAML configuration file")
	root.AddCommand(commands...)
	root.SetArgs(args)
	return daemon.Report(p.Name, root.ExecuteContext(ctx), p.Stderr)
}

// Logger logs as the settings say.
func (p *Program) Logger(s settings.Common) (*slog.Logger, error) {
	return logging.New(p.Stderr, logging.Format(s.Log.Format), s.Log.Level)
}

// Begin is how a server begins: secrets leave the environment, and the data
// directory is this process's until release. Returns Conflict while another has it.
func (p *Program) Begin(s settings.Common, secrets ...string) (log *slog.Logger, release func(), err error) {
	if err := daemon.Forget(append(secrets, settings.SealKeysVariable, settings.DatabaseVariable, settings.QueueVariable)...); err != nil {
		return nil, nil, err
	}
	if log, err = p.Logger(s); err != nil {
		return nil, nil, err
	}
	let, err := daemon.Hold(s.LockFile(), s.PIDFile())
	if err != nil {
		return log, let, err
	}
	log, shut, err := p.sinks(s.Log, log)
	if err != nil {
		let()
		return log, nil, err
	}
	redis.LogTo(log)
	return log, func() { let(); shut() }, nil
}

// Collectors are the metrics of what the program has begun.
func (p *Program) Collectors() []prometheus.Collector { return p.lost }

// Logs is where lines of servers can be read, Loki before files; nil: nowhere.
func (p *Program) Logs() serverlog.Source {
	switch {
	case p.loki != nil: // it has all servers' lines
		return p.loki
	case p.file != nil:
		return p.file
	}
	return nil
}

// Loki is where the lines of all servers are; nil: there is none.
func (p *Program) Loki() *serverlog.Loki { return p.loki }

// Files is where this process's own lines are; nil: in none.
func (p *Program) Files() *serverlog.Files { return p.file }

// Ready tells whoever started the server in the background that it serves.
func (p *Program) Ready() error { return daemon.Ready(ReadyVariable) }

// Reference is the command that prints every setting.
func (p *Program) Reference(defaults any) *cobra.Command {
	return &cobra.Command{
		Use: "reference", Short: "Print every setting as Markdown", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(p.Stdout, config.Reference(defaults, settings.Prefix))
			return err
		},
	}
}
