package limits

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/cgroup"
)

const (
	// holdLapse ends a hold that nobody has ended, as when the host's process was
	// killed: the machine's own time, which stands still with it.
	holdLapse = time.Minute
	// holdWait is how long processes may take to stop. One that the kernel does not
	// let go meanwhile stops on its way out, before it runs on.
	holdWait = time.Second
)

// hold is what is held.
type hold struct {
	over   chan struct{} // closed by its end
	stale  bool          // what waits to be started was asked of another life; before over is closed
	frozen []string      // control groups
	lapse  *time.Timer
}

// Hold stops every process beside the agent (cgroup.freeze, in the kernel's
// cgroup-v2.rst), and lets none be started, until Release or a minute has passed.
// What is frozen already stays so then. A nil group holds nothing, nor does one
// that has not been set. Returns Internal when the kernel refuses; nothing is held then.
func (g *Group) Hold() error {
	if g == nil {
		return nil
	}
	g.mu.Lock() // nobody is just being started
	defer g.mu.Unlock()
	if g.dir == nil {
		return nil
	}
	g.release()
	h := &hold{over: make(chan struct{})}
	g.held = h
	// Those of a container engine in the machine are beside that of commands.
	root := filepath.Dir(g.dir.Name())
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		if err == nil && e.IsDir() {
			err = h.freeze(filepath.Join(root, e.Name()))
		}
	}
	if err != nil {
		g.release()
		return errors.Wrap(err, errors.Internal, "what runs in the machine cannot be held: %s", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), holdWait) // its own, for all
	defer cancel()
	for _, dir := range h.frozen {
		_ = awaitFrozen(ctx, dir) // it is asked to, and that counts
	}
	h.lapse = time.AfterFunc(holdLapse, func() { g.lapsed(h) })
	return nil
}

// ErrHeld says that nothing is started while what runs is held: see [Group.Await].
var ErrHeld = errors.New(errors.Unavailable, "the machine's memory is being saved")

// Await waits until nothing is held; a nil group holds nothing. Returns Unavailable
// where the machine was restored from its memory meanwhile.
func (g *Group) Await() error {
	if g == nil {
		return nil
	}
	g.mu.RLock()
	h := g.held
	g.mu.RUnlock()
	if h == nil {
		return nil
	}
	<-h.over
	if h.stale {
		return errors.New(errors.Unavailable, "the machine was restored from its memory before the program was started")
	}
	return nil
}

// Release ends a hold. None is success, also of a nil group.
func (g *Group) Release() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release()
}

// GoOn ends a hold in a machine that was restored from its memory. What waited to
// be started is not: who asked for it asked the machine that was saved, which
// starts it, or asked it before and has gone.
func (g *Group) GoOn() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		g.held.stale = true
	}
	g.release()
}

// lapsed ends a hold that may be another one's by now.
func (g *Group) lapsed(h *hold) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == h {
		g.release()
	}
}

// release is with mu held.
func (g *Group) release() {
	h := g.held
	if h == nil {
		return
	}
	g.held = nil
	if h.lapse != nil {
		h.lapse.Stop()
	}
	for _, dir := range h.frozen {
		_ = write(filepath.Join(dir, "cgroup.freeze"), "0") // or it is gone
	}
	close(h.over)
}

// freeze asks a control group's processes to stop, if it has any and they run.
func (h *hold) freeze(dir string) error {
	events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if err != nil || !bytes.Contains(events, []byte("populated 1")) {
		return cgroup.IgnoreGone(err)
	}
	file := filepath.Join(dir, "cgroup.freeze")
	now, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(now)) != "0" {
		return cgroup.IgnoreGone(err)
	}
	if err := write(file, "1"); err != nil {
		return cgroup.IgnoreGone(err)
	}
	h.frozen = append(h.frozen, dir)
	return nil
}

// awaitFrozen waits until all of a control group's processes have stopped.
func awaitFrozen(ctx context.Context, dir string) error {
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	return cgroup.AwaitFrozen(ctx, events)
}
