package sqlrepo

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type outbox struct{ tx *Tx }

// eventsAtOnce is how many a statement inserts: there is a text for each number
// of them, and statements are kept prepared.
const eventsAtOnce = 50

// Pending are the events of one transaction, or of several that are committed
// together. They are written right before the commit, with it.
type Pending struct {
	events []*domain.Event
	rows   []any // their columns, as they were when they were appended
}

// eventColumns is how many values are of an event.
const eventColumns = 6

// Len is how many there are.
func (p *Pending) Len() int { return len(p.events) }

// Statements inserts them, and gives each its number.
func (p *Pending) Statements() []Statement {
	var out []Statement
	rows := p.rows
	for some := range slices.Chunk(p.events, eventsAtOnce) {
		var seqs []int64
		out = append(out, Statement{
			Query: "INSERT INTO outbox (project_id, type, subject, vm_id, data, at) VALUES " + times("(?, ?, ?, ?, ?, ?)", len(some)) + " RETURNING seq",
			Args:  rows[:len(some)*eventColumns],
			Each: func(row Row) error {
				var seq int64
				err := row.Scan(&seq)
				if seqs = append(seqs, seq); len(seqs) == len(some) {
					slices.Sort(seqs) // they are given in the order of the values, and told in any
					for i, e := range some {
						e.Seq = seqs[i]
					}
				}
				return err
			},
		})
		rows = rows[len(some)*eventColumns:]
	}
	return out
}

func (r outbox) Append(_ context.Context, es ...*domain.Event) error {
	p := r.tx.pending
	for _, e := range es {
		if len(e.Data) > 0 && !json.Valid(e.Data) {
			return errors.New(errors.InvalidArgument, "an event's data must be JSON")
		}
		p.events = append(p.events, e)
		p.rows = append(p.rows, string(e.ProjectID), e.Type, string(e.Subject), string(e.VMID), rawJSON(e.Data), micros(e.At))
		r.tx.wrote = true
	}
	return nil
}

func (r outbox) List(ctx context.Context, f storage.EventFilter) ([]domain.Event, error) {
	if err := r.tx.Flush(ctx); err != nil {
		return nil, err
	}
	w := where{}
	if f.VMID != "" {
		w.add("vm_id <> ''")
		w.eq("vm_id", f.VMID)
	}
	w.eq("project_id", f.ProjectID)
	w.add("seq > ?", f.After)
	var out []domain.Event
	err := r.tx.s.Query(ctx, func(row Row) error {
		var e domain.Event
		err := row.Scan(&e.Seq, &e.ProjectID, &e.Type, &e.Subject, &e.VMID, scanRawJSON{&e.Data}, scanTime{&e.At})
		out = append(out, e)
		return err
	}, "SELECT seq, project_id, type, subject, vm_id, data, at FROM outbox"+w.String()+" ORDER BY seq LIMIT ?", append(w.args, clampLimit(f.Limit))...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (r outbox) Bounds(ctx context.Context) (oldest, newest int64, err error) {
	if err := r.tx.Flush(ctx); err != nil {
		return 0, 0, err
	}
	// Two look-ups at the ends of the key; MIN and MAX in one SELECT would scan.
	err = r.tx.s.Query(ctx, func(row Row) error { return row.Scan(&oldest, &newest) },
		"SELECT COALESCE((SELECT MIN(seq) FROM outbox), 0), COALESCE((SELECT MAX(seq) FROM outbox), 0)")
	return oldest, newest, err
}

func (r outbox) DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error) {
	if err := r.tx.Flush(ctx); err != nil {
		return 0, err
	}
	// Events come in order of time but for clock changes, so everything before
	// the first young one may go. Keeping the newest keeps Bounds true.
	n, err := r.tx.s.Exec(ctx, `DELETE FROM outbox WHERE seq IN (
		SELECT seq FROM outbox WHERE seq < COALESCE(
			(SELECT seq FROM outbox WHERE at >= ? ORDER BY seq LIMIT 1), (SELECT MAX(seq) FROM outbox))
		ORDER BY seq LIMIT ?)`, micros(before), clampLimit(limit))
	return int(n), err
}
