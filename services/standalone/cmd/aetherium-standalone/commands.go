package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/core/pkg/daemon/commandline"
	"github.com/aetherium/aetherium/services/core/pkg/host"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
	"github.com/aetherium/aetherium/services/standalone/internal/app"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// startLimit bounds how long start waits for the server; taking up many VMs takes a while.
const startLimit = 2 * time.Minute

func (p *program) load() (settings.Settings, error) { return settings.Load(p.ConfigFile, p.Environ) }

func (p *program) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the server in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, release, err := p.Begin(s.Common, node.StorageKeyVariable)
			if err != nil {
				return err
			}
			defer release()
			if !s.Loopback() {
				log.Warn("the API can be reached from other hosts; its keys are all that protects it", "address", s.Listen.Address, "tls", s.TLS.Address)
			}
			return app.Serve(cmd.Context(), s, log, p.Collectors(), p.Logs(), p.Ready)
		},
	}
}

func (p *program) health() *cobra.Command {
	return p.Healthcheck(func() (address, path string, err error) {
		s, err := p.load()
		return s.Listen.Address, "/ready", err
	})
}

func (p *program) start() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "start", Short: "Start the server in the background, and make the base template the first time", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			pid, err := daemon.Running(s.LockFile(), s.PIDFile())
			if err != nil {
				return err
			}
			if pid != 0 {
				fmt.Fprintf(p.Stdout, "the server is running (pid %d)\n", pid)
			} else if err := p.launch(cmd.Context(), s); err != nil {
				return err
			}
			return p.awaitBase(cmd.Context(), s, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not show the progress of the base template")
	return cmd
}

func (p *program) launch(ctx context.Context, s settings.Settings) error {
	exe, err := os.Executable()
	if err != nil {
		return errors.Wrap(err, errors.Internal, "this program's path is not known")
	}
	argv := []string{exe, "serve"}
	if p.ConfigFile != "" {
		file, err := filepath.Abs(p.ConfigFile)
		if err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "the configuration file's path cannot be resolved")
		}
		argv = append(argv, "--config", file)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := daemon.Start(ctx, s.LogFile(), commandline.ReadyVariable, argv); err != nil {
		return err
	}
	fmt.Fprintf(p.Stdout, "the server has started; it logs to %s\n", s.LogFile())
	return nil
}

// awaitBase shows how the base template is made, and waits until it is.
func (p *program) awaitBase(ctx context.Context, s settings.Settings, quiet bool) error {
	if s.Base.Skip {
		return nil
	}
	c, err := p.client(s)
	if err != nil {
		return err
	}
	defer c.Close()
	tmpl, err := c.Template(ctx, "base")
	if err != nil {
		return err
	}
	if tmpl.Tags["latest"] != "" {
		return nil
	}
	if len(tmpl.Builds) == 0 {
		return errors.New(errors.Unavailable, "the base template is not being made").WithHint("see %s", s.LogFile())
	}
	fmt.Fprintln(p.Stdout, "making the base template (once; about a minute)")
	out := p.Stdout
	if quiet {
		out = io.Discard
	}
	if err := c.FollowBuildLog(ctx, tmpl.Builds[0].ID, out); err != nil {
		return err
	}
	if tmpl, err = c.Template(ctx, "base"); err != nil {
		return err
	}
	if tmpl.Tags["latest"] == "" {
		return errors.New(errors.Unavailable, "the base template could not be made").WithHint("see above and %s; the next start tries again", s.LogFile())
	}
	return nil
}

// client talks to the running server with its first key.
func (p *program) client(s settings.Settings) (*client.Client, error) {
	text, err := os.ReadFile(s.ClientFile())
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "the server has not said where it is")
	}
	var at struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(text, &at); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the file %s is damaged", s.ClientFile())
	}
	key, err := os.ReadFile(s.KeyFile())
	if err != nil {
		return nil, errors.Wrap(err, errors.PermissionDenied, "the key cannot be read")
	}
	return client.New(client.Options{URL: at.URL, Key: strings.TrimSpace(string(key)), UserAgent: "aetherium-standalone"})
}

func (p *program) stop() *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "Stop the server; its VMs run on and are taken up by the next start", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			return p.halt(cmd.Context(), s)
		},
	}
}

func (p *program) halt(ctx context.Context, s settings.Settings) error {
	pid, err := daemon.Running(s.LockFile(), s.PIDFile())
	if err != nil {
		return err
	}
	if pid == 0 {
		fmt.Fprintln(p.Stdout, "no server is running")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := daemon.Stop(ctx, pid); err != nil {
		return err
	}
	fmt.Fprintln(p.Stdout, "the server has stopped")
	return nil
}

func (p *program) down() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the server and its VMs and remove all it made on the host but its data", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, err := p.Logger(s.Common)
			if err != nil {
				return err
			}
			if err := p.halt(cmd.Context(), s); err != nil {
				return err
			}
			if err := p.teardown(cmd.Context(), s, log); err != nil {
				return err
			}
			_ = os.Remove(s.ClientFile())
			if !purge {
				fmt.Fprintf(p.Stdout, "nothing is left running; the data is kept in %s\n", s.DataDir)
				return nil
			}
			if err := os.RemoveAll(s.DataDir); err != nil {
				return errors.Wrap(err, errors.Internal, "the data directory cannot be removed")
			}
			if s.Postgres() {
				fmt.Fprintln(p.Stdout, "nothing is left but the database, which is PostgreSQL's to drop")
				return nil
			}
			fmt.Fprintln(p.Stdout, "nothing is left")
			return nil
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the data directory too: templates, disks, everything")
	return cmd
}

func (p *program) teardown(ctx context.Context, s settings.Settings, log *slog.Logger) error {
	if _, err := os.Stat(s.DataDir); os.IsNotExist(err) {
		return nil
	}
	lock, err := daemon.Lock(s.LockFile(), s.PIDFile())
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	return app.Down(ctx, s, log)
}

func (p *program) doctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Show what this host offers, by trying it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.load()
			if err != nil {
				return err
			}
			log, err := logging.New(p.Stderr, logging.Text, "error")
			if err != nil {
				return err
			}
			d, err := app.Examine(cmd.Context(), s, log)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(p.Stdout).Encode(d)
			}
			return printDoctor(p.Stdout, d)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printDoctor(out io.Writer, d host.Doctor) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DRIVER\tUSABLE\tISOLATION\tVERSION\tCAPABILITIES OR REASON")
	for _, i := range d.Drivers {
		what := strings.Join(i.Capabilities, " ")
		if !i.Usable {
			what = i.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Name, yes(i.Usable), i.Isolation, i.Version, what)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nWHAT\tOK\tDETAIL")
	for _, f := range d.Findings {
		detail := f.Detail
		if !f.OK && f.Hint != "" {
			detail += " (" + f.Hint + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.What, yes(f.OK), detail)
	}
	return w.Flush()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
