package worker

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
)

// counted counts the transactions that write.
type counted struct {
	storage.Store
	n int
}

func (t *counted) Update(ctx context.Context, f func(storage.Tx) error) error {
	t.n++
	return t.Store.Update(ctx, f)
}

// What is pending after an outage is written a bounded number at a time, all of it and
// in order.
func TestManyRowsAreWrittenInPieces(t *testing.T) {
	t.Parallel()
	db, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	store := &counted{Store: db}
	r := newRows(store, slog.New(slog.DiscardHandler))
	var told []int
	for i := range 2*maxRows + 1 {
		x := &domain.Execution{ID: domain.NewID(), ProjectID: domain.NewID(), VMID: domain.NewID(), State: domain.ExecutionRunning, CreatedAt: time.Now()}
		r.put(x, "", x.CreatedAt, func() { told = append(told, i) })
	}
	if !r.write() {
		t.Fatal("the rows were not written")
	}
	if store.n != 3 {
		t.Errorf("%d rows were written in %d transactions", 2*maxRows+1, store.n)
	}
	for i, n := range told {
		if i != n {
			t.Fatalf("row %d was told of as the %dth", n, i)
		}
	}
	if len(told) != 2*maxRows+1 || len(r.pending) != 0 || r.written != r.queued {
		t.Errorf("%d were told of, %d are pending", len(told), len(r.pending))
	}
}

// A row after a quiet moment is written soon; where they keep coming a transaction
// takes those of a longer time.
func TestHowLongRowsAreGathered(t *testing.T) {
	t.Parallel()
	for ago, want := range map[time.Duration]time.Duration{
		time.Hour: gatherRows, rowsEvery: gatherRows, rowsEvery - gatherRows: gatherRows, 15 * time.Millisecond: rowsEvery - 15*time.Millisecond, 0: rowsEvery,
	} {
		if got := gatherFor(ago); got != want {
			t.Errorf("%s after the last: %s, want %s", ago, got, want)
		}
	}
}
