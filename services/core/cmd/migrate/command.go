package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/migrations"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// command is the program as a value.
type command struct {
	args     []string
	out, err io.Writer
	env      func(string) string
}

const usage = `Usage: aetherium-migrate [--db FILE] up|down|status|to VERSION

Changes the schema of a database that no server uses. The server itself
migrates up when it starts; this is for going back and for looking.

  up           apply every migration that is missing
  down         take the newest migration back (its data is lost)
  status       list the migrations and which are applied
  to VERSION   go up or down to a version; 0 is the empty database

  --db FILE    the database file; default: aetherium.db in $AETHERIUM_DATA_DIR
`

// run executes the command and gives the exit code: 0, 1 for a failure, 2 for wrong use.
func (c command) run(ctx context.Context) int {
	flags := flag.NewFlagSet("aetherium-migrate", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("db", "", "")
	if err := flags.Parse(c.args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = io.WriteString(c.out, usage)
			return 0
		}
		return c.misused("%v", err)
	}
	if *path == "" {
		dir := c.env("AETHERIUM_DATA_DIR")
		if dir == "" {
			return c.misused("say which database: --db FILE")
		}
		*path = filepath.Join(dir, "aetherium.db")
	}
	var act func(context.Context, *migrations.Migrator) error
	creates := false
	switch rest := flags.Args(); {
	case len(rest) == 1 && rest[0] == "up":
		act, creates = c.changes(func(ctx context.Context, m *migrations.Migrator) ([]migrations.Migration, error) { return m.Up(ctx) }), true
	case len(rest) == 1 && rest[0] == "down":
		act = c.changes(func(ctx context.Context, m *migrations.Migrator) ([]migrations.Migration, error) { return m.Down(ctx) })
	case len(rest) == 1 && rest[0] == "status":
		act = c.status
	case len(rest) == 2 && rest[0] == "to":
		version, err := strconv.ParseInt(rest[1], 10, 64)
		if err != nil || version < 0 {
			return c.misused("%q is not a version", rest[1])
		}
		act = c.changes(func(ctx context.Context, m *migrations.Migrator) ([]migrations.Migration, error) {
			return m.To(ctx, version)
		})
	default:
		return c.misused("say what to do: up, down, status or to VERSION")
	}
	if err := c.open(ctx, *path, creates, act); err != nil {
		return c.failed(err)
	}
	return 0
}

func (c command) open(ctx context.Context, path string, creates bool, act func(context.Context, *migrations.Migrator) error) error {
	if _, err := os.Stat(path); err != nil && !creates {
		return errors.Wrap(err, errors.NotFound, "there is no database %s", path)
	}
	m, err := sqlite.OpenMigrator(path, sqlite.Options{})
	if err != nil {
		return err
	}
	err = act(ctx, m)
	return errors.Join(err, m.Close())
}

// changes tells what a change of the schema did.
func (c command) changes(do func(context.Context, *migrations.Migrator) ([]migrations.Migration, error)) func(context.Context, *migrations.Migrator) error {
	return func(ctx context.Context, m *migrations.Migrator) error {
		done, err := do(ctx, m)
		for _, d := range done {
			what := "taken back"
			if d.Applied {
				what = "applied"
			}
			_, _ = fmt.Fprintf(c.out, "%s %s (%s)\n", what, d.Name, d.Took.Round(time.Millisecond))
		}
		if err != nil {
			return err
		}
		current, newest, err := m.Versions(ctx)
		if err == nil {
			_, err = fmt.Fprintf(c.out, "the schema is at version %d of %d\n", current, newest)
		}
		return err
	}
}

func (c command) status(ctx context.Context, m *migrations.Migrator) error {
	current, newest, err := m.Versions(ctx)
	if err != nil {
		return err
	}
	list, err := m.Status(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "VERSION\tNAME\tAPPLIED")
	for _, s := range list {
		at := "no"
		if s.Applied {
			at = s.AppliedAt.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\n", s.Version, s.Name, at)
	}
	_, _ = fmt.Fprintf(w, "\nthe schema is at version %d of %d\n", current, newest)
	if current > newest {
		_, _ = fmt.Fprintln(w, "a newer program made it; this one must not use it")
	}
	return w.Flush()
}

func (c command) misused(format string, args ...any) int {
	_, _ = fmt.Fprintf(c.err, "aetherium-migrate: "+format+"\n\n"+usage, args...)
	return 2
}

func (c command) failed(err error) int {
	e := errors.Public(err)
	_, _ = fmt.Fprintf(c.err, "aetherium-migrate: %s\n", e.Message)
	if e.Hint != "" {
		_, _ = fmt.Fprintf(c.err, "hint: %s\n", e.Hint)
	}
	return 1
}
