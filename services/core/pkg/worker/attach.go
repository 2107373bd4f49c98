package worker

import (
	"context"
	"maps"
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// attach makes vm usable: it shakes hands with the running machine's agent,
// tells it the VM's configuration, takes up its executions and writes that the
// VM runs. A machine that was just started begins a new epoch; one that ran on
// while the worker was away keeps its own.
func (w *Worker) attach(ctx context.Context, vm *domain.VM, driver vmm.Driver, trace *trace) error {
	client := w.client(driver, vm.MachineID)
	if err := w.greet(ctx, vm, driver, client, trace); err != nil {
		client.Close()
		return w.attachFailed(ctx, vm, driver, err)
	}
	w.unrest(ctx, vm, client)
	inherited, err := w.inherit(ctx, vm, client, trace)
	if err != nil {
		client.Close()
		return w.attachFailed(ctx, vm, driver, err)
	}
	return w.takeOver(ctx, vm, client, inherited, trace)
}

// client makes a client of a machine's agent.
func (w *Worker) client(driver vmm.Driver, id domain.ID) *guest.Client {
	machine := string(id)
	return guest.New(func(ctx context.Context) (net.Conn, error) { return driver.Dial(ctx, machine, vmm.AgentPort) },
		guest.Options{HostVersion: w.config.Version, Log: w.Log})
}

// fresh reports whether vm's machine was just started, and not taken up again.
func fresh(vm *domain.VM) bool {
	return vm.Observed == domain.Pending || vm.Observed == domain.Creating || vm.Observed == domain.Starting
}

// epochOf is the epoch that vm's machine is in, or begins.
func epochOf(vm *domain.VM) int64 {
	if fresh(vm) {
		return vm.Epoch + 1
	}
	return vm.Epoch
}

// takeOver opens the session with an agent that knows its configuration, and
// writes that the VM runs, and the inherited executions with it.
func (w *Worker) takeOver(ctx context.Context, vm *domain.VM, client *guest.Client, inherited []*domain.Execution, trace *trace) error {
	fresh, epoch := fresh(vm), epochOf(vm)
	known := inherited
	if vm.Epoch > 0 { // in its first one nothing has run
		var err error
		if known, err = w.openExecutions(ctx, vm.ID); err != nil {
			client.Close()
			return err
		}
	}
	if !fresh {
		if err := w.goOn(ctx, vm, client, known); err != nil {
			client.Close()
			return err
		}
	}
	// It can be talked to before the row says that it runs: who waits for the
	// row finds the session there.
	next := *vm
	next.Epoch = epoch
	next.Revision = 0     // it is not what was written: who waits for that is not to take it for it
	if !trace.unclaimed { // else nothing may run there before its row says whose it is
		next.Observed = domain.Running
	}
	l := &liveVM{id: vm.ID, machine: vm.MachineID, epoch: epoch, client: client, named: trace.named}
	l.vm.Store(&next)
	if trace.kind == startResume {
		l.lastUsed.Store(w.Now().UnixNano()) // who had it resumed is about to use it
	}
	l.session = guest.NewSession(guest.SessionConfig{
		Client: client, Journals: w.Journals, VM: vm.ID, Epoch: epoch, Log: w.Log,
		Hooks: guest.Hooks{OnStarted: w.onStarted(l), OnOutput: w.onOutput, OnEnded: w.onEnded(l), OnRefused: w.onRefused(l)},
	})
	l.session.Begin(w.takeUp(ctx, l, known)...)
	if old := w.vms.add(l); old != nil {
		old.session.Close()
		old.client.Close()
	}
	trace.phase("session")
	if fresh {
		if err := w.startUp(ctx, l, trace); err != nil {
			if driver, derr := w.driver(vm.Spec.Driver); derr == nil && errors.Is(err, errNotReady) {
				return w.neverReady(ctx, vm, driver, err)
			}
			w.vms.forget(vm.ID)
			l.session.Close()
			client.Close()
			return err
		}
	}
	if driver, err := w.driver(vm.Spec.Driver); err == nil {
		w.driverPhases(ctx, driver, vm.MachineID, trace)
	}
	l.phases.Store(&trace.phases)
	var stored domain.ID
	row, err := w.commit(ctx, vm.ID, events.VMRunning, func(tx storage.Tx, row *domain.VM) error {
		if fresh {
			now := w.time()
			row.Epoch, row.StartedAt = epoch, &now
		}
		row.Observed, row.Reason = domain.Running, ""
		stored, row.StoredID = row.StoredID, "" // from here on its disk is the machine's
		row.DeadlineAck = row.DeadlineGen       // its alarm is set below
		if trace.unclaimed {
			return errors.Join(claim(ctx, tx, row, vm), l.named.soFar())
		}
		if err := w.recordInherited(ctx, tx, inherited); err != nil {
			return err
		}
		return tx.Machines().Began(ctx, row.MachineID, trace.handle, row.Epoch)
	})
	if err == nil {
		w.setAlarm(row)
		// It runs; until it has its name nobody talks to it. Who takes it up again names it.
		err = l.named.get()
	}
	if err != nil {
		w.vms.forget(vm.ID)
		l.session.Close()
		client.Close()
		return err
	}
	w.metrics.started(vm.Spec.Driver, trace)
	trace.spans(ctx)
	if fresh {
		w.dropForkSnapshot(context.WithoutCancel(ctx), row.ProjectID, row.Spec.SnapshotID)
		w.dropStored(context.WithoutCancel(ctx), row.ProjectID, stored)
	}
	return nil
}

// greet waits for the agent and tells machine and agent whose they are.
func (w *Worker) greet(ctx context.Context, vm *domain.VM, driver vmm.Driver, client *guest.Client, trace *trace) error {
	ctx, cancel := context.WithTimeout(ctx, w.config.ReadyTimeout)
	defer cancel()
	w.watchExit(vm, vm.MachineID, driver)
	if !trace.greeted {
		if _, err := client.Handshake(ctx); err != nil {
			return err
		}
		trace.phase("handshake")
	}
	named := w.rename(ctx, vm, driver)
	var err error
	if !trace.configured {
		err = w.configure(ctx, vm, client)
	}
	err = errors.Join(err, named.get())
	trace.phase("configure")
	return err
}

// configure tells an agent what its machine's VM asks for.
func (w *Worker) configure(ctx context.Context, vm *domain.VM, client *guest.Client) error {
	env, err := service.OpenEnv(ctx, w.Sealer, vm)
	if err != nil {
		return err
	}
	cfg, err := w.imageConfig(ctx, vm.Spec.BuildID)
	if err != nil {
		return err
	}
	cfg.DefaultUser = vm.Spec.DefaultUser
	if cfg.Env == nil {
		cfg.Env = make(map[string]string, len(env))
	}
	// What the image sets, then what secrets need, then what the VM's owner set.
	if err := w.secretEnv(ctx, vm, client, cfg.Env); err != nil {
		return err
	}
	maps.Copy(cfg.Env, env)
	cfg.Env = w.toolEnv(vm, cfg.Env)
	return client.Configure(ctx, cfg)
}

// imageConfig is what an image sets, and all that a plain VM's agent is told.
// An image that is gone sets nothing.
func (w *Worker) imageConfig(ctx context.Context, build domain.ID) (cfg guest.Config, err error) {
	b, err := w.buildOf(ctx, build)
	switch {
	case errors.HasCode(err, errors.NotFound):
		return cfg, nil
	case err != nil:
		return cfg, err
	}
	return configOf(b), nil
}

// configOf is what a build sets.
func configOf(b *domain.Build) guest.Config {
	return guest.Config{Env: maps.Clone(b.Env), DefaultUser: b.DefaultUser, DefaultWorkdir: b.WorkDir}
}

// rename gives a machine its VM's hostname, beside the caller: one from the
// pool was made under another name, and may have been stopped before it got this one.
func (w *Worker) rename(ctx context.Context, vm *domain.VM, driver vmm.Driver) *outcome {
	r, ok := driver.(vmm.Renamer)
	if !ok {
		return nil
	}
	named := &outcome{done: make(chan struct{})}
	w.wg.Go(func() {
		defer close(named.done)
		named.err = r.SetHostname(ctx, string(vm.MachineID), vm.Spec.Hostname)
	})
	return named
}

// outcome is what becomes of something that goes on beside others; of nil, nothing
// does.
type outcome struct {
	done chan struct{} // closed when err says how it ended
	err  error
}

// get waits for the end.
func (o *outcome) get() error { return o.wait(context.Background()) }

// soFar is an error if it has failed already.
func (o *outcome) soFar() error {
	if o == nil {
		return nil
	}
	select {
	case <-o.done:
		return o.err
	default:
		return nil
	}
}

// wait is get for as long as somebody waits.
func (o *outcome) wait(ctx context.Context) error {
	if o == nil {
		return nil
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attachFailed decides what becomes of a machine that runs but cannot be
// talked to. One that has ended meanwhile is stepped again by its exit; one
// that was never ready is given up; one that was keeps running for another try,
// as does one that only lacks what is away for now.
func (w *Worker) attachFailed(ctx context.Context, vm *domain.VM, driver vmm.Driver, why error) error {
	if ctx.Err() != nil || w.machines.lastExit(vm.MachineID) != nil && vm.Epoch > 0 {
		return why
	}
	if vm.Epoch > 0 && !fresh(vm) || isAway(why) {
		return why
	}
	if err := driver.Stop(context.WithoutCancel(ctx), string(vm.MachineID), 0); err != nil {
		return errors.Join(why, err)
	}
	return w.createFailed(ctx, vm, driver, errors.Wrap(why, errors.GuestFault, "its guest agent did not answer: %s", errors.Public(why).Message))
}

// openExecutions lists the executions that are on record as not ended.
func (w *Worker) openExecutions(ctx context.Context, vm domain.ID) ([]*domain.Execution, error) {
	if err := w.rows.flush(ctx); err != nil {
		return nil, err
	}
	var open []*domain.Execution
	err := w.Store.Read(ctx, func(tx storage.Tx) (err error) {
		open, err = tx.Executions().Open(ctx, vm)
		return err
	})
	return open, err
}

// takeUp makes executions from an earlier life of the worker known before the
// session tells of them, so that input and signals find them at once.
func (w *Worker) takeUp(ctx context.Context, l *liveVM, open []*domain.Execution) []domain.ID {
	ids := make([]domain.ID, 0, len(open))
	for _, x := range open {
		ids = append(ids, x.ID)
		if cmd, err := service.OpenCommand(ctx, w.Sealer, x.ID, x.CommandSealed); err == nil {
			x.Command = cmd
		}
		w.execs.take(&running{live: l, release: w.use(l), row: *x})
	}
	return ids
}

// commitEnd is commit for a VM of which nothing runs any more: what has no end is
// lost for a reason. Rows that are about to be written are written before, as none
// must say afterwards that it runs.
func (w *Worker) commitEnd(ctx context.Context, vm *domain.VM, event, reason string, change func(storage.Tx, *domain.VM) error) (*domain.VM, error) {
	err := w.recordSwallowed(ctx, vm, reason)
	if err == nil {
		err = w.rows.flush(ctx)
	}
	if err != nil {
		return nil, err
	}
	row, err := w.commit(ctx, vm.ID, event, func(tx storage.Tx, row *domain.VM) error {
		if err := change(tx, row); err != nil {
			return err
		}
		return w.loseOpen(ctx, tx, row, reason)
	})
	if err == nil {
		w.tellLost(vm.ID)
	}
	return row, err
}

// loseOpen ends in the database what has no end although its machine is gone.
// What the session stored before is not touched.
func (w *Worker) loseOpen(ctx context.Context, tx storage.Tx, vm *domain.VM, reason string) error {
	lost, err := tx.Executions().LoseOpen(ctx, vm.ID, vm.Epoch, reason, w.time())
	if err != nil {
		return err
	}
	for _, x := range lost {
		if err := w.endJournal(x, reason); err != nil {
			w.Log.Warn("journal without an end", "execution", x.ID, "error", err)
		}
		if err := tx.Outbox().Append(ctx, events.Execution(events.ExecutionLost, x, w.time())); err != nil {
			return err
		}
	}
	return nil
}

// tellLost lets go those who wait for an execution's end that loseOpen wrote.
func (w *Worker) tellLost(vm domain.ID) {
	for _, id := range w.execs.dropOpen(vm) {
		w.endings.Notify(id)
	}
}

// endJournal gives a journal its end, so that its readers have theirs.
func (w *Worker) endJournal(x *domain.Execution, reason string) error {
	j, err := w.Journals.Open(journalKey(x))
	if err != nil {
		return err
	}
	defer j.Close()
	return j.AppendEnd(domain.ExecutionEnd{ExitCode: -1, LostReason: reason})
}

func journalKey(x *domain.Execution) journal.Key {
	return journal.Key{VM: x.VMID, Epoch: x.Epoch, Execution: x.ID}
}

// lastOutputBytes is how much of a VM's last output its tombstone keeps.
const lastOutputBytes = 4 << 10

// lastOutput is the tail of what a VM's newest execution wrote.
func (w *Worker) lastOutput(ctx context.Context, vm *domain.VM) string {
	if err := w.rows.flush(ctx); err != nil {
		return ""
	}
	var newest []*domain.Execution
	err := w.Store.Read(ctx, func(tx storage.Tx) error {
		list, err := tx.Executions().List(ctx, storage.ExecutionFilter{VMID: vm.ID, Page: storage.Page{Limit: 1}})
		newest = list.Items
		return err
	})
	if err != nil || len(newest) == 0 {
		return ""
	}
	tail, err := w.Journals.Tail(journalKey(newest[0]), lastOutputBytes)
	if err != nil {
		return ""
	}
	return printable(tail)
}
