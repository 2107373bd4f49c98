package nodes_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet/nodes"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
)

// named is a node that tells its name for a driver's.
type named struct {
	service.Node
	name string
}

func (n named) Drivers(context.Context) ([]domain.DriverInfo, error) {
	return []domain.DriverInfo{{Name: n.name}}, nil
}

// Workers are found by their rows, and found again when those change.
func TestWorkersAreFoundByTheirRows(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	store, err := sqlitetest.Open(ctx, filepath.Join(t.TempDir(), "db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	serves := func(name string) string {
		server := httptest.NewUnstartedServer(nil)
		server.Config = nodelink.NewServer(nodelink.Handler(named{name: name}, nil, log), &tls.Config{MinVersion: tls.VersionTLS13}, log)
		server.TLS, server.EnableHTTP2 = server.Config.TLSConfig, true
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	update := func(f func(tx storage.Tx) error) {
		t.Helper()
		if err := store.Update(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	asked := map[domain.ID]int{}
	n := nodes.New(nodes.Config{Store: store, Logger: log, TLS: func(id domain.ID) *tls.Config {
		asked[id]++
		return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // who it is, is not what is tested
	}})
	t.Cleanup(n.Close)
	says := func(id domain.ID, want string) error {
		node, err := n.Node(id)
		if err != nil {
			return err
		}
		drivers, err := node.Drivers(ctx)
		if err != nil || len(drivers) != 1 || drivers[0].Name != want {
			return errors.New(errors.Unavailable, "%v, %v", drivers, err)
		}
		return nil
	}
	if n.Here() != nil {
		t.Error("there is a worker in this process")
	}
	if _, err := n.Node("nobody"); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("one that there is not: %v", err)
	}
	w := &domain.Worker{ID: domain.NewID(), Name: "one", State: domain.WorkerReady, Address: serves("first"), JoinedAt: time.Now(), SeenAt: time.Now()}
	within := &domain.Worker{ID: domain.NewID(), Name: "within", State: domain.WorkerReady, JoinedAt: time.Now(), SeenAt: time.Now()}
	update(func(tx storage.Tx) error {
		return errors.Join(tx.Workers().Insert(ctx, w), tx.Workers().Insert(ctx, within))
	})
	if err := says(w.ID, "first"); err != nil { // joined since the last look
		t.Fatal(err)
	}
	if _, err := n.Node(within.ID); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("one in another process: %v", err)
	}
	ran, running := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { n.Run(ran); close(done) }()
	defer func() { running(); <-done }()
	change := func(f func(*domain.Worker)) {
		update(func(tx storage.Tx) error {
			row, err := tx.Workers().Get(ctx, w.ID)
			if err != nil {
				return err
			}
			f(row)
			return tx.Workers().Update(ctx, row)
		})
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for !f() {
			if ctx.Err() != nil {
				t.Fatal(what)
			}
			time.Sleep(time.Millisecond) // the rows are looked at every while
		}
	}
	change(func(row *domain.Worker) { row.Address = serves("second") })
	until("the worker is not found where it is now", func() bool { return says(w.ID, "second") == nil })
	change(func(row *domain.Worker) { row.State = domain.WorkerAway })
	until("the worker is not away", func() bool { _, err := n.Node(w.ID); return errors.HasCode(err, errors.Unavailable) })
	change(func(row *domain.Worker) { row.State = domain.WorkerReady })
	until("the worker is not back", func() bool { return says(w.ID, "second") == nil })
	running()
	<-done
	if asked[w.ID] != 2 {
		t.Errorf("%d connections were made ready for two addresses", asked[w.ID])
	}
}
