package guest

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// Started tells of an execution whose start the agent confirmed.
type Started struct {
	ID      domain.ID
	PID     int32
	Command domain.Command
	Tag     string
	// Already: the agent knew the execution before; its command did not run again.
	// So it is with those on record that Open took up, of which nothing but ID
	// and PID is set besides.
	Already bool
	// Found: it is not on record, but was met in the machine: a client of the
	// envd service started it, or this host did just before it died.
	Found bool
	// Foreign: it was started by a client of the envd service.
	Foreign bool
}

// Ended tells of an execution whose end is in the journal.
type Ended struct {
	ID          domain.ID
	End         domain.ExecutionEnd
	OutputBytes int64
	// Met is set where the end was stored in an earlier life of this process and
	// the agent still remembers the execution: whoever keeps the record may have
	// been killed before it was written. It is all that there is to make one of.
	Met *Started
	// Recorded is called once the record is on disk; not before does the agent
	// forget the execution.
	Recorded func()
}

// Hooks are called as things happen, in order for one execution and from
// several goroutines for different ones. They are not called after Close or
// Gone returned. A hook that takes long delays only its own execution.
type Hooks struct {
	OnStarted func(Started)
	// OnOutput tells of the first output of an execution, once it is in the journal.
	OnOutput func(execution domain.ID)
	OnEnded  func(Ended)
	// OnRefused tells of an execution whose start was asked for by Start and not
	// confirmed, before Start returns; whoever asked may have gone away long ago.
	// Where the agent never answered it is killed, should it have started; where the
	// session was closed, a later one may meet it: OnEnded may come after all.
	OnRefused func(execution domain.ID, why error)
}

// SessionConfig is what a session works with.
type SessionConfig struct {
	Client   *Client
	Journals *journal.Store
	VM       domain.ID
	Epoch    int64
	Hooks    Hooks
	Log      *slog.Logger // default: nothing is logged
	// StartTimeout is how long the agent may take to confirm a start; default 15 s.
	StartTimeout time.Duration
	// MaxExecutions bounds how many are supervised at once; default 4096.
	MaxExecutions int
}

// Session supervises the executions of one machine during one epoch of its VM.
// It is safe for concurrent use.
type Session struct {
	cfg SessionConfig

	ctx     context.Context // ends with Close, or when Gone has waited long enough
	cancel  context.CancelFunc
	present context.Context // ends with ctx, and as soon as the machine is gone: its channel need not break
	absent  context.CancelFunc
	wg      sync.WaitGroup
	forget  forgetter

	mu         sync.Mutex
	executions map[domain.ID]*execution
	killing    map[string]bool // by the agent's IDs; true: once more
	over       map[string]bool // the agent's IDs of those whose end was told, until it has forgotten them
	gone       chan struct{}   // closed by Gone
	goneReason string
	begun      bool // what is on record is taken up
	closed     bool
}

// Open is NewSession and Begin in one.
func Open(cfg SessionConfig, known ...domain.ID) *Session {
	s := NewSession(cfg)
	s.Begin(known...)
	return s
}

// NewSession makes a session that supervises nothing before Begin: whoever makes
// executions known by it can have it first.
func NewSession(cfg SessionConfig) *Session {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = 15 * time.Second
	}
	if cfg.MaxExecutions <= 0 {
		cfg.MaxExecutions = 4096
	}
	s := &Session{cfg: cfg, executions: make(map[domain.ID]*execution), killing: make(map[string]bool), over: make(map[string]bool), gone: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.present, s.absent = context.WithCancel(s.ctx)
	s.forget.init(s)
	return s
}

// Begin begins to supervise a machine, once. known are the executions that are on
// record as not ended: each is taken up where its journal stands, or ends as
// lost when the agent does not know it. What else runs in the machine is found
// and reported by OnStarted. Begin does not wait for the agent.
func (s *Session) Begin(known ...domain.ID) {
	for _, id := range known {
		if err := s.adopt(id); err != nil {
			s.cfg.Log.Error("execution not taken up", "execution", id, "error", err)
		}
	}
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	s.wg.Go(s.watch)
}

func (s *Session) key(id domain.ID) journal.Key {
	return journal.Key{VM: s.cfg.VM, Epoch: s.cfg.Epoch, Execution: id}
}

