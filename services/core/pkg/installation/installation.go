// Package installation opens what all processes of an installation have: its
// rows, its Redis, and the keys that its data is under.
package installation

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/dbclock"
	"github.com/aetherium/aetherium/services/core/pkg/storage/measured"
	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"
)

// Installation is what its processes have in common.
type Installation struct {
	ID     string // twelve characters, made once
	Store  storage.Store
	Redis  *goredis.Client // nil: there is none
	Sealer seal.Sealer
	// Now is the time that its processes agree on, for all that another compares
	// or the next start does: the database's. A SQLite database has the host's.
	Now func() time.Time

	measured *measured.Store // Store; nil where nothing is served
	log      *slog.Logger
	ticking  sync.WaitGroup
	stop     context.CancelFunc // what keeps the time
}

// Options of a process.
type Options struct {
	// Alone refuses a database that another process has opened alone, and keeps
	// those from it.
	Alone bool
	// Serves is a process that needs everything. One that does not, as it ends
	// what there is, does without Redis, and without keys where they are not at
	// hand: whoever has lost them can still end what runs.
	Serves bool
	Logger *slog.Logger
}

// Open opens the rows, connects to Redis where that is set, and finds the keys.
// Returns Conflict, InvalidArgument, NotFound, Unavailable.
func Open(ctx context.Context, s settings.Common, o Options) (in *Installation, err error) {
	in = &Installation{log: o.Logger, Now: time.Now}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Close())
		}
	}()
	if in.Store, err = OpenStore(ctx, s, o.Alone, o.Logger); err != nil {
		return in, err
	}
	if s.Postgres() {
		if err := in.keepTime(ctx); err != nil {
			return in, err
		}
	}
	if o.Serves {
		in.measured = measured.New(in.Store)
		in.Store = in.measured
	}
	if s.Queue != "" && o.Serves {
		if in.Redis, err = redis.Open(ctx, s.Queue, o.Logger); err != nil {
			return in, err
		}
	}
	if err := in.openKeys(ctx, s, o.Serves); err != nil {
		return in, err
	}
	in.ID, err = instanceID(ctx, in.Store)
	return in, err
}

// keepTime has the database's time kept until Close.
func (in *Installation) keepTime(ctx context.Context) error {
	clock, err := dbclock.Open(ctx, in.Store)
	if err != nil {
		return err
	}
	in.Now = clock.Now
	ctx, in.stop = context.WithCancel(context.WithoutCancel(ctx))
	in.ticking.Go(func() { clock.Run(ctx, in.log) })
	return nil
}

// Collectors are the metrics of what is open, for Prometheus.
func (in *Installation) Collectors() []prometheus.Collector {
	if in.measured == nil {
		return nil
	}
	return in.measured.Collectors()
}

// WorkerQueue names the queue of a worker's jobs in Redis, which it alone reads.
func (in *Installation) WorkerQueue(worker domain.ID) string { return in.ID + ":" + worker.String() }

// RunQueue names the queue in Redis of runs to be looked at, which all processes
// with a gateway read.
func (in *Installation) RunQueue() string { return in.ID + ":runs" }

// Close closes what Open opened. Whatever uses it has ended before.
func (in *Installation) Close() error {
	var errs []error
	if in.stop != nil {
		in.stop()
		in.ticking.Wait()
	}
	if in.Redis != nil {
		if err := in.Redis.Close(); err != nil {
			errs = append(errs, errors.Wrap(err, errors.Internal, "closing the connection to Redis"))
		}
	}
	if in.Store != nil {
		if err := in.Store.Close(); err != nil {
			errs = append(errs, errors.Wrap(err, errors.Internal, "closing the store"))
		}
	}
	return errors.Join(errs...)
}

// instanceID tells this installation from others on the host; it is made once
// and kept in the store. Twelve characters: it goes into interface and cgroup names.
func instanceID(ctx context.Context, store storage.Store) (string, error) {
	var id string
	err := store.Update(ctx, func(tx storage.Tx) (err error) {
		id, err = tx.Settings().Init(ctx, storage.SettingInstanceID, string(domain.NewID()[:12]))
		return err
	})
	return id, err
}
