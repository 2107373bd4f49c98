package guest

import (
	"context"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/internal/backoff"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// execution is one command under supervision. Its run goroutine holds one
// attachment after the other until the end is in the journal.
type execution struct {
	s       *Session
	ctx     context.Context // of the supervision
	cancel  context.CancelFunc
	id      domain.ID
	agentID string           // what the agent calls it
	start   *guestv1.Command // to be started; nil: to be taken up
	limit   *time.Timer      // abandons a start that is not confirmed; nil: to be taken up
	journal *journal.Journal
	input   *input

	drained bool          // output was taken by this session; of the run goroutine alone
	kept    bool          // its lane serves another; likewise
	wakeup  chan struct{} // there may be something to send
	started chan struct{} // closed when about or startErr is set for good
	done    chan struct{} // closed when supervision is over

	mu        sync.Mutex
	about     Started
	startErr  error
	doneErr   error
	confirmed bool
	abandoned error // nobody waits for the start any more: it must not run
	size      *guestv1.TerminalSize
	signals   []*signal
	sending   *signal // taken off signals, and not known to be on its way
}

func newExecution(s *Session, id domain.ID, j *journal.Journal) *execution {
	n := readNote(j.Note())
	ctx, cancel := context.WithCancel(s.ctx)
	return &execution{
		s: s, ctx: ctx, cancel: cancel, id: id, agentID: agentIDOf(j, id), journal: j, input: newInput(n),
		wakeup:  make(chan struct{}, 1),
		started: make(chan struct{}), done: make(chan struct{}),
		about: Started{ID: id},
	}
}

// wake has the present attachment look for something to send.
func (x *execution) wake() {
	select {
	case x.wakeup <- struct{}{}:
	default:
	}
}

// abandon gives up on a start that was not confirmed, unless it just was.
func (x *execution) abandon(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.confirmed && x.abandoned == nil {
		x.abandoned = err
		x.cancel()
	}
}

// outcome is what an attachment or the whole supervision came to.
type outcome int

const (
	going     outcome = iota // nothing came to an end
	broken                   // the channel broke: attach again
	moving                   // it goes on over a lane
	ended                    // the end is in the journal
	lost                     // there will be no end
	refused                  // the agent did not start it
	detached                 // the session was closed
	unstarted                // nobody waits for the start any more
)

// strikes is how often in a row the agent may end an attachment without
// getting anything further.
const strikes = 8

func (x *execution) run() {
	defer x.journal.Close()
	defer x.cancel()
	result, err := x.supervise()
	switch result {
	case ended:
		x.finish(errEnded)
		if !x.kept {
			go x.s.fillSpare() // after who waits for the end was told; nobody waits for it
		}
	case lost:
		x.s.cfg.Log.Warn("execution lost", "execution", x.id, "error", err)
		if jerr := x.journal.AppendEnd(domain.ExecutionEnd{LostReason: reason(err)}); jerr != nil {
			x.s.cfg.Log.Error("the end of an execution is not in its journal", "execution", x.id, "error", jerr)
		}
		x.finish(errEnded)
		x.s.kill(x.agentID)
	case refused:
		_ = x.s.cfg.Journals.Delete(x.s.key(x.id))
		x.fail(err)
	case unstarted:
		// Should it have started after all, the journal's end says that it must not run.
		if jerr := x.journal.AppendEnd(domain.ExecutionEnd{LostReason: reason(err)}); jerr != nil {
			x.s.cfg.Log.Error("the end of an execution is not in its journal", "execution", x.id, "error", jerr)
		}
		x.fail(err)
		x.s.kill(x.agentID)
	case detached:
		x.fail(errors.New(errors.Unavailable, "the machine was let go of"))
	}
}

// reason is an error's text for the record.
func reason(err error) string { return errors.Public(err).Message }

// finish tells everybody of the end, which is in the journal.
func (x *execution) finish(doneErr error) {
	x.mu.Lock()
	confirmed := x.confirmed
	x.doneErr = doneErr
	x.mu.Unlock()
	x.s.remove(x) // before anybody is told: what has ended is not running
	end, ok := x.journal.Ended()
	tell := func() {
		if ok { // else the record keeps it as running; a later session tries again
			x.s.tellEnded(x.agentID, Ended{ID: x.id, End: end, OutputBytes: x.journal.NextOffset()})
		}
	}
	if !confirmed {
		// Lost before the agent said a word, or taken up and unknown to it. Whoever
		// asked for the start forgets it unless the end is known by then.
		tell()
		x.release(errors.New(errors.GuestFault, "%s", end.LostReason))
	}
	x.input.stop(errEnded)
	close(x.done)
	if confirmed {
		tell()
	}
}

// fail ends the supervision without an end of the execution to tell of.
func (x *execution) fail(err error) {
	if x.starting() {
		x.s.tellRefused(x.id, err)
	}
	x.mu.Lock()
	x.doneErr = err
	x.mu.Unlock()
	x.s.remove(x)
	x.release(err)
	x.input.stop(err)
	close(x.done)
}

// release lets go those who wait for the start, with an error unless it was confirmed.
func (x *execution) release(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.started:
	default:
		x.startErr = err
		close(x.started)
	}
	if x.limit != nil {
		x.limit.Stop()
	}
}