// adopt takes up an execution that is on record.
func (s *Session) adopt(id domain.ID) error {
	j, err := s.cfg.Journals.Open(s.key(id))
	if err != nil {
		return err
	}
	if end, ok := j.Ended(); ok {
		// The end was stored, but whoever keeps the record was not told.
		next, agentID := j.NextOffset(), agentIDOf(j, id)
		j.Close()
		s.tellEnded(agentID, Ended{ID: id, End: end, OutputBytes: next})
		return nil
	}
	x := newExecution(s, id, j)
	_, err = s.add(x)
	return err
}

// add registers an execution and begins to supervise it, unless one of its ID
// is there already; that one is returned then.
func (s *Session) add(x *execution) (existing *execution, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		err = errors.New(errors.Unavailable, "the machine is being let go of")
	case s.isGone():
		err = errors.New(errors.Conflict, "the machine has ended")
	case s.executions[x.id] != nil:
		x.journal.Close()
		x.cancel()
		return s.executions[x.id], nil
	case len(s.executions) >= s.cfg.MaxExecutions:
		err = errors.New(errors.CapacityExhausted, "%d executions run in this machine", len(s.executions))
	}
	if err != nil {
		x.journal.Close()
		x.cancel()
		return nil, err
	}
	s.executions[x.id] = x
	s.wg.Go(x.run)
	return nil, nil
}

func (s *Session) isGone() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// fillSpare opens a lane for the machine's next command if there is none.
func (s *Session) fillSpare() {
	s.cfg.Client.fillSpare(s.present)
}

// find gives an execution that runs, or says why there is none.
func (s *Session) find(id domain.ID) (*execution, error) {
	s.mu.Lock()
	x, there := s.executions[id], s.begun && !s.closed
	s.mu.Unlock()
	if x != nil {
		// Its readers know of the end sooner than its supervision is over.
		if _, ok := x.journal.Ended(); ok {
			return nil, errEnded
		}
		return x, nil
	}
	if j, err := s.cfg.Journals.Lookup(s.key(id)); err == nil {
		defer j.Close()
		if _, ok := j.Ended(); ok {
			return nil, errEnded
		}
		if !there {
			return nil, errors.New(errors.Unavailable, "what runs in this machine is being taken up").WithHint("try again")
		}
	}
	return nil, errors.New(errors.NotFound, "no such execution runs in this machine")
}

func (s *Session) remove(x *execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.executions, x.id)
}

// Running tells how many executions are supervised now.
func (s *Session) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.executions)
}

// Close lets go of the machine: its executions go on, and a later session
// takes them up. Calling it twice, or after Gone, is fine.
func (s *Session) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// goneGrace is how long after the machine's end its last words are waited for:
// what lies in a socket is read to its end at once.
const goneGrace = 2 * time.Second

// Gone says that the machine has ended. What the agent sent is still taken in;
// then executions without an end are lost for the reason. It returns when all
// is stored. The wait for a channel that does not break is bounded by ctx and
// two seconds.
func (s *Session) Gone(ctx context.Context, reason string) {
	s.mu.Lock()
	if s.closed || s.isGone() {
		s.mu.Unlock()
		s.wg.Wait()
		return
	}
	s.goneReason = reason
	close(s.gone)
	s.absent()
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	timer := time.NewTimer(goneGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.cancel()
	<-done
}

func (s *Session) tellStarted(st Started) {
	if s.cfg.Hooks.OnStarted != nil {
		s.cfg.Hooks.OnStarted(st)
	}
}

func (s *Session) tellRefused(id domain.ID, why error) {
	if s.cfg.Hooks.OnRefused != nil {
		s.cfg.Hooks.OnRefused(id, why)
	}
}

func (s *Session) tellOutput(id domain.ID) {
	if s.cfg.Hooks.OnOutput != nil {
		s.cfg.Hooks.OnOutput(id)
	}
}

// tellEnded tells of an end, once, and has the agent forget it thereafter.
func (s *Session) tellEnded(agentID string, e Ended) {
	s.mu.Lock()
	told := s.over[agentID]
	s.over[agentID] = true
	s.mu.Unlock()
	if told {
		return
	}
	e.Recorded = sync.OnceFunc(func() { s.forget.add(agentID) })
	if s.cfg.Hooks.OnEnded == nil {
		e.Recorded()
		return
	}
	s.cfg.Hooks.OnEnded(e)
}

// forgotten notes that the agent does not tell of executions any more.
func (s *Session) forgotten(agentIDs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range agentIDs {
		delete(s.over, id)
	}
}
