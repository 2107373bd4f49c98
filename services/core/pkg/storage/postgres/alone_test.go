package postgres_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
)

// Of the servers that are to be alone with a database there is one at a time;
// what only looks is let in.
func TestAlone(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	o := quiet()
	o.Alone = true
	first, err := postgres.Open(t.Context(), database, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Wait = 50 * time.Millisecond // for those that are refused: it bounds all that is waited for
	if _, err := postgres.Open(t.Context(), database, o); !errors.HasCode(err, errors.Conflict) || errors.Public(err).Hint == "" {
		t.Errorf("a second server: %v", err)
	}
	if err := open(t, database).Update(t.Context(), func(storage.Tx) error { return nil }); err != nil {
		t.Errorf("beside it: %v", err)
	}
	among := o
	among.Alone, among.Among = false, true
	if _, err := postgres.Open(t.Context(), database, among); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("one of several beside it: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	among.Wait = 0
	var several []*postgres.Store
	for range 2 {
		s, err := postgres.Open(t.Context(), database, among)
		if err != nil {
			t.Fatal(err)
		}
		several = append(several, s)
	}
	if _, err := postgres.Open(t.Context(), database, o); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("one that is to be alone beside several: %v", err)
	}
	for _, s := range several {
		_ = s.Close()
	}
	o.Wait = 0
	next, err := postgres.Open(t.Context(), database, o)
	if err != nil {
		t.Fatal(err)
	}
	_ = next.Close()
}
