package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/services/core/pkg/daemon"
	"github.com/aetherium/aetherium/services/standalone/internal/app"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

func (p *program) keys() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys", Short: "See and change the keys that data at rest is under",
		Long: `Secrets, environments, preview tokens and commands are encrypted in the database.
These commands show and change the keys that they are under. The server must not
run meanwhile; its VMs run on.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(p.keysList(), p.keysRotate(), p.keysRemove(), p.keysNew())
	return cmd
}

// alone runs f while no server can.
func (p *program) alone(f func(s settings.Settings, log *slog.Logger) error) error {
	s, err := p.load()
	if err != nil {
		return err
	}
	log, err := logging.New(p.Stderr, logging.Text, "warn")
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.DataDir); err != nil {
		return errors.Wrap(err, errors.NotFound, "there is no installation in %s", s.DataDir).WithHint("AETHERIUM_DATA_DIR or data_dir names another directory")
	}
	lock, err := daemon.Lock(s.LockFile(), s.PIDFile())
	if errors.HasCode(err, errors.Conflict) {
		return errors.Wrap(err, errors.Conflict, "the server runs, and has keys and values in its memory").
			WithHint("`aetherium-standalone stop` ends it while its VMs run on; start it again afterwards")
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	return f(s, log)
}

func (p *program) keysList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the keys and what is under each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.alone(func(s settings.Settings, log *slog.Logger) error {
				keys, err := app.ListKeys(cmd.Context(), s, log)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(p.Stdout).Encode(keys)
				}
				return printKeys(p.Stdout, keys)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printKeys(out io.Writer, keys app.SealKeys) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tIN\tVALUES\tWHAT")
	for _, k := range keys.Keys {
		what := columns(k.Values)
		switch {
		case k.Newest:
			what = strings.TrimSuffix("newest; "+what, "; ")
		case k.Count() == 0:
			what = "unused"
		case k.From == "":
			what = "NOT AT HAND; " + what
		}
		from := k.From
		if from == "" {
			from = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", k.ID, from, k.Count(), what)
	}
	if len(keys.Damaged) > 0 {
		fmt.Fprintf(w, "-\t-\t-\tdamaged: %s\n", columns(keys.Damaged))
	}
	return w.Flush()
}

func columns(counts map[string]int) string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, c+" "+strconv.Itoa(counts[c]))
	}
	return strings.Join(parts, ", ")
}

func (p *program) keysRotate() *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Make a new key and bring everything under it", Args: cobra.NoArgs,
		Long: `Adds a new key to the key file and brings every sealed value under it. Where the
keys are in a key management service or in the settings, the new key is made
there first, and this brings everything under it.

It may be interrupted at any moment: everything still opens, and running it
again finishes it. Old keys stay until they are removed (keys rm).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.alone(func(s settings.Settings, log *slog.Logger) error { return p.rotate(cmd.Context(), s, log) })
		},
	}
}

func (p *program) rotate(ctx context.Context, s settings.Settings, log *slog.Logger) error {
	begun := false
	var last app.Rotation
	keys, err := app.RotateKeys(ctx, s, log, func(r app.Rotation) {
		if last = r; begun {
			return
		}
		begun = true
		if r.Added != "" {
			fmt.Fprintf(p.Stdout, "the key %s is made, in %s\n", r.Added, s.SealKeyFile())
		} else {
			fmt.Fprintln(p.Stdout, "not everything is under the newest key yet")
		}
	})
	if begun {
		fmt.Fprintf(p.Stdout, "%d values are under the newest key that were not\n", last.Done)
	}
	if len(keys.Keys) > 0 {
		err = errors.Join(err, printKeys(p.Stdout, keys))
	}
	if err != nil {
		return err
	}
	unused := 0
	for _, k := range keys.Keys {
		if k.Count() == 0 && !k.Newest && k.From == "file" {
			unused++
		}
	}
	if unused > 0 {
		fmt.Fprintln(p.Stdout, "unused keys can be removed (keys rm KEY), unless a backup of the database is to be opened again")
	}
	return nil
}

func (p *program) keysRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY", Short: "Remove a key that nothing is under from the key file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.alone(func(s settings.Settings, log *slog.Logger) error {
				if err := app.RemoveKey(cmd.Context(), s, log, args[0]); err != nil {
					return err
				}
				fmt.Fprintf(p.Stdout, "the key %s is removed; backups of the database from before need it\n", args[0])
				return nil
			})
		},
	}
}

func (p *program) keysNew() *cobra.Command {
	return &cobra.Command{
		Use: "new", Short: "Print a new key, for where keys are given by the settings", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.Stdout, seal.NewKey())
			return err
		},
	}
}
