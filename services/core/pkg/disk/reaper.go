package disk

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reaper removes directories in the background. What it is given is renamed
// into the trash first, so that a crash leaves it there for the next sweep.
type reaper struct {
	dir     string
	backend backend
	log     *slog.Logger

	mu   sync.Mutex
	busy sync.WaitGroup
	seq  int
}

func newReaper(dir string, b backend, log *slog.Logger) *reaper {
	return &reaper{dir: dir, backend: b, log: log}
}

// discard takes a directory out of sight and removes it. Absent is success.
func (r *reaper) discard(dir string) error {
	r.mu.Lock()
	r.seq++
	to := filepath.Join(r.dir, fmt.Sprintf("%d.%d.%d", os.Getpid(), time.Now().UnixNano(), r.seq))
	r.mu.Unlock()
	if err := unix.Rename(dir, to); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return fail(err, "cannot remove the volume")
	}
	r.remove(to)
	return nil
}

// sweep removes what earlier processes left in the trash.
func (r *reaper) sweep() {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		r.log.Warn("cannot read the volume trash", "error", err)
		return
	}
	for _, e := range entries {
		r.remove(filepath.Join(r.dir, e.Name()))
	}
}

func (r *reaper) remove(dir string) {
	r.busy.Go(func() {
		if err := r.backend.remove(dir); err != nil && !os.IsNotExist(err) {
			r.log.Warn("cannot remove a volume; the next start tries again", "error", err)
		}
	})
}

func (r *reaper) close() { r.busy.Wait() }
