package execution

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

const (
	// MaxExecutions bounds how many executions are remembered, running ones included, by default.
	MaxExecutions = 4096
	// maxForeignBytes bounds the output held of ended foreign executions together.
	maxForeignBytes = 32 << 20
	// lateBy is how long after its end an execution is still found by its
	// process ID or tag.
	lateBy = 30 * time.Second
	// stallLimit is how long a live reader may hold up the output.
	stallLimit = time.Minute
	// hostLimit is how long a foreign execution's output waits for the host to
	// attach when it watches.
	hostLimit = 10 * time.Second
)

// Registry starts executions and remembers them until they are forgotten.
type Registry struct {
	Starter  *spawn.Starter
	Users    *osuser.DB
	Settings *settings.Store
	Path     string // PATH of commands; empty: spawn.DefaultPath
	Max      int    // executions remembered; 0: MaxExecutions

	mu       sync.Mutex
	change   watch.Change
	seq      uint64
	byID     map[string]*entry
	order    []*Execution // remembered, by seq
	foreign  int          // how many of those are foreign
	late     []*Execution // forgotten, kept for ByPID and ByTag
	stopping bool
	watchers int
}

// entry is a place in the registry that is taken before the process starts, so
// that two requests with one ID start it once.
type entry struct {
	ready chan struct{} // closed when ex or err is set
	ex    *Execution
	err   error
}

// Start runs a command under an ID unless one of that ID is known; that one is
// then returned, already being true: a command never runs twice.
// Returns InvalidArgument (the command cannot be started as asked),
// Unauthenticated (unknown user), CapacityExhausted, Unavailable while stopping.
func (r *Registry) Start(ctx context.Context, id string, c Command) (ex *Execution, already bool, err error) {
	if !isID(id) {
		return nil, false, errors.New(errors.InvalidArgument, "%.64q is not an execution ID", id).WithField("execution_id")
	}
	ex, _, already, err = r.start(ctx, id, c, false)
	return ex, already, err
}

// StartForeign runs a command of an envd client under an ID of its own, with a
// reader from its first byte. Errors are those of Start.
func (r *Registry) StartForeign(ctx context.Context, c Command) (*Execution, *Reader, error) {
	ex, reader, _, err := r.start(ctx, newID(), c, true)
	return ex, reader, err
}

func (r *Registry) start(ctx context.Context, id string, c Command, foreign bool) (*Execution, *Reader, bool, error) {
	place, known, err := r.reserve(id)
	if err != nil {
		return nil, nil, false, err
	}
	if known {
		select {
		case <-place.ready:
			return place.ex, nil, true, place.err
		case <-ctx.Done():
			return nil, nil, false, ctx.Err()
		}
	}
	ex, reader, err := r.launch(id, c, foreign)
	r.mu.Lock()
	defer r.mu.Unlock()
	place.ex, place.err = ex, err
	close(place.ready)
	if err != nil {
		delete(r.byID, id) // it never ran
		return nil, nil, false, err
	}
	r.seq++
	ex.seq = r.seq
	r.order = append(r.order, ex)
	if foreign {
		r.foreign++
	}
	r.change.Notify()
	if r.stopping {
		_ = ex.Signal(9) // it slipped in beside SignalAll
	}
	return ex, reader, false, nil
}

func (r *Registry) reserve(id string) (place *entry, known bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if place, known := r.byID[id]; known {
		return place, true, nil
	}
	if r.stopping {
		return nil, false, errors.New(errors.Unavailable, "the machine is stopping")
	}
	r.trimLocked()
	if len(r.byID) >= r.max() {
		return nil, false, errors.New(errors.CapacityExhausted, "%d executions run or wait to be forgotten", len(r.byID))
	}
	if r.byID == nil {
		r.byID = map[string]*entry{}
	}
	place = &entry{ready: make(chan struct{})}
	r.byID[id] = place
	return place, false, nil
}

func (r *Registry) max() int {
	if r.Max > 0 {
		return r.Max
	}
	return MaxExecutions
}

// launch starts the process and everything that follows it.
func (r *Registry) launch(id string, c Command, foreign bool) (*Execution, *Reader, error) {
	if err := c.validate(); err != nil {
		return nil, nil, err
	}
	s := r.Settings.Get()
	u, err := s.User(r.Users, c.User)
	if err != nil {
		return nil, nil, err
	}
	path := r.Path
	if path == "" {
		path = spawn.DefaultPath
	}
	proc, err := r.Starter.Start(c.spec(s, u, path))
	if err != nil {
		return nil, nil, err
	}
	in := proc.Stdin
	if proc.Terminal != nil {
		in = proc.Terminal
	}
	ex := &Execution{
		id: id, PID: proc.PID, Command: c, User: u.Name, Foreign: foreign,
		proc:  proc,
		out:   &window{stall: stallLimit, foreign: foreign, readers: map[*Reader]struct{}{}},
		in:    newInput(in, proc.Terminal != nil),
		ended: make(chan struct{}),
	}
	var reader *Reader
	if foreign {
		reader = ex.Subscribe() // before the first byte
		if r.watched() {
			ex.out.awaited = time.Now().Add(hostLimit)
		}
	}
	go ex.follow()
	return ex, reader, nil
}

