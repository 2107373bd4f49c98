package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
)

// Backing is what the processes of a [Fleet] share: a PostgreSQL that waits for
// its disk and a Redis that writes down what it is told, each on an address of
// its own.
type Backing struct {
	Net      string // of loopback; the last byte is left open
	Database *pgtest.Server
	Queue    *redistest.Server
}

// StartBacking starts both. Options are Redis's. Returns an error when the host
// lacks either's programs.
func StartBacking(ctx context.Context, options ...string) (*Backing, error) {
	b := &Backing{Net: fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256))} //nolint:gosec // of many on a host
	var err error
	b.Database, err = pgtest.Start(ctx, "listen_addresses="+b.Net+"1",
		"fsync=on", "full_page_writes=on", "autovacuum=on", "wal_level=replica", "shared_buffers=128MB") // its own defaults
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(b.QueueAddress())
	if b.Queue, err = redistest.New(append([]string{"--appendonly", "yes", "--bind", host, "--port", port}, options...)...); err != nil {
		return nil, errors.Join(err, b.Stop())
	}
	return b, nil
}

// DatabaseAddress is where PostgreSQL listens.
func (b *Backing) DatabaseAddress() string { return b.Net + "1:5432" }

// QueueAddress is where Redis listens.
func (b *Backing) QueueAddress() string { return b.Net + "2:6379" }

// Settings are those of a process that reaches PostgreSQL and Redis by these
// addresses, which may be of something between.
func (b *Backing) Settings(database, queue string) []string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", Host: database, RawQuery: "sslmode=disable"}
	return []string{"AETHERIUM_DATABASE=" + u.String(), "AETHERIUM_QUEUE=redis://" + queue}
}

// Stop ends both and removes what they kept.
func (b *Backing) Stop() error {
	var err error
	if b.Queue != nil {
		err = b.Queue.Stop()
	}
	return errors.Join(err, b.Database.Stop())
}
