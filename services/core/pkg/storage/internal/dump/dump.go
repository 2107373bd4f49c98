// Package dump is a database's rows on their way into another.
package dump

import (
	"context"
	"iter"
)

// Table is a table with what is needed to read and to write it.
type Table struct {
	Name    string
	Columns []string
	Key     []string // of the rows, in whose order they are read
}

// Source is a database that rows come from. Values are int64, float64, string,
// []byte or nil.
type Source interface {
	// Tables lists all tables, those that others refer to first.
	Tables() []Table
	// Rows gives a table's rows in the order of its key. A row is valid until the next.
	Rows(ctx context.Context, t Table) iter.Seq2[[]any, error]
	// LastEvent is the greatest number that an event ever had.
	LastEvent() int64
}
