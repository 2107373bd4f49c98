package sqlrepo

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const defaultLimit = 100

func clampLimit(n int) int {
	if n <= 0 {
		return defaultLimit
	}
	return min(n, storage.MaxPage)
}

// where collects conditions, all of which must hold, and their arguments.
type where struct {
	conds []string
	args  []any
}

func (w *where) add(cond string, args ...any) {
	w.conds = append(w.conds, cond)
	w.args = append(w.args, args...)
}

// clone is a copy that can be added to.
func (w *where) clone() where {
	return where{conds: slices.Clone(w.conds), args: slices.Clone(w.args)}
}

// eq adds "column = value" unless the value is empty.
func (w *where) eq(column string, value domain.ID) {
	if value != "" {
		w.add(column+" = ?", string(value))
	}
}

// anyOf adds "column IN (values)" unless there are none.
func anyOf[T ~string](w *where, column string, values []T) {
	if len(values) == 0 {
		return
	}
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = string(v)
	}
	w.add(column+" IN ("+placeholders(len(values))+")", args...)
}

func (w *where) String() string {
	if len(w.conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conds, " AND ")
}

// cursor is the place of the last row of a page.
type cursor struct {
	order vmm.Order
	at    int64 // creation time, microseconds
	id    domain.ID
}

const cursorVersion = "1"

func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(
		[]string{cursorVersion, string(c.order), strconv.FormatInt(c.at, 10), string(c.id)}, ".")))
}

func parseCursor(s string, order vmm.Order) (cursor, error) {
	bad := errors.New(errors.InvalidArgument, "the cursor is not one that a list returned").WithField("cursor")
	if len(s) > 256 {
		return cursor{}, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return cursor{}, bad
	}
	parts := strings.Split(string(b), ".")
	if len(parts) != 4 || parts[0] != cursorVersion || !domain.IsID(parts[3]) {
		return cursor{}, bad
	}
	at, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return cursor{}, bad
	}
	if vmm.Order(parts[1]) != order {
		return cursor{}, errors.New(errors.InvalidArgument, "the cursor belongs to a list in the other order").WithField("cursor")
	}
	return cursor{order: order, at: at, id: domain.ID(parts[3])}, nil
}

// page runs a list query in order of (created_at, id) and cuts a page off.
// base is the SELECT up to, but without, WHERE.
func page[T any](ctx context.Context, s Session, base string, w *where, p storage.Page,
	scan func(Row) (*T, error), key func(*T) (time.Time, domain.ID),
) (storage.List[*T], error) {
	var out storage.List[*T]
	order, direction, beyond := vmm.NewestFirst, " DESC", "<"
	switch p.Order {
	case "", vmm.NewestFirst:
	case vmm.OldestFirst:
		order, direction, beyond = vmm.OldestFirst, "", ">"
	default:
		return out, errors.New(errors.InvalidArgument, "the order is either %q or %q", vmm.OldestFirst, vmm.NewestFirst).WithField("order")
	}
	if p.Cursor != "" {
		c, err := parseCursor(p.Cursor, order)
		if err != nil {
			return out, err
		}
		w.add("(created_at, id) "+beyond+" (?, ?)", c.at, string(c.id))
	}
	limit := clampLimit(p.Limit)
	query := base + w.String() + " ORDER BY created_at" + direction + ", id" + direction + " LIMIT ?"
	items, err := queryAll(ctx, s, scan, query, append(w.args, limit+1)...)
	if err != nil {
		return out, err
	}
	if len(items) > limit {
		items = items[:limit]
		at, id := key(items[limit-1])
		out.Next = cursor{order: order, at: micros(at), id: id}.String()
	}
	out.Items = items
	return out, nil
}

// times is a text n times, with commas in between; n is 1 or more.
func times(text string, n int) string { return text + strings.Repeat(", "+text, n-1) }

// placeholders is "?, ?, …" for n values; n is 1 or more.
func placeholders(n int) string { return times("?", n) }

// marks is placeholders for as many columns.
func marks(cols string) string { return placeholders(strings.Count(cols, ",") + 1) }

// sets is "a = ?, b = ?, …".
func sets(cols string) string { return strings.ReplaceAll(cols, ", ", " = ?, ") + " = ?" }

// of is columns of a table in a statement of several.
func of(table, cols string) string {
	return table + "." + strings.ReplaceAll(cols, ", ", ", "+table+".")
}

// exists is 1 where there is such a row, and 0 elsewhere.
func exists(row string) string {
	return "CASE WHEN EXISTS (SELECT 1 FROM " + row + ") THEN 1 ELSE 0 END"
}

// excluded is "a = excluded.a, b = excluded.b, …".
func excluded(cols string) string {
	names := strings.Split(cols, ", ")
	for i, c := range names {
		names[i] = c + " = excluded." + c
	}
	return strings.Join(names, ", ")
}
