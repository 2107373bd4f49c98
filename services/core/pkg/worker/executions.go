package worker

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// executions is what this worker knows of executions that are not ended, or
// whose end is not in the database yet.
type executions struct {
	mu   sync.RWMutex
	byID map[domain.ID]*running
}

type running struct {
	live    *liveVM
	row     domain.Execution // guarded by executions.mu
	release func()           // ends its use of the VM
	begun   time.Time        // when it was asked for; zero: in an earlier life of the worker
	span    tracing.Span     // until its end
}

func (e *executions) get(id domain.ID) (*running, *domain.Execution, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	r := e.byID[id]
	if r == nil {
		return nil, nil, false
	}
	row := r.row
	return r, &row, true
}

// forgo forgets an execution that was not confirmed to run, unless another has
// taken its place. It reports whether it did: its use of the VM is to be ended then.
func (e *executions) forgo(r *running) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byID[r.row.ID] != r || r.row.State != domain.ExecutionStarting {
		return false
	}
	delete(e.byID, r.row.ID)
	return true
}

// add registers an execution unless it is known.
func (e *executions) add(r *running) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byID == nil {
		e.byID = make(map[domain.ID]*running)
	}
	if e.byID[r.row.ID] != nil {
		return false
	}
	e.byID[r.row.ID] = r
	return true
}

// take registers an execution with the session that supervises it now: one that
// is known keeps what is known of it.
func (e *executions) take(r *running) {
	e.mu.Lock()
	if e.byID == nil {
		e.byID = make(map[domain.ID]*running)
	}
	release := r.release
	if old := e.byID[r.row.ID]; old != nil {
		if old.live == r.live || old.row.VMID != r.row.VMID {
			e.mu.Unlock()
			release()
			return
		}
		r.row, release = old.row, old.release
	} else {
		release = func() {}
	}
	e.byID[r.row.ID] = r
	e.mu.Unlock()
	release()
}

// dropOpen forgets what has no end of a VM whose machine is gone, and says what.
func (e *executions) dropOpen(vm domain.ID) (ids []domain.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, r := range e.byID {
		if r.row.VMID == vm && !r.row.State.Ended() {
			delete(e.byID, id)
			r.span.End(errLost)
			ids = append(ids, id)
		}
	}
	return ids
}

func (e *executions) change(id domain.ID, f func(*domain.Execution)) (row domain.Execution, release func(), ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.byID[id]
	if r == nil {
		return row, nil, false
	}
	f(&r.row)
	return r.row, r.release, true
}

func (e *executions) drop(id domain.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byID, id)
}

