package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// run runs the program with a data directory in its environment.
func run(t *testing.T, dir string, args ...string) (code int, out, errs string) {
	t.Helper()
	return runIn(t, map[string]string{"AETHERIUM_DATA_DIR": dir}, args...)
}

func runIn(t *testing.T, env map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = command{args: args, out: &o, err: &e, env: func(name string) string { return env[name] }}.run(t.Context())
	return code, o.String(), e.String()
}

func TestUpDownStatusTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "aetherium.db")
	newest := newestVersion(t)
	for _, step := range []struct {
		env  string
		args []string
		want string
	}{
		{"", []string{"--db", db, "up"}, "applied 00001_initial.sql"},
		{dir, []string{"up"}, fmt.Sprintf("the schema is at version %d of %d", newest, newest)}, // again, found by the data directory
		{"", []string{"--db", db, "status"}, "00001_initial.sql"},
		{"", []string{"--db", db, "down"}, fmt.Sprintf("taken back %05d_", newest)},
		{"", []string{"--db", db, "to", "0"}, "taken back 00001_initial.sql"},
		{"", []string{"--db", db, "status"}, fmt.Sprintf("version 0 of %d", newest)},
		{"", []string{"--db", db, "to", "1"}, "applied 00001_initial.sql"},
		{"", []string{"--db", db, "up"}, fmt.Sprintf("applied %05d_", newest)},
		{"", []string{"--db", db, "to", "0"}, "taken back 00001_initial.sql"},
	} {
		code, out, errs := run(t, step.env, step.args...)
		if code != 0 || !strings.Contains(out, step.want) {
			t.Fatalf("%v: code %d, %q, %q", step.args, code, out, errs)
		}
	}
	// Going all the way back leaves nothing of ours.
	raw, err := sql.Open("sqlite", db)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	var left int
	if err := raw.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%'").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d tables left, %v", left, err)
	}
	if info, err := os.Stat(db); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// newestVersion is that of the last migration in this program.
func newestVersion(t *testing.T) int64 {
	t.Helper()
	m, err := sqlite.OpenMigrator(filepath.Join(t.TempDir(), "x.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	_, newest, err := m.Versions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return newest
}

func TestMisuse(t *testing.T) {
	t.Parallel()
	absent := filepath.Join(t.TempDir(), "absent.db")
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "--db FILE"},
		{[]string{"--db", absent}, 2, "say what to do"},
		{[]string{"--db", absent, "sideways"}, 2, "say what to do"},
		{[]string{"--db", absent, "to", "x"}, 2, "not a version"},
		{[]string{"--nonsense"}, 2, "nonsense"},
		{[]string{"--db", absent, "down"}, 1, "there is no database"},
		{[]string{"--db", absent, "status"}, 1, "there is no database"},
	} {
		code, _, errs := run(t, "", tc.args...)
		if code != tc.code || !strings.Contains(errs, tc.says) {
			t.Errorf("%v: code %d, %q", tc.args, code, errs)
		}
	}
	if _, err := os.Stat(absent); err == nil {
		t.Error("a refused command made a database")
	}
	if code, out, _ := run(t, "", "--help"); code != 0 || !strings.Contains(out, "Usage") {
		t.Errorf("help: %d, %q", code, out)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "a.db")
	s, err := sqlite.Open(t.Context(), db, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run(t, "", "--db", db, "to", "99"); code != 1 || !strings.Contains(errs, "no schema version 99") {
		t.Errorf("an unknown version: %d, %q", code, errs)
	}
	if code, _, _ := run(t, "", "--db", db, "to", "0"); code != 0 {
		t.Fatal("to 0")
	}
	if code, _, errs := run(t, "", "--db", db, "down"); code != 1 || !strings.Contains(errs, "no migration to take back") {
		t.Errorf("nothing to take back: %d, %q", code, errs)
	}
	text := filepath.Join(t.TempDir(), "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run(t, "", "--db", text, "status"); code != 1 || strings.Contains(errs, "SQLITE") {
		t.Errorf("not a database: %d, %q", code, errs)
	}
}

// The database may be named by a file, as for the other programs; a variable beats
// it, and what it does not know is refused with its line.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "migrate.yaml")
	for _, tc := range []struct {
		text, env string
		code      int
		made      string // the database
		says      string
	}{
		{"database: " + filepath.Join(dir, "named"), "", 0, "named", ""},
		{"data_dir: " + dir, "", 0, "aetherium.db", ""},
		{"database: " + filepath.Join(dir, "beaten"), filepath.Join(dir, "variable"), 0, "variable", ""},
		{"data_dir: " + dir + "\ndatabse: x", "", 1, "", "line 2"},
	} {
		if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := runIn(t, map[string]string{"AETHERIUM_DATABASE": tc.env}, "--config", file, "up")
		if code != tc.code || !strings.Contains(errs, tc.says) {
			t.Errorf("%q: code %d, %q, %q", tc.text, code, out, errs)
		}
		if tc.made != "" {
			if _, err := os.Stat(filepath.Join(dir, tc.made)); err != nil {
				t.Error(err)
			}
		}
	}
	shown := command{env: func(string) string { return "" }}
	if set, err := shown.settings("../../config/migrate.yaml"); err != nil || set.Database == "" {
		t.Errorf("the one that is shown: %+v, %v", set, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "beaten")); err == nil {
		t.Error("the file beats the variable")
	}
	if code, _, errs := runIn(t, nil, "copy", "--config", filepath.Join(dir, "none"), "--to", "postgres://db.example/x"); code != 1 || !strings.Contains(errs, "cannot be opened") {
		t.Errorf("no file: code %d, %q", code, errs)
	}
}
