package egresslog

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Follower reads a directory's logs and waits for what comes. All who wait
// share one watch of the kernel's, of which a user has few (inotify(7)).
type Follower struct {
	dir     string
	changed watch.Hub[string] // by machine

	mu      sync.Mutex
	watcher *fsnotify.Watcher // from the first who waits on
	closed  bool
	done    chan struct{}
}

// NewFollower makes one; the directory may come later.
func NewFollower(dir string) *Follower { return &Follower{dir: dir} }

// Close ends the watch; who waits finds nothing more.
func (f *Follower) Close() error {
	f.mu.Lock()
	w, done := f.watcher, f.done
	f.watcher, f.closed = nil, true
	f.mu.Unlock()
	if w == nil {
		return nil
	}
	err := w.Close()
	<-done
	return err
}

// Wait is Read that waits for an entry so long when there is none.
func (f *Follower) Wait(ctx context.Context, id string, after int64, limit int, d time.Duration) ([]domain.EgressEntry, error) {
	if d <= 0 {
		return Read(f.dir, id, after, limit)
	}
	if err := f.watch(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // no machine ever had a network here
		}
		return nil, errors.Wrap(err, errors.Unavailable, "cannot watch the directory of egress logs")
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	sub := f.changed.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		out, err := Read(f.dir, id, after, limit)
		if len(out) > 0 || err != nil {
			return out, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// watch has the directory watched.
func (f *Follower) watch() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	if f.watcher != nil {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := w.Add(f.dir); err != nil {
		return errors.Join(err, w.Close())
	}
	f.watcher, f.done = w, make(chan struct{})
	go f.tell(w, f.done)
	return nil
}

// tell wakes those who wait for a machine whose log has changed.
func (f *Follower) tell(w *fsnotify.Watcher, done chan struct{}) {
	defer close(done)
	for {
		select {
		case ev, ok := <-w.Events:
			if !ok {
				return
			}
			if id, is := strings.CutSuffix(filepath.Base(ev.Name), ".jsonl"); is {
				f.changed.Notify(id)
			}
		case _, ok := <-w.Errors: // more changes than the kernel keeps
			if !ok {
				return
			}
			f.changed.NotifyAll()
		}
	}
}