// Watching notes that the host watches and will attach to what clients start;
// what they start waits with its output for that. The host's going, told by
// calling gone, ends the wait.
func (r *Registry) Watching() (gone func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.watchers--; r.watchers > 0 {
			return
		}
		for _, ex := range r.order {
			if ex.Foreign {
				ex.out.giveUpHost()
			}
		}
	}
}

func (r *Registry) watched() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watchers > 0
}

// Get finds a remembered execution. Returns NotFound.
func (r *Registry) Get(id string) (*Execution, error) {
	r.mu.Lock()
	place := r.byID[id]
	r.mu.Unlock()
	if place != nil {
		<-place.ready // a start takes milliseconds
		if place.err == nil {
			return place.ex, nil
		}
	}
	return nil, errors.New(errors.NotFound, "no execution %.64q is known", id)
}

// After lists the remembered executions that started after one with the given
// sequence number (0: all), oldest first, with the last one's number and a
// channel that is closed when there may be more.
func (r *Registry) After(seq uint64) (list []*Execution, last uint64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, _ := slices.BinarySearchFunc(r.order, seq+1, func(e *Execution, s uint64) int {
		return int(int64(e.seq) - int64(s))
	})
	list = slices.Clone(r.order[at:])
	return list, r.seq, r.change.Next()
}

// Forget drops ended executions. IDs that are unknown, or of executions that
// still run, are skipped.
func (r *Registry) Forget(ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	drop := map[*Execution]bool{}
	for _, id := range ids {
		if place := r.byID[id]; place != nil && place.ex != nil {
			if _, ended := place.ex.End(); ended {
				drop[place.ex] = true
			}
		}
	}
	r.dropLocked(drop)
}

// dropLocked forgets executions; they are found by process ID a while longer.
func (r *Registry) dropLocked(drop map[*Execution]bool) {
	if len(drop) == 0 {
		return
	}
	r.order = slices.DeleteFunc(r.order, func(e *Execution) bool {
		if drop[e] {
			delete(r.byID, e.ID())
			if e.Foreign {
				r.foreign--
			}
			e.out.discard()
			r.late = append(r.late, e)
		}
		return drop[e]
	})
	r.trimLateLocked()
}

// trimLateLocked lets go of those that are found no more, and of the first beyond
// the bound. They are nearly in the order of their ends, and where not, find looks at
// the time: a machine that runs a thousand commands a second does not look at all of
// the last half minute's for each.
func (r *Registry) trimLateLocked() {
	now, n := time.Now(), max(0, len(r.late)-r.max())
	for n < len(r.late) && now.Sub(r.late[n].endAt) > lateBy {
		n++
	}
	clear(r.late[:n])
	r.late = r.late[n:]
}

// trimLocked keeps the registry within its bounds: first go ended foreign
// executions beyond what may be held of them, oldest first; then, when all
// places are taken, the oldest that ended and is acknowledged, then the oldest
// that ended and is foreign.
func (r *Registry) trimLocked() {
	drop := map[*Execution]bool{}
	held, foreign := 0, r.foreign
	for i := len(r.order) - 1; i >= 0 && foreign > 0; i-- {
		e := r.order[i]
		if !e.Foreign {
			continue
		}
		foreign--
		if _, ended := e.End(); ended {
			_, _, bytes := e.out.offsets()
			if held += bytes; held > maxForeignBytes {
				drop[e] = true
			}
		}
	}
	for _, mayGo := range []func(*Execution) bool{
		func(e *Execution) bool { acked, end, _ := e.out.offsets(); return acked == end },
		func(e *Execution) bool { return e.Foreign },
	} {
		for _, e := range r.order {
			if len(r.byID)-len(drop) < r.max() {
				break
			}
			if _, ended := e.End(); ended && mayGo(e) {
				drop[e] = true
			}
		}
	}
	r.dropLocked(drop)
	r.trimLateLocked()
}

// ByPID finds the execution of a process: the running one, or the last that
// ended within 30 s. Returns NotFound.
func (r *Registry) ByPID(pid int) (*Execution, error) {
	if e := r.find(func(e *Execution) bool { return e.PID == pid }); e != nil {
		return e, nil
	}
	return nil, errors.New(errors.NotFound, "no process %d was started here", pid)
}

// ByTag finds the newest execution with a tag as ByPID does.
func (r *Registry) ByTag(tag string) (*Execution, error) {
	if e := r.find(func(e *Execution) bool { return tag != "" && e.Command.Tag == tag }); e != nil {
		return e, nil
	}
	return nil, errors.New(errors.NotFound, "no process with tag %.64q was started here", tag)
}

func (r *Registry) find(fits func(*Execution) bool) *Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found *Execution
	for _, e := range slices.Backward(r.order) {
		if !fits(e) {
			continue
		}
		if _, ended := e.End(); !ended {
			return e
		}
		if found == nil && time.Since(e.endAt) <= lateBy {
			found = e
		}
	}
	for _, e := range slices.Backward(r.late) {
		if found == nil && fits(e) && time.Since(e.endAt) <= lateBy {
			found = e
		}
	}
	return found
}

// Stop refuses new executions.
func (r *Registry) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
}

// Running lists the executions that have not ended.
func (r *Registry) Running() []*Execution {
	list, _, _ := r.After(0)
	return slices.DeleteFunc(list, func(e *Execution) bool {
		_, ended := e.End()
		return ended
	})
}
