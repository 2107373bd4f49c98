// Package turns is what a driver holds in its process of its machines: who
// works on one, and who waits for its end. All facts are in records.
package turns

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"golang.org/x/sys/unix"
)

// Table is the machines of a driver.
type Table struct {
	boot string

	mu       sync.Mutex
	machines map[string]*machine
	closed   bool
}

// machine is there while somebody works on it or watches it.
type machine struct {
	turn     chan struct{} // holds one token: whoever has it works on the machine
	users    int           // calls that hold or want the turn
	cancel   context.CancelFunc
	deleting int // Delete calls under way
	watch    *Watch
}

// New makes a table; bootID is that of this boot of the host.
func New(bootID string) *Table { return &Table{boot: bootID, machines: map[string]*machine{}} }

// machine finds or makes one; mu is held.
func (t *Table) machine(id string) *machine {
	m := t.machines[id]
	if m == nil {
		m = &machine{turn: make(chan struct{}, 1)}
		m.turn <- struct{}{}
		t.machines[id] = m
	}
	return m
}

// drop forgets a machine that nobody uses; mu is held.
func (t *Table) drop(id string, m *machine) {
	if m.users == 0 && m.watch == nil && t.machines[id] == m {
		delete(t.machines, id)
	}
}

// errClosed is what calls of a closed driver return.
func errClosed() error { return errors.New(errors.Unavailable, "the driver is closed") }

// Begin takes the turn to work on a machine; done gives it back. A Delete
// waits for no one: it cancels what is under way, and until it is done nothing
// else begins. The context returned is canceled by such a Delete. Returns
// Unavailable after Close, Conflict while the machine is being deleted.
func (t *Table) Begin(ctx context.Context, id string, del bool) (work context.Context, done func(), err error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, nil, errClosed()
	}
	m := t.machine(id)
	m.users++
	if del {
		m.deleting++
		if m.cancel != nil {
			m.cancel()
		}
	}
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		m.users--
		if del {
			m.deleting--
		}
		t.drop(id, m)
	}
	select {
	case <-m.turn:
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
	t.mu.Lock()
	if !del && m.deleting > 0 {
		t.mu.Unlock()
		m.turn <- struct{}{}
		leave()
		return nil, nil, errors.New(errors.Conflict, "the machine is being deleted")
	}
	work, cancel := context.WithCancel(ctx)
	if !del {
		m.cancel = cancel
	}
	t.mu.Unlock()
	return work, func() {
		t.mu.Lock()
		if !del {
			m.cancel = nil
		}
		t.mu.Unlock()
		cancel()
		m.turn <- struct{}{}
		leave()
	}, nil
}

// Watch follows a machine's process to its end.
type Watch struct {
	Process process.Process
	fd      *process.FD
	done    chan struct{} // closed when exit is set, or the watch was abandoned
	exit    *vmm.Exit     // nil when abandoned
	ordered atomic.Bool   // we end it
}

// Done is closed when the process has ended, or the table was closed.
func (w *Watch) Done() <-chan struct{} { return w.done }

// Exit is how the process ended, once Done; nil when the table was closed first.
func (w *Watch) Exit() *vmm.Exit { return w.exit }

// Ordered notes that it is we who end the process, so that nobody looks for
// another reason.
func (w *Watch) Ordered() { w.ordered.Store(true) }

// WasOrdered reports whether we end it.
func (w *Watch) WasOrdered() bool { return w.ordered.Load() }

// Signal sends the process a signal.
func (w *Watch) Signal(sig unix.Signal) error { return w.fd.Signal(sig) }

// Follow gives the watch of a machine's process, starting one if need be. When
// the process has ended, autopsy is called with what is known of it; it may
// refine that, and keep it. Follow returns nil when the process had ended
// before and nobody watched. Returns Unavailable after Close.
func (t *Table) Follow(id string, p *process.Process, autopsy func(*Watch, vmm.Exit) vmm.Exit) (*Watch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.machines[id]; m != nil && m.watch != nil && m.watch.Process == *p {
		return m.watch, nil
	}
	if t.closed {
		return nil, errClosed()
	}
	fd, err := p.Open(t.boot)
	if err == unix.ESRCH { //nolint:errorlint // a raw errno
		return nil, nil
	} else if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "cannot watch the machine's process")
	}
	m := t.machine(id)
	w := &Watch{Process: *p, fd: fd, done: make(chan struct{})}
	m.watch = w
	go t.attend(id, m, w, autopsy)
	return w, nil
}

func (t *Table) attend(id string, m *machine, w *Watch, autopsy func(*Watch, vmm.Exit) vmm.Exit) {
	defer close(w.done)
	if err := w.fd.Wait(); err == nil {
		exit := autopsy(w, w.status())
		w.exit = &exit
	}
	w.fd.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.watch == w {
		m.watch = nil
		t.drop(id, m)
	}
}

// status tells how a process that has just ended did so.
func (w *Watch) status() vmm.Exit {
	exit := vmm.Exit{At: time.Now().UTC()}
	ws, known := w.fd.Status()
	if !known {
		return exit
	}
	exit.Known = true
	switch {
	case ws.Exited():
		exit.Code = ws.ExitStatus()
	case ws.Signaled():
		exit.Signal = int(ws.Signal())
		exit.Code = 128 + exit.Signal
	}
	return exit
}

// Watched gives a machine's watch, if there is one.
func (t *Table) Watched(id string) *Watch {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.machines[id]; m != nil {
		return m.watch
	}
	return nil
}

// Close stops all watching; the processes go on. Begin and Follow fail from now on.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	watches := make([]*Watch, 0, len(t.machines))
	for _, m := range t.machines {
		if m.watch != nil {
			watches = append(watches, m.watch)
		}
	}
	t.mu.Unlock()
	for _, w := range watches {
		w.fd.Close()
		<-w.done
	}
}
