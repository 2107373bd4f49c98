package sqlite

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// checkpointEvery is the number of commits after which the WAL is moved
	// into the database file, and checkpointQuiet the time after the last
	// commit. Both keep the WAL, which readers search, small.
	checkpointEvery = 256
	checkpointQuiet = 2 * time.Second
	// maxWALFrames (pages of 4 KiB) is the length of the WAL from which on the
	// writer is made to wait for a moment, so that the file can start over.
	maxWALFrames = 16 << 10
)

// checkpointer moves the WAL into the database beside the writer, on its own
// connection: the fsyncs of a checkpoint are never in the way of a commit.
type checkpointer struct {
	conn *conn
	log  *slog.Logger
	wake chan struct{} // one for each commit, up to its capacity
	end  chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

func startCheckpointer(c *conn, log *slog.Logger) *checkpointer {
	p := &checkpointer{conn: c, log: log, wake: make(chan struct{}, checkpointEvery), end: make(chan struct{})}
	p.wg.Go(p.loop)
	return p
}

// committed counts a commit; it never waits.
func (p *checkpointer) committed() {
	select {
	case p.wake <- struct{}{}:
	default: // a checkpoint is due anyway
	}
}

func (p *checkpointer) stop() {
	p.once.Do(func() { close(p.end) })
	p.wg.Wait()
}

func (p *checkpointer) loop() {
	quiet := time.NewTimer(checkpointQuiet)
	quiet.Stop()
	pending := 0
	for {
		select {
		case <-p.end:
			return
		case <-p.wake:
			pending++
			quiet.Reset(checkpointQuiet)
			if pending < checkpointEvery {
				continue
			}
		case <-quiet.C:
		}
		p.checkpoint()
		pending = 0
	}
}

// checkpoint moves what it can without waiting for anybody, unless readers or
// a steady stream of commits have kept the WAL from starting over for long.
func (p *checkpointer) checkpoint() {
	frames, err := p.pragma("PASSIVE")
	if err == nil && frames > maxWALFrames {
		_, err = p.pragma("RESTART")
	}
	if err != nil {
		p.log.Error("moving the write-ahead log into the database failed", "error", err)
	}
}

// pragma runs a checkpoint (https://sqlite.org/pragma.html#pragma_wal_checkpoint)
// and returns the length of the WAL in frames.
func (p *checkpointer) pragma(mode string) (frames int, err error) {
	var blocked, moved int
	err = p.conn.raw.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint("+mode+")").Scan(&blocked, &frames, &moved)
	return frames, err
}
