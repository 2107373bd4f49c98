package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// outlive are the tables whose rows stay when their project goes.
var outlive = []string{"audit"}

// Whatever has a project goes with it: every table says so by a reference, or
// is emptied by name. A table that is new is seen here.
func TestEveryTenantTableGoesWithItsProject(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	s := open(t, path)
	p := &domain.Project{ID: domain.NewID(), Name: "p"}
	if err := s.Update(t.Context(), func(tx storage.Tx) error { return tx.Projects().Insert(t.Context(), p) }); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	rows, err := raw.QueryContext(t.Context(), `SELECT m.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
		WHERE m.type = 'table' AND c.name = 'project_id' ORDER BY m.name`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := rows.Err(); err != nil || len(tables) < 15 {
		t.Fatal(tables, err)
	}
	// A row of the project in each table, whatever else is in it.
	for _, table := range tables {
		fill(t, raw, table, p.ID)
	}
	if err := s.Update(t.Context(), func(tx storage.Tx) error { return tx.Projects().Delete(t.Context(), p.ID) }); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		var n int
		if err := raw.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if stays := slices.Contains(outlive, table); (n > 0) != stays {
			t.Errorf("%s has %d rows of a project that is gone", table, n)
		}
	}
}

// fill puts a row of a project into a table.
func fill(t *testing.T, raw *sql.DB, table string, project domain.ID) {
	t.Helper()
	info, err := raw.QueryContext(t.Context(), "SELECT name, type, \"notnull\", pk FROM pragma_table_info(?)", table)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = info.Close() }()
	var columns, values []string
	for info.Next() {
		var name, kind string
		var notNull, pk int
		if err := info.Scan(&name, &kind, &notNull, &pk); err != nil {
			t.Fatal(err)
		}
		if notNull == 0 && pk == 0 {
			continue
		}
		value := map[string]string{"TEXT": "'x'", "INTEGER": "1", "REAL": "1", "BLOB": "x'00'"}[kind]
		switch {
		case name == "project_id":
			value = "'" + string(project) + "'"
		case name == "kind" && table == "names":
			value = "'template'"
		case name == "observed":
			value = "'deleted'"
		}
		columns, values = append(columns, name), append(values, value)
	}
	if err := info.Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.ExecContext(t.Context(), "INSERT INTO "+table+" ("+strings.Join(columns, ", ")+") VALUES ("+strings.Join(values, ", ")+")"); err != nil {
		t.Fatalf("%s: %v", table, err)
	}
}
