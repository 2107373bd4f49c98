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

func (r outbox) Append(ctx context.Context, es ...*domain.Event) error {
	const row = "(?, ?, ?, ?, ?, ?)"
	for some := range slices.Chunk(es, eventsAtOnce) {
		var args []any
		for _, e := range some {
			if len(e.Data) > 0 && !json.Valid(e.Data) {
				return errors.New(errors.InvalidArgument, "an event's data must be JSON")
			}
			args = append(args, string(e.ProjectID), e.Type, string(e.Subject), string(e.VMID), rawJSON(e.Data), micros(e.At))
		}
		var seqs []int64
		err := r.tx.s.Query(ctx, func(row Row) error {
			var seq int64
			err := row.Scan(&seq)
			seqs = append(seqs, seq)
			return err
		}, "INSERT INTO outbox (project_id, type, subject, vm_id, data, at) VALUES "+times(row, len(some))+" RETURNING seq", args...)
		if err != nil {
			return fault(err, "writing an event")
		}
		slices.Sort(seqs) // they are given in the order of the values, and told in any
		for i, e := range some {
			e.Seq = seqs[i]
		}
		r.tx.wrote = true
	}
	return nil
}

func (r outbox) List(ctx context.Context, f storage.EventFilter) ([]domain.Event, error) {
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
	// Two look-ups at the ends of the key; MIN and MAX in one SELECT would scan.
	err = r.tx.s.Query(ctx, func(row Row) error { return row.Scan(&oldest, &newest) },
		"SELECT COALESCE((SELECT MIN(seq) FROM outbox), 0), COALESCE((SELECT MAX(seq) FROM outbox), 0)")
	return oldest, newest, err
}

func (r outbox) DeleteBefore(ctx context.Context, before time.Time, limit int) (int, error) {
	// Events come in order of time but for clock changes, so everything before
	// the first young one may go. Keeping the newest keeps Bounds true.
	n, err := r.tx.s.Exec(ctx, `DELETE FROM outbox WHERE seq IN (
		SELECT seq FROM outbox WHERE seq < COALESCE(
			(SELECT seq FROM outbox WHERE at >= ? ORDER BY seq LIMIT 1), (SELECT MAX(seq) FROM outbox))
		ORDER BY seq LIMIT ?)`, micros(before), clampLimit(limit))
	return int(n), err
}
