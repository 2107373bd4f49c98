package postgres_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
)

// Processes that start at the same time migrate once.
func TestConcurrentStarts(t *testing.T) {
	t.Parallel()
	database := server.Empty(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), database, quiet())
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
	var once bool
	err := connect(t, database).QueryRow(t.Context(), "SELECT count(*) = count(DISTINCT version_id) AND count(*) > 1 FROM goose_db_version").Scan(&once)
	if err != nil || !once {
		t.Errorf("migrations ran more than once (%v)", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	if _, err := connect(t, database).Exec(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)"); err != nil {
		t.Fatal(err)
	}
	_, err := postgres.Open(t.Context(), database, quiet())
	if !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "version 999") {
		t.Fatalf("got %v", err)
	}
}

// What cannot be used is refused with a reason, and no password is shown.
func TestUnusableDatabases(t *testing.T) {
	t.Parallel()
	const password = "S3cret%2Fword"
	u, err := url.Parse(server.URL("absent"))
	if err != nil {
		t.Fatal(err)
	}
	for database, code := range map[string]errors.Code{
		"postgres://u:" + password + "@127.0.0.1:1/a?connect_timeout=2":       errors.Unavailable,
		"postgres://u:" + password + "@/absent?host=" + u.Query().Get("host"): errors.Unavailable,
		"postgres://postgres:" + password + "@/absent?host=/nowhere":          errors.Unavailable,
		server.URL("absent"):                                                    errors.Unavailable,
		"postgres://u:" + password + "@127.0.0.1:port/a":                        errors.InvalidArgument,
		"postgres://u:" + password + "%zz@127.0.0.1/a":                          errors.InvalidArgument,
		"postgres://u:" + password + "@127.0.0.1/a?sslmode=sometimes":           errors.InvalidArgument,
		"postgres://u:" + password + "@127.0.0.1/a?connect_timeout=" + password: errors.InvalidArgument,
		"mysql://u:" + password + "@127.0.0.1/a":                                errors.InvalidArgument,
	} {
		s, err := postgres.Open(t.Context(), database, quiet())
		if !errors.HasCode(err, code) {
			t.Errorf("%s: got %v, want %s", database, err, code)
		}
		if err == nil {
			_ = s.Close()
			continue
		}
		if text := fmt.Sprintf("%v %+v", err, errors.Public(err)); strings.Contains(text, "S3cret") {
			t.Errorf("the message tells the password: %s", text)
		}
		if errors.Public(err).Hint == "" {
			t.Errorf("%s: no hint: %v", database, err)
		}
	}
}

// The store has no more connections than it was told.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	s := open(t, database+"&pool_max_conns=3")
	inside, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.View(t.Context(), func(tx storage.Tx) error {
				inside <- struct{}{}
				<-release
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-inside
	}
	select {
	case <-inside:
		t.Error("a fourth reader has a connection")
	default:
	}
	close(release)
	for range 5 {
		<-inside
	}
	wg.Wait()
	var n int
	if err := connect(t, database).QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'aetherium'`).Scan(&n); err != nil || n > 5 {
		t.Errorf("%d connections (%v)", n, err)
	}
}

// A column is sealed if its name says so, as in the other dialect.
func TestEverySealedColumnIsKnown(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	var known []string
	if err := open(t, database).View(t.Context(), func(tx storage.Tx) error {
		known = tx.Sealed().Columns()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var there []string
	if err := connect(t, database).QueryRow(t.Context(), `SELECT array_agg(table_name || '.' || column_name)::text[] FROM information_schema.columns
		WHERE table_schema = 'public' AND column_name LIKE '%sealed%'`).Scan(&there); err != nil {
		t.Fatal(err)
	}
	there = append(there, "settings.value")
	slices.Sort(known)
	slices.Sort(there)
	if !slices.Equal(known, there) {
		t.Errorf("the schema has %v, storage.Sealed knows %v", there, known)
	}
}