// StartExecution implements service.Node.
func (w *Worker) StartExecution(ctx context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, error) {
	l, err := w.vms.reach(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	now, begun := w.time(), time.Now()
	row := domain.Execution{
		ID: req.ID, ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: l.row().Epoch, Command: req.Command,
		State: domain.ExecutionStarting, CreatedAt: now,
	}
	w.seal(&row)
	// From the moment that it is added, its end may be told, and its row is changed
	// by others.
	r := &running{live: l, release: w.use(l), begun: begun, row: row}
	_, r.span = tracing.Begin(ctx, "execution")
	r.span.Text("aetherium.vm", vm.ID.String())
	r.span.Text("aetherium.execution", req.ID.String())
	mine := w.execs.add(r)
	if !mine {
		r.release()
		// Two that came at once: an ID is one execution's.
		if _, other, ok := w.execs.get(req.ID); ok && other.VMID != vm.ID {
			return nil, errors.New(errors.AlreadyExists, "another execution has this ID").WithField("id")
		}
	}
	started, err := l.session.Start(ctx, guest.StartRequest{ID: req.ID, Command: w.traced(req.Command, r.span), Tag: req.Tag, Sealed: row.CommandSealed})
	w.metrics.began(begun, err)
	if err != nil {
		// Whoever goes away does not end the start.
		if mine && !errors.HasCode(err, errors.Canceled) && !errors.HasCode(err, errors.DeadlineExceeded) {
			w.forgo(r, err)
		}
		if errors.HasCode(err, errors.Conflict) {
			if row, ok := w.endedBefore(ctx, l, req); ok {
				return row, nil
			}
		}
		return nil, blameProgram(err)
	}
	w.confirmed(started, l)
	_, current, ok := w.execs.get(req.ID)
	if !ok {
		// So short that it has ended and is stored already.
		return w.storedExecution(ctx, vm.ProjectID, req.ID)
	}
	return current, nil
}

// forgo forgets an execution whose start came to nothing, as far as is known.
func (w *Worker) forgo(r *running, why error) {
	if w.execs.forgo(r) {
		r.release()
		r.span.End(why)
	}
}

// onRefused is called by the session when what was to be started is not.
func (w *Worker) onRefused(l *liveVM) func(domain.ID, error) {
	return func(id domain.ID, why error) {
		if r, _, known := w.execs.get(id); known && r.live == l {
			w.forgo(r, why)
			w.endings.Notify(id)
		}
	}
}

// Execute implements service.Node.
func (w *Worker) Execute(ctx context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
	x, err := w.StartExecution(ctx, vm, req)
	if err != nil {
		return nil, nil, err
	}
	out, err := w.Output(ctx, x, 0, true)
	if err != nil {
		return x, nil, nil //nolint:nilerr // it runs: who wants its output asks for that, and is told
	}
	return x, out, nil
}

// traced has a command told of its trace, where that is wanted.
func (w *Worker) traced(c domain.Command, span tracing.Span) domain.Command {
	const variable = "TRACEPARENT"
	parent := span.Parent()
	if _, given := c.Env[variable]; given || parent == "" || !w.Tracing.Guests() {
		return c
	}
	env := maps.Clone(c.Env)
	if env == nil {
		env = make(map[string]string, 1)
	}
	env[variable] = parent
	c.Env = env
	return c
}

// endedBefore is an execution that is asked for again, has ended, and is not on
// record: the worker was killed before its row was written.
func (w *Worker) endedBefore(ctx context.Context, l *liveVM, req vmm.StartExecution) (*domain.Execution, bool) {
	vm := l.row()
	if row, err := w.storedExecution(ctx, vm.ProjectID, req.ID); err == nil {
		return row, row.VMID == vm.ID
	}
	j, err := w.Journals.Lookup(journalKey(&domain.Execution{VMID: vm.ID, Epoch: vm.Epoch, ID: req.ID}))
	if err != nil {
		return nil, false
	}
	defer j.Close()
	end, ok := j.Ended()
	if !ok {
		return nil, false
	}
	row := w.record(guest.Started{ID: req.ID, Command: req.Command}, vm)
	w.recordEnd(row, guest.Ended{ID: req.ID, End: end, OutputBytes: j.NextOffset()}, nil)
	return row, w.rows.flush(ctx) == nil // only then is it found by its ID
}

// record begins the row of an execution whose first one was lost with an
// earlier life of the worker.
func (w *Worker) record(s guest.Started, vm *domain.VM) *domain.Execution {
	now := w.time()
	row := &domain.Execution{
		ID: s.ID, ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: vm.Epoch, Command: s.Command,
		State: domain.ExecutionRunning, PID: s.PID, CreatedAt: now, StartedAt: &now,
	}
	w.seal(row)
	return row
}

// recordEnd writes the end of an execution into its row; done is called when
// that is on disk.
func (w *Worker) recordEnd(row *domain.Execution, e guest.Ended, done func()) {
	ended(row, e, w)
	kind := events.ExecutionExited
	if row.State == domain.ExecutionLost {
		kind = events.ExecutionLost
	}
	w.endings.Notify(e.ID)
	w.rows.put(row, kind, *row.EndedAt, done)
}

// blameProgram names the field where the guest could not run the program, so
// that a caller can tell that from other bad input.
func blameProgram(err error) error {
	var e *errors.Error
	if errors.As(err, &e) && e.Field == "" && strings.HasPrefix(e.Message, "the program") {
		return e.WithField("args")
	}
	return err
}

func (w *Worker) use(l *liveVM) func() {
	end := l.use(w.Now())
	return func() { end(w.Now()) }
}

// onStarted is called by the session for each confirmed start, also of
// executions that somebody else started in the machine.
func (w *Worker) onStarted(l *liveVM) func(guest.Started) {
	return func(s guest.Started) { w.confirmed(s, l) }
}

// confirmed notes a confirmed start, once.
func (w *Worker) confirmed(s guest.Started, l *liveVM) {
	vm, now := l.row(), w.time()
	if _, _, known := w.execs.get(s.ID); !known {
		if _, ended := w.endOf(vm, s.ID); ended {
			return
		}
		row := domain.Execution{
			ID: s.ID, ProjectID: vm.ProjectID, VMID: vm.ID, Epoch: vm.Epoch, Command: s.Command,
			State: domain.ExecutionStarting, CreatedAt: now,
		}
		if stored, err := w.storedExecution(w.ctx, vm.ProjectID, s.ID); err == nil && stored.VMID == vm.ID && !stored.State.Ended() {
			row = *stored // from an earlier life of the worker: it knows the command, and when it began
			if len(row.CommandSealed) == 0 {
				row.Command = s.Command // it was made from a journal, which does not
			}
		}
		if r := (&running{live: l, release: w.use(l), row: row}); !w.execs.add(r) {
			r.release()
		}
	}
	first := false
	row, _, ok := w.execs.change(s.ID, func(x *domain.Execution) {
		if x.State != domain.ExecutionStarting {
			return
		}
		first = true
		x.State, x.PID, x.StartedAt = domain.ExecutionRunning, s.PID, &now
	})
	if ok && first {
		if len(row.CommandSealed) == 0 {
			w.seal(&row)
		}
		w.rows.put(&row, events.ExecutionStarted, now, nil)
	}
}

// onOutput is called by the session for the first output of each execution.
func (w *Worker) onOutput(id domain.ID) {
	if r, _, known := w.execs.get(id); known && !r.begun.IsZero() {
		w.metrics.output.Observe(time.Since(r.begun).Seconds())
	}
}

// endOf looks whether an execution's journal has its end.
func (w *Worker) endOf(vm *domain.VM, id domain.ID) (domain.ExecutionEnd, bool) {
	j, err := w.Journals.Lookup(journalKey(&domain.Execution{VMID: vm.ID, Epoch: vm.Epoch, ID: id}))
	if err != nil {
		return domain.ExecutionEnd{}, false
	}
	defer j.Close()
	return j.Ended()
}

// seal encrypts the command for its row.
func (w *Worker) seal(x *domain.Execution) {
	sealed, err := service.SealCommand(w.ctx, w.Sealer, x.ID, x.Command)
	if err != nil {
		w.Log.Error("command not sealed: its row goes without", "execution", x.ID, "error", err)
		return
	}
	x.CommandSealed = sealed
	w.execs.change(x.ID, func(row *domain.Execution) { row.CommandSealed = sealed })
}

// onEnded is called by the session once the end is in the journal.
func (w *Worker) onEnded(l *liveVM) func(guest.Ended) {
	return func(e guest.Ended) {
		if r, _, known := w.execs.get(e.ID); known {
			spanEnded(r.span, e.End)
		}
		row, release, ok := w.execs.change(e.ID, func(x *domain.Execution) { ended(x, e, w) })
		if !ok {
			w.endedUnseen(l.row(), e)
			return
		}
		release()
		if len(row.CommandSealed) == 0 { // it ended before its start was confirmed here
			w.seal(&row)
		}
		w.recordEnd(&row, e, func() {
			w.execs.drop(e.ID)
			e.Recorded()
		})
		w.setAlarm(l.row()) // its idle time begins
	}
}

// spanEnded ends the span of an execution with how that ended.
func spanEnded(span tracing.Span, end domain.ExecutionEnd) {
	if end.LostReason != "" {
		span.Text("aetherium.lost", end.LostReason)
		span.End(errLost)
		return
	}
	span.Number("process.exit.code", int64(end.ExitCode))
	span.End(nil)
}

var errLost = errors.New(errors.Unavailable, "the execution is lost")

// endedUnseen notes an end that was stored in an earlier life of the worker.
func (w *Worker) endedUnseen(vm *domain.VM, e guest.Ended) {
	row, err := w.storedExecution(w.ctx, vm.ProjectID, e.ID)
	switch {
	case err == nil && row.VMID != vm.ID:
		return // the agent made it up
	case err == nil && row.State.Ended():
		e.Recorded()
		return
	case errors.HasCode(err, errors.NotFound) && e.Met != nil:
		row = w.record(*e.Met, vm)
	case errors.HasCode(err, errors.NotFound): // its VM was deleted meanwhile, or the agent made it up
		w.Log.Debug("end of an execution that there is not", "execution", e.ID)
		return
	case err != nil:
		w.Log.Error("end of an unknown execution", "execution", e.ID, "error", err)
		return
	}
	w.recordEnd(row, e, e.Recorded)
}

func ended(x *domain.Execution, e guest.Ended, w *Worker) {
	now := w.time()
	if e.Met != nil && x.StartedAt == nil {
		x.PID, x.StartedAt = e.Met.PID, &now // when exactly went with the earlier life
	}
	code := e.End.ExitCode
	x.State, x.EndedAt, x.OutputBytes, x.TimedOut, x.Signal = domain.ExecutionExited, &now, e.OutputBytes, e.End.TimedOut, e.End.Signal
	if e.End.LostReason != "" {
		x.State, x.LostReason = domain.ExecutionLost, e.End.LostReason
		return
	}
	x.ExitCode = &code
}

// storedExecution reads a row after what is pending has been written.
func (w *Worker) storedExecution(ctx context.Context, project, id domain.ID) (*domain.Execution, error) {
	if err := w.rows.flush(ctx); err != nil {
		return nil, err
	}
	var x *domain.Execution
	err := w.Store.Read(ctx, func(tx storage.Tx) (err error) {
		x, err = tx.Executions().Get(ctx, project, id)
		return err
	})
	if err == nil && len(x.CommandSealed) > 0 {
		if cmd, cerr := service.OpenCommand(ctx, w.Sealer, id, x.CommandSealed); cerr == nil {
			x.Command = cmd
		}
	}
	return x, err
}

// Execution implements service.Node. Where the execution is not in the database
// either, Unavailable tells that it may be on record soon.
func (w *Worker) Execution(ctx context.Context, id domain.ID) (*domain.Execution, error) {
	if _, row, ok := w.execs.get(id); ok {
		if row = w.asRead(ctx, row); row != nil {
			return row, nil
		} // else it is on record
	}
	switch waits, err := w.swallowed(ctx, id); {
	case err != nil:
		return nil, err
	case waits:
		return nil, errors.New(errors.Unavailable, "the execution %s is not taken up yet", id).WithHint("try again").WithRetryAfter(time.Second)
	}
	return nil, errors.New(errors.NotFound, "the execution %s is not in this worker's memory", id)
}

// aboutToEnd is how long an end that is in the journal may take to be told, on a host
// on which much goes on.
const aboutToEnd = time.Second

// asRead is an execution that was known as row, as whoever has read its output must
// see it: the end is in its journal a moment before it is told here. nil: it has
// been told and is on record.
func (w *Worker) asRead(ctx context.Context, row *domain.Execution) *domain.Execution {
	if row.State.Ended() {
		return row
	}
	j, err := w.Journals.Lookup(journalKey(row))
	if err != nil {
		return row
	}
	_, over := j.Ended()
	j.Close()
	if !over {
		return row
	}
	ctx, cancel := context.WithTimeout(ctx, aboutToEnd)
	defer cancel()
	row, _ = w.untilEnded(ctx, row.ID)
	return row
}

// untilEnded waits until an execution in this worker's memory has ended; nil: it is
// not there, or not any more. With the error, ctx's, comes what is known by then.
func (w *Worker) untilEnded(ctx context.Context, id domain.ID) (*domain.Execution, error) {
	sub := w.endings.Subscribe(id)
	defer sub.Done()
	for {
		changed := sub.Changed()
		_, row, known := w.execs.get(id)
		if !known || row.State.Ended() {
			return row, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return row, errors.Public(ctx.Err())
		}
	}
}

// FlushExecutions implements service.Node.
func (w *Worker) FlushExecutions(ctx context.Context) error { return w.rows.flush(ctx) }

// Output implements service.Node.
func (w *Worker) Output(ctx context.Context, x *domain.Execution, from int64, follow bool) (vmm.OutputReader, error) {
	if follow && !x.State.Ended() {
		// It may go on elsewhere, with its VM: nothing more comes here then.
		if _, _, here := w.execs.get(x.ID); !here {
			if vm, err := w.load(ctx, x.VMID); err == nil && vm.WorkerID != w.id {
				return nil, errors.New(errors.NotFound, "the VM of the execution %s has left this worker", x.ID)
			}
		}
	}
	r, err := w.Journals.Read(journalKey(x), from, follow && !x.State.Ended())
	switch {
	case err == nil:
		return r, nil
	case errors.HasCode(err, errors.NotFound) && w.Stored != nil:
		return w.fetchedOutput(ctx, x, from, err)
	}
	return nil, err
}

// WaitExecution implements service.Node.
func (w *Worker) WaitExecution(ctx context.Context, id domain.ID) (*domain.Execution, error) {
	x, err := w.untilEnded(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case x != nil:
		return x, nil
	}
	x, err = w.storedExecution(ctx, storage.System, id)
	if err == nil && !x.State.Ended() {
		return nil, errors.New(errors.Unavailable, "the execution goes on when its VM does, which is not here now").WithRetryAfter(time.Second)
	}
	return x, err
}

// session finds the session that supervises a running execution.
func (w *Worker) session(id domain.ID) (*liveVM, error) {
	r, _, ok := w.execs.get(id)
	if !ok {
		return nil, errors.New(errors.Conflict, "the execution does not run")
	}
	r.live.lastUsed.Store(w.Now().UnixNano())
	return r.live, nil
}

// WriteStdin implements service.Node.
func (w *Worker) WriteStdin(ctx context.Context, id domain.ID, offset int64, data []byte) error {
	l, err := w.session(id)
	if err != nil {
		return err
	}
	return l.session.WriteStdin(ctx, id, offset, data)
}

// StdinOffset implements service.Node.
func (w *Worker) StdinOffset(_ context.Context, id domain.ID) (int64, error) {
	l, err := w.session(id)
	if err != nil {
		return 0, err
	}
	return l.session.StdinOffset(id)
}

// CloseStdin implements service.Node.
func (w *Worker) CloseStdin(ctx context.Context, id domain.ID) error {
	l, err := w.session(id)
	if err != nil {
		return err
	}
	return l.session.CloseStdin(ctx, id)
}

// ResizePTY implements service.Node.
func (w *Worker) ResizePTY(ctx context.Context, id domain.ID, size domain.PTYSize) error {
	l, err := w.session(id)
	if err != nil {
		return err
	}
	return l.session.Resize(ctx, id, size)
}

// SignalExecution implements service.Node.
func (w *Worker) SignalExecution(ctx context.Context, id domain.ID, signal int) error {
	l, err := w.session(id)
	if err != nil {
		return err
	}
	return l.session.Signal(ctx, id, signal)
}

// printable makes output fit to be shown in a document.
func printable(b []byte) string {
	for len(b) > 0 && !utf8.RuneStart(b[0]) {
		b = b[1:]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == utf8.RuneError || r == 0x7f {
			return -1
		}
		return r
	}, string(b))
}
