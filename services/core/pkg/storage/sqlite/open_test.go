package sqlite_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

func TestStateOutlivesTheStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	for i, want := range []string{"first", "first"} {
		s := open(t, path)
		var got string
		if err := s.Update(t.Context(), func(tx storage.Tx) (err error) {
			got, err = tx.Settings().Init(t.Context(), "k", []string{"first", "second"}[i])
			return err
		}); err != nil || got != want {
			t.Fatalf("%q, %v", got, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesAreOurs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "a.db"))
	if err := s.Update(t.Context(), func(tx storage.Tx) error { return tx.Settings().Set(t.Context(), "k", "v") }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 3 {
		t.Fatalf("%v, %v: want the database, its log and the log's index", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	if !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "version 999") {
		t.Fatalf("got %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the refused file was changed (%v)", err)
	}
}

func TestUnusableFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	damaged := filepath.Join(dir, "damaged.db")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("this is no database. ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, code := range map[string]errors.Code{
		damaged:                                 errors.Internal,
		dir:                                     errors.Unavailable, // a directory
		filepath.Join(dir, "absent", "a.db"):    errors.Unavailable,
		filepath.Join(damaged, "file-as-a-dir"): errors.Unavailable,
	} {
		s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		if !errors.HasCode(err, code) {
			t.Errorf("%s: got %v, want %s", path, err, code)
		}
		if err == nil {
			_ = s.Close()
		} else if e := errors.Public(err); strings.Contains(e.Message, dir) {
			t.Errorf("the message tells a path: %s", e.Message)
		}
	}
}

// Another process that holds the write lock makes commits Unavailable in time,
// and reads go on.
func TestLockedByAnother(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{BusyTimeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	raw.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = raw.Close() })
	if _, err := raw.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	write := func() error {
		return s.Update(t.Context(), func(tx storage.Tx) error { return tx.Settings().Set(t.Context(), "k", "v") })
	}
	if err := write(); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("locked: %v", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("reading: %v", err)
	}
	if _, err := raw.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Errorf("free again: %v", err)
	}
}

// The write-ahead log is moved into the file while the store works, and starts
// over, also after a reader has held it up until it was long.
func TestLogStartsOver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	n := 0
	write := func() {
		n++
		big := strings.Repeat(string(rune('a'+n%26)), 64<<10)
		if err := s.Update(t.Context(), func(tx storage.Tx) error { return tx.Settings().Set(t.Context(), "k", big) }); err != nil {
			t.Fatal(err)
		}
	}
	// The salt in the log's header changes whenever the log starts over
	// (https://sqlite.org/fileformat2.html#walformat).
	salt := func() string {
		f, err := os.Open(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, 16); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write()
	for before := salt(); salt() == before; {
		write()
	}
	err := s.View(t.Context(), func(tx storage.Tx) error {
		if _, err := tx.Settings().Get(t.Context(), "k"); err != nil { // the view's state is fixed from here on
			return err
		}
		before := salt()
		for range 1100 { // 70 MiB
			write()
		}
		if salt() != before {
			t.Error("the log started over under a reader")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for before := salt(); salt() == before; {
		write()
	}
}

// A column is sealed if its name says so: whoever adds one has it rewrapped
// with the others, or a key would be thought unused that is not.
func TestEverySealedColumnIsKnown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	var known []string
	if err := s.View(t.Context(), func(tx storage.Tx) error {
		known = tx.Sealed().Columns()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	rows, err := raw.QueryContext(t.Context(), `SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c
		WHERE t.type = 'table' AND c.name LIKE '%sealed%' UNION SELECT 'settings.value' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var there []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		there = append(there, name)
	}
	slices.Sort(known)
	if rows.Err() != nil || !slices.Equal(known, there) {
		t.Errorf("the schema has %v, storage.Sealed knows %v (%v)", there, known, rows.Err())
	}
}
