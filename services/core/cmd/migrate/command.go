package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage/migrations"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// command is the program as a value.
type command struct {
	args     []string
	out, err io.Writer
	env      func(string) string
}

const usage = `Usage: aetherium-migrate [--config FILE] [--db DATABASE] up|down|status|to VERSION
       aetherium-migrate copy [--config FILE] [--from sqlite:FILE] [--to postgres://...]

Changes the schema of a database, or copies one to PostgreSQL. A server migrates
up by itself when it starts; this is for going back, for looking, and for
migrating before new servers start. Servers are stopped before anything but up
and status.

  up           apply every migration that is missing
  down         take the newest migration back (its data is lost)
  status       list the migrations and which are applied
  to VERSION   go up or down to a version; 0 is the empty database
  copy         copy all rows of a file to an empty PostgreSQL database, in one
               transaction, and read them back

  --config FILE   YAML with the settings database and data_dir; a variable beats it
  --db DATABASE   a file, or postgres://user@host:5432/name; default: the setting
                  database ($AETHERIUM_DATABASE), else aetherium.db in data_dir
                  ($AETHERIUM_DATA_DIR)
  --from          default: aetherium.db in data_dir
  --to            default: the setting database

A password is better in the file or the variable, or in a file named by
$PGPASSFILE, than on the command line, where others on the host see it.
`

// settings are those of the other programs that this one needs.
type settings struct {
	Database string `yaml:"database" doc:"File, or URL of PostgreSQL."`
	DataDir  string `yaml:"data_dir" doc:"Where the file is if no database is named."`
}

// run executes the command and gives the exit code: 0, 1 for a failure, 2 for wrong use.
func (c command) run(ctx context.Context) int {
	if len(c.args) > 0 && c.args[0] == "copy" {
		return c.copy(ctx, c.args[1:])
	}
	flags := newFlags()
	file, db := flags.String("config", "", ""), flags.String("db", "", "")
	if code, ok := c.parse(flags, c.args); !ok {
		return code
	}
	set, err := c.settings(*file)
	if err != nil {
		return c.failed(err)
	}
	if *db == "" {
		*db = cmp.Or(set.Database, set.file())
	}
	if *db == "" {
		return c.misused("say which database: --db FILE")
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
		return c.misused("say what to do: up, down, status, to VERSION or copy")
	}
	if err := c.open(ctx, *db, creates, act); err != nil {
		return c.failed(err)
	}
	return 0
}

func newFlags() *flag.FlagSet {
	flags := flag.NewFlagSet("aetherium-migrate", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}

// parse reads flags; where it is not ok the command ends with a code.
func (c command) parse(flags *flag.FlagSet, args []string) (code int, ok bool) {
	err := flags.Parse(args)
	switch {
	case err == nil:
		return 0, true
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(c.out, usage)
		return 0, false
	}
	return c.misused("%v", err), false
}

// settings are the file's, if one is named, and the environment's.
func (c command) settings(file string) (set settings, err error) {
	var environ []string
	for _, name := range []string{"AETHERIUM_DATABASE", "AETHERIUM_DATA_DIR"} {
		if v := c.env(name); v != "" {
			environ = append(environ, name+"="+v)
		}
	}
	return set, config.Load(&set, file, "AETHERIUM", environ)
}

// file is the data directory's; empty: there is none.
func (s settings) file() string {
	if s.DataDir == "" {
		return ""
	}
	return filepath.Join(s.DataDir, "aetherium.db")
}

func (c command) open(ctx context.Context, db string, creates bool, act func(context.Context, *migrations.Migrator) error) error {
	m, err := openMigrator(db, creates)
	if err != nil {
		return err
	}
	err = act(ctx, m)
	return errors.Join(err, m.Close())
}

func openMigrator(db string, creates bool) (*migrations.Migrator, error) {
	if postgres.IsURL(db) {
		return postgres.OpenMigrator(db)
	}
	if _, err := os.Stat(db); err != nil && !creates {
		return nil, errors.Wrap(err, errors.NotFound, "there is no database %s", db)
	}
	return sqlite.OpenMigrator(db, sqlite.Options{})
}

func (c command) copy(ctx context.Context, args []string) int {
	flags := newFlags()
	named, from, to := flags.String("config", "", ""), flags.String("from", "", ""), flags.String("to", "", "")
	if code, ok := c.parse(flags, args); !ok {
		return code
	}
	set, err := c.settings(*named)
	if err != nil {
		return c.failed(err)
	}
	file := strings.TrimPrefix(cmp.Or(*from, set.file()), "sqlite:")
	*to = cmp.Or(*to, set.Database)
	switch {
	case flags.NArg() > 0:
		return c.misused("copy takes no %q", flags.Arg(0))
	case file == "" || postgres.IsURL(file):
		return c.misused("say which file is copied: --from sqlite:FILE")
	case !postgres.IsURL(*to):
		return c.misused("say which database it is copied to: --to postgres://user@host:5432/name")
	}
	if err := c.transfer(ctx, file, *to); err != nil {
		return c.failed(err)
	}
	return 0
}

func (c command) transfer(ctx context.Context, file, to string) error {
	from, err := sqlite.OpenDump(ctx, file)
	if err != nil {
		return err
	}
	var rows int64
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	err = postgres.Copy(ctx, to, from, func(t postgres.Copied) {
		rows += t.Rows
		_, _ = fmt.Fprintf(w, "%s\t%d\n", t.Table, t.Rows)
	})
	if err := errors.Join(err, from.Close()); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "\n%d rows are copied, and came back as they were\n", rows)
	return w.Flush()
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
