// Package migrations holds the database schemas as numbered goose migrations,
// one directory for each SQL dialect. A migration that was released is never
// edited; a change is a new number in every dialect.
package migrations

import (
	"embed"
	"io/fs"
)

//go:embed sqlite/*.sql
var files embed.FS

// SQLite gives the migrations for SQLite.
func SQLite() fs.FS {
	sub, err := fs.Sub(files, "sqlite")
	if err != nil {
		panic(err) // the directory is embedded above; fs.Sub only checks the name's form
	}
	return sub
}
