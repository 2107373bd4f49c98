// Package reap waits for child processes: the agent's own, whose status it
// hands to who started them, and, where the agent is PID 1, every orphan that
// the kernel gives it.
//
// One goroutine calls wait4(2) after each SIGCHLD, so no status can be stolen
// by another waiter (os/exec and os.Process.Wait must not be used beside it),
// and a zombie stays for microseconds. Starting a child and entering it into
// the table exclude reaping, and so does signalling: a signal cannot reach a
// stranger that was given the process ID of an ended child.
package reap

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// ErrEnded says that the child has ended already.
var ErrEnded = errors.Plain("the process has ended")

// Reaper is the process's only waiter for children.
type Reaper struct {
	orphans bool

	starting sync.RWMutex // held for reading while a child is started or signalled
	spawned  atomic.Bool
	mu       sync.Mutex
	children map[int]*Child
	none     chan struct{} // closed when a round found no child at all; replaced

	signals chan os.Signal
	quit    chan struct{}
	done    chan struct{}
}

// Child is a process that was started through a Reaper.
type Child struct {
	PID int

	reaper *Reaper
	ended  chan struct{}
	status syscall.WaitStatus
}

// Start begins reaping. With orphans it waits for every child, as PID 1 must;
// else only for those that Spawn started, so that it can share a process with
// other users of wait (tests). Close ends it.
func Start(orphans bool) *Reaper {
	r := &Reaper{
		orphans:  orphans,
		children: map[int]*Child{},
		none:     make(chan struct{}),
		signals:  make(chan os.Signal, 1), // one is enough: each round takes all
		quit:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	signal.Notify(r.signals, syscall.SIGCHLD)
	go r.run()
	return r
}

// Close stops reaping. It must be called once.
func (r *Reaper) Close() {
	signal.Stop(r.signals)
	close(r.quit)
	<-r.done
}

// Spawn runs start, which forks a child and returns its process ID, and
// follows that child. start's error is returned as it is.
func (r *Reaper) Spawn(start func() (pid int, err error)) (*Child, error) {
	r.starting.RLock()
	defer r.starting.RUnlock()
	r.spawned.Store(true)
	pid, err := start()
	if err != nil {
		return nil, err
	}
	c := &Child{PID: pid, reaper: r, ended: make(chan struct{})}
	r.mu.Lock()
	r.children[pid] = c
	r.mu.Unlock()
	return c, nil
}

// Spawned reports whether Spawn was ever called.
func (r *Reaper) Spawned() bool { return r.spawned.Load() }

// Ended is closed when the child has ended and Status tells how.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// Status is how the child ended. It is valid once Ended is closed.
func (c *Child) Status() syscall.WaitStatus { return c.status }

// SignalGroup sends sig to the process group that the child leads. Returns
// [ErrEnded] once the child has been waited for: its group may live on, but
// the number is no longer ours to use.
func (c *Child) SignalGroup(sig syscall.Signal) error {
	c.reaper.starting.RLock()
	defer c.reaper.starting.RUnlock()
	select {
	case <-c.ended:
		return ErrEnded
	default:
	}
	err := syscall.Kill(-c.PID, sig)
	if errors.Is(err, syscall.ESRCH) {
		return ErrEnded
	}
	return err
}

// WaitNone blocks until a round found that there is no child left.
func (r *Reaper) WaitNone(ctx context.Context) error {
	r.mu.Lock()
	none := r.none
	r.mu.Unlock()
	r.kick()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kick asks for a round without a SIGCHLD.
func (r *Reaper) kick() {
	select {
	case r.signals <- syscall.SIGCHLD:
	default:
	}
}

func (r *Reaper) run() {
	defer close(r.done)
	for {
		select {
		case <-r.signals:
		case <-r.quit:
			return
		}
		r.starting.Lock()
		left := r.round()
		r.starting.Unlock()
		if !left {
			r.mu.Lock()
			close(r.none)
			r.none = make(chan struct{})
			r.mu.Unlock()
		}
	}
}

// round takes every status there is and reports whether children are left.
func (r *Reaper) round() (left bool) {
	if r.orphans {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			switch {
			case errors.Is(err, syscall.EINTR):
			case err != nil:
				return false // ECHILD
			case pid == 0:
				return true
			default:
				r.finish(pid, status)
			}
		}
	}
	for _, pid := range r.pids() {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
		if got == pid || errors.Is(err, syscall.ECHILD) {
			r.finish(pid, status)
		}
	}
	return len(r.pids()) > 0
}

func (r *Reaper) pids() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	pids := make([]int, 0, len(r.children))
	for pid := range r.children {
		pids = append(pids, pid)
	}
	return pids
}

// finish hands a status to the child's follower; an orphan has none.
func (r *Reaper) finish(pid int, status syscall.WaitStatus) {
	r.mu.Lock()
	c := r.children[pid]
	delete(r.children, pid)
	r.mu.Unlock()
	if c != nil {
		c.status = status
		close(c.ended)
	}
}