// confirm notes that the agent runs the execution, unless it was given up just now.
func (x *execution) confirm(pid int32, already bool) bool {
	x.mu.Lock()
	first := !x.confirmed
	if first && x.abandoned != nil {
		x.mu.Unlock()
		return false
	}
	x.confirmed = true
	if first {
		x.about.PID = pid
		x.about.Already = already || x.start == nil
	}
	about := x.about
	x.mu.Unlock()
	if first {
		x.s.tellStarted(about)
		x.release(nil)
	}
	return true
}

// supervise attaches until there is an outcome other than a broken channel.
func (x *execution) supervise() (outcome, error) {
	wait := backoff.New(10*time.Millisecond, 2*time.Second)
	bad := 0
	for {
		if err := x.givenUp(); err != nil {
			return unstarted, err
		}
		if x.s.ctx.Err() != nil {
			return x.leave()
		}
		a, result, err := x.attach()
		if result != broken {
			return result, err
		}
		if err := x.givenUp(); err != nil {
			return unstarted, err
		}
		if x.s.isGone() || x.s.ctx.Err() != nil {
			return x.leave()
		}
		if a.progress {
			wait.Reset()
			bad = 0
		} else if wireCode(a.cause) != 0 || errors.HasCode(err, errors.GuestFault) {
			if bad++; bad >= strikes {
				return lost, errors.Wrap(err, errors.GuestFault, "the guest agent ended the attachment %d times without output: %s", bad, errors.Public(err).Message)
			}
		}
		x.s.cfg.Log.Debug("attachment broke", "execution", x.id, "error", err)
		_ = wait.Wait(x.ctx, x.s.gone)
	}
}

// attach holds an attachment until it ends, and the one over a lane that may
// take over from it.
func (x *execution) attach() (*attachment, outcome, error) {
	a := &attachment{x: x}
	if x.starting() && (a.takeSpare() || a.takeOwn()) {
		defer x.s.cfg.Client.lanes.leave()
	}
	result, err := a.run()
	if result == broken && a.spare != nil {
		x.s.cfg.Client.spare.drop()
	}
	x.kept = a.kept
	if result != moving {
		return a, result, err
	}
	defer x.s.cfg.Client.lanes.leave()
	b := &attachment{x: x, lane: true, before: a, progress: true}
	result, err = b.run()
	a.end() // where there was no lane
	return b, result, err
}

// starting reports whether the agent is still to be asked to start it.
func (x *execution) starting() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.start != nil && !x.confirmed
}

func (x *execution) givenUp() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.confirmed {
		return nil
	}
	return x.abandoned
}

// leave is the outcome when the session ends.
func (x *execution) leave() (outcome, error) {
	if x.s.isGone() {
		x.s.mu.Lock()
		defer x.s.mu.Unlock()
		return lost, errors.New(errors.Gone, "%s", x.s.goneReason)
	}
	return detached, nil
}
