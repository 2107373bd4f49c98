// Package migrations holds the database schemas as numbered goose migrations,
// one directory for each SQL dialect, and brings databases to a version. A
// migration that was released is never edited; a change is a new number in
// every dialect, and all dialects end in the same tables, columns and indexes.
package migrations

import (
	"embed"
	"io/fs"
)

//go:embed sqlite/*.sql postgres/*.sql
var files embed.FS

// SQLite gives the migrations for SQLite.
func SQLite() fs.FS { return of("sqlite") }

// Postgres gives the migrations for PostgreSQL.
func Postgres() fs.FS { return of("postgres") }

func of(dialect string) fs.FS {
	sub, err := fs.Sub(files, dialect)
	if err != nil {
		panic(err) // the directory is embedded above; fs.Sub only checks the name's form
	}
	return sub
}
