package service

import (
	"cmp"
	"context"
	"hash/fnv"
	"io"
	"slices"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// StartExecution implements vmm.Executions.
func (s *Service) StartExecution(ctx context.Context, by vmm.Caller, vmID domain.ID, req vmm.StartExecution) (*domain.Execution, error) {
	known, vm, node, err := s.prepared(ctx, by, vmID, &req)
	if known != nil || err != nil {
		return repeated(known, req, err)
	}
	x, err := node.StartExecution(ctx, vm, req)
	s.remember(x, vm, err)
	return repeated(x, req, err)
}

// Execute implements vmm.Executions.
func (s *Service) Execute(ctx context.Context, by vmm.Caller, vmID domain.ID, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
	x, vm, node, err := s.prepared(ctx, by, vmID, &req)
	var out vmm.OutputReader
	if x == nil && err == nil {
		x, out, err = node.Execute(ctx, vm, req)
		s.remember(x, vm, err)
	}
	if x, err = repeated(x, req, err); err == nil && out == nil {
		out, err = s.Output(ctx, by, x.ID, 0, true)
	}
	if err != nil && out != nil {
		_ = out.Close()
	}
	return x, out, err
}

// prepared checks what is to be started, and finds its VM and that one's node, or
// the execution that there is under its ID.
func (s *Service) prepared(ctx context.Context, by vmm.Caller, vmID domain.ID, req *vmm.StartExecution) (known *domain.Execution, vm *domain.VM, node Node, err error) {
	if err := req.Command.Validate(); err != nil {
		return nil, nil, nil, err
	}
	if len(req.Tag) > domain.MaxMetadataValue {
		return nil, nil, nil, errors.New(errors.InvalidArgument, "the tag has %d bytes, at most %d are allowed", len(req.Tag), domain.MaxMetadataValue).WithField("tag")
	}
	if req.ID == "" {
		req.ID = domain.NewID()
		vm, node, err = s.running(ctx, by, vmID)
		return nil, vm, node, err
	}
	if _, err := domain.ParseID(string(req.ID)); err != nil {
		return nil, nil, nil, err
	}
	if s.nodes.Here() == nil { // all is in the database, and most often nobody has used the ID
		used := false
		if vm = vmm.AheadOf(ctx).Take(by.ProjectID, vmID, req.ID); vm == nil {
			err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
				vm, used, err = tx.VMs().ForExecution(ctx, by.ProjectID, vmID, req.ID)
				return err
			})
		}
		if err == nil && !used {
			vm, node, err = s.ready(ctx, by, vm)
			return nil, vm, node, err
		}
		if err != nil && !errors.HasCode(err, errors.NotFound) {
			return nil, nil, nil, err
		}
	}
	if known, err = s.started(ctx, by, vmID, req.ID); known != nil || err != nil {
		return known, nil, nil, err
	}
	vm, node, err = s.running(ctx, by, vmID)
	return nil, vm, node, err
}

// remember notes an execution that a node has started.
func (s *Service) remember(x *domain.Execution, vm *domain.VM, err error) {
	if err == nil && s.nodes.Here() == nil {
		s.recents.add(x, vm.WorkerID, s.time())
	}
}

// repeated refuses the execution that there is under the ID of req where another
// request asked for it by the same idempotency key.
func repeated(x *domain.Execution, req vmm.StartExecution, err error) (*domain.Execution, error) {
	if err == nil && req.Command.Request != "" && x.Command.Request != "" && x.Command.Request != req.Command.Request {
		return nil, errKeyUsed()
	}
	return x, err
}

// started finds the execution that a caller's ID has been used for in the VM:
// the same ID never runs twice. nil: it has not been used. Returns AlreadyExists
// where it was in another VM, whosever that is: an ID is one execution's. What
// is not written yet the VM's worker knows again, whom it is asked of next.
func (s *Service) started(ctx context.Context, by vmm.Caller, vmID, id domain.ID) (*domain.Execution, error) {
	x, _, err := s.knownExecution(ctx, storage.System, id)
	if errors.HasCode(err, errors.NotFound) {
		return nil, nil //nolint:nilerr // that is the answer
	}
	if err != nil {
		return nil, err
	}
	if x.ProjectID != by.ProjectID || x.VMID != vmID {
		return nil, errors.New(errors.AlreadyExists, "another execution has this ID").WithField("id")
	}
	return s.GetExecution(ctx, by, id)
}

// GetExecution implements vmm.Executions.
func (s *Service) GetExecution(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Execution, error) {
	x, _, away, err := s.findExecution(ctx, by, id)
	if err == nil && away != nil && !x.State.Ended() {
		return nil, away
	}
	return x, err // what has ended does not change any more
}

// execution finds an execution: in the memory of its node, where it is fresher
// than in the database and sooner there. node is nil for one that has ended where
// its VM is no more.
func (s *Service) execution(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Execution, Node, error) {
	x, node, away, err := s.findExecution(ctx, by, id)
	if err == nil && away != nil {
		return nil, nil, away
	}
	return x, node, err
}

// findExecution is execution for what can do without its node: away tells why
// there is none.
func (s *Service) findExecution(ctx context.Context, by vmm.Caller, id domain.ID) (x *domain.Execution, node Node, away, err error) {
	if x, node, ok := s.recent(by, id); ok {
		if fresher, err := node.Execution(ctx, id); err == nil && fresher.VMID == x.VMID {
			return fresher, node, nil, nil
		}
	}
	x, node, err = s.anyExecution(ctx, by.ProjectID, id)
	if err != nil || node != nil {
		return x, node, nil, err
	}
	vm, err := s.GetVM(ctx, by, x.VMID)
	if err != nil {
		return nil, nil, nil, err
	}
	s.openCommand(ctx, x)
	if vm.OutputAt(x.Epoch)[0] != vm.WorkerID && x.State.Ended() {
		return x, nil, nil, nil // its VM has left the worker that it ran on
	}
	if node, away = s.nodeOf(vm); away != nil {
		return x, nil, away, nil
	}
	if fresher, err := node.Execution(ctx, id); err == nil && fresher.VMID == x.VMID {
		x = fresher
	}
	return x, node, nil, nil
}

// recent finds an execution that was started here a moment ago, and its worker.
func (s *Service) recent(by vmm.Caller, id domain.ID) (*domain.Execution, Node, bool) {
	x, worker, ok := s.recents.find(by.ProjectID, id, s.time())
	if !ok {
		return nil, nil, false
	}
	node, err := s.nodes.Node(worker)
	return x, node, err == nil
}

// anyExecution finds an execution of a project where this process knows it, or at
// the worker that started it just now: the row is written a moment after that,
// and whoever asks may be quicker, by another gateway. node is the worker in whose
// memory it was found, if it was.
// Returns NotFound, and Unavailable where a worker that may have it is not reached.
func (s *Service) anyExecution(ctx context.Context, project, id domain.ID) (x *domain.Execution, node Node, err error) {
	x, node, err = s.knownExecution(ctx, project, id)
	if !errors.HasCode(err, errors.NotFound) {
		return x, node, err
	}
	var mu sync.Mutex
	away, missing := s.whereThereIs(ctx, func(n Node) error {
		young, err := n.Execution(ctx, id)
		if err == nil && of(young, project) {
			mu.Lock()
			defer mu.Unlock()
			x, node = young, n
		}
		if errors.HasCode(err, errors.NotFound) {
			return nil
		}
		return err
	})
	if node != nil {
		return x, node, nil
	}
	// It was written meanwhile, or never was.
	x, node, err = s.knownExecution(ctx, project, id)
	if errors.HasCode(err, errors.NotFound) && missing == nil {
		missing = s.unheard(ctx, project, away)
	}
	if errors.HasCode(err, errors.NotFound) && missing != nil {
		return nil, nil, missing
	}
	return x, node, err
}

// mayRun are the states of VMs in which something may have begun that is not on
// record: before a VM rests without its memory, all is written.
var mayRun = []domain.ObservedState{
	domain.Unreachable, // and, if the worker is back meanwhile:
	domain.Starting, domain.Running, domain.Pausing, domain.Paused, domain.Resuming, domain.Stopping, domain.Deleting,
}

// unheard tells that an execution which nobody knows may have begun on a worker that
// is away: one that has VMs of the project. One that is away by its row may have told
// of the execution's beginning a moment ago, and write its row a moment later.
func (s *Service) unheard(ctx context.Context, project domain.ID, away []*domain.Worker) error {
	for _, w := range away {
		var vms storage.List[*domain.VM]
		err := s.store.View(ctx, func(tx storage.Tx) (err error) {
			vms, err = tx.VMs().List(ctx, storage.VMFilter{ProjectID: project, WorkerID: w.ID, States: mayRun, Page: storage.Page{Limit: 1}})
			return err
		})
		if err != nil {
			return err
		}
		if len(vms.Items) > 0 {
			return errors.New(errors.Unavailable, "no such execution is known, but what began last on the worker %s, which is away, is not known either", w.Name).
				WithHint("try again when it is back").WithRetryAfter(retryAway)
		}
	}
	return nil
}

// knownExecution finds an execution of a project, or of any, in the memory of this
// process's worker or in the database. Returns NotFound.
func (s *Service) knownExecution(ctx context.Context, project, id domain.ID) (x *domain.Execution, node Node, err error) {
	if here := s.nodes.Here(); here != nil {
		if x, err := here.Execution(ctx, id); err == nil && of(x, project) {
			return x, here, nil
		}
	}
	err = s.store.Read(ctx, func(tx storage.Tx) (err error) { // where it is before it is forgotten
		x, err = tx.Executions().Get(ctx, project, id)
		return err
	})
	return x, nil, err
}

// of reports whether an execution is of a project.
func of(x *domain.Execution, project domain.ID) bool {
	return project == storage.System || x.ProjectID == project
}

// ListExecutions implements vmm.Executions.
func (s *Service) ListExecutions(ctx context.Context, by vmm.Caller, vmID domain.ID, p vmm.Page) (list vmm.ExecutionList, err error) {
	vm, err := s.GetVM(ctx, by, vmID)
	if err != nil {
		return list, err
	}
	if list.Away, err = s.written(ctx, vm); err != nil {
		return list, err
	}
	err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
		list.List, err = tx.Executions().List(ctx, storage.ExecutionFilter{ProjectID: by.ProjectID, VMID: vmID, Page: p})
		return err
	})
	if err != nil {
		return list, err
	}
	here := s.nodes.Here()
	for i, x := range list.Items {
		if here != nil {
			if fresher, err := here.Execution(ctx, x.ID); err == nil && fresher.VMID == x.VMID {
				list.Items[i] = fresher
				continue
			}
		}
		s.openCommand(ctx, x)
	}
	return list, nil
}

// written has the rows of a VM's executions written. away is why its worker
// could not be asked to.
func (s *Service) written(ctx context.Context, vm *domain.VM) (away, err error) {
	if vm.InStorage() || vm.Observed == domain.Stopped || vm.Observed.Terminal() {
		return nil, nil // whoever stopped it has written them before
	}
	node, err := s.nodeOf(vm)
	if err == nil {
		err = node.FlushExecutions(ctx)
	}
	if errors.HasCode(err, errors.Unavailable) {
		return err, nil
	}
	return nil, err
}

// openCommand puts the command in clear into x for its owner. A command that
// cannot be opened (its key is gone) is left out, not an error: the rest of
// the row still tells what happened.
func (s *Service) openCommand(ctx context.Context, x *domain.Execution) {
	if len(x.CommandSealed) == 0 {
		return
	}
	cmd, err := OpenCommand(ctx, s.sealer, x.ID, x.CommandSealed)
	if err != nil {
		s.log.WarnContext(ctx, "command not readable", "execution", x.ID, "error", err)
		return
	}
	x.Command = cmd
}

// Output implements vmm.Executions.
func (s *Service) Output(ctx context.Context, by vmm.Caller, id domain.ID, from int64, follow bool) (vmm.OutputReader, error) {
	if from < 0 {
		return nil, errors.New(errors.InvalidArgument, "the offset %d is negative", from).WithField("offset")
	}
	if x, node, ok := s.recent(by, id); ok {
		r, err := node.Output(ctx, x, from, follow)
		if !errors.HasCode(err, errors.Unavailable) && !errors.HasCode(err, errors.NotFound) {
			return r, err
		} // else its VM may have left the worker meanwhile
	}
	x, node, away, err := s.findExecution(ctx, by, id)
	if err != nil {
		return nil, err
	}
	if node == nil && away == nil {
		vm, err := s.GetVM(ctx, by, x.VMID)
		if err != nil {
			return nil, err
		}
		return s.leftOutput(ctx, vm, x, from)
	}
	if node != nil {
		r, err := node.Output(ctx, x, from, follow)
		if !errors.HasCode(err, errors.Unavailable) && !errors.HasCode(err, errors.NotFound) {
			return r, err
		}
		away = err
	}
	if r, err := s.movedOutput(ctx, by, x, from, follow, away); r != nil || err != nil {
		return r, err
	}
	return s.storedOutput(ctx, x, from, away)
}

// leftOutput reads the output of an execution that has ended by the workers that its
// VM has left, or else in the storage.
func (s *Service) leftOutput(ctx context.Context, vm *domain.VM, x *domain.Execution, from int64) (vmm.OutputReader, error) {
	var away error
	for _, at := range vm.OutputAt(x.Epoch) {
		node, err := s.left(ctx, at)
		if err == nil {
			var r vmm.OutputReader
			if r, err = node.Output(ctx, x, from, false); !errors.HasCode(err, errors.Unavailable) && !errors.HasCode(err, errors.NotFound) {
				return r, err
			}
		}
		if away == nil || errors.HasCode(away, errors.NotFound) {
			away = err
		}
	}
	return s.storedOutput(ctx, x, from, away)
}

// movedOutput reads what is not where its VM is, since the VM has left the worker
// with what it had in its memory: what has ended before, and what is to go on and has
// not yet. Nil, without an error: it is neither.
func (s *Service) movedOutput(ctx context.Context, by vmm.Caller, x *domain.Execution, from int64, follow bool, away error) (vmm.OutputReader, error) {
	if !errors.HasCode(away, errors.NotFound) || s.nodes.Here() != nil {
		return nil, nil
	}
	vm, err := s.GetVM(ctx, by, x.VMID)
	if err != nil || len(vm.Moves) == 0 || len(vm.OutputAt(x.Epoch)) == 1 {
		return nil, nil //nolint:nilerr // what is wrong is known
	}
	switch {
	case x.State.Ended():
		return s.leftOutput(ctx, vm, x, from)
	case follow:
		return nil, errors.New(errors.Unavailable, "the VM rests in the storage, and what it prints is read on when it has been resumed").
			WithHint("resume it").WithRetryAfter(retryAway)
	}
	node, err := s.left(ctx, vm.Moves[len(vm.Moves)-1].WorkerID)
	if err != nil {
		return nil, err
	}
	return node.Output(ctx, x, from, false)
}

// storedOutput reads the output of an execution that has ended by a worker that
// gets it from the storage. away is the error where there is none, or it is not there.
func (s *Service) storedOutput(ctx context.Context, x *domain.Execution, from int64, away error) (vmm.OutputReader, error) {
	if s.nodes.Here() != nil {
		return nil, away // it has looked there
	}
	var pack *domain.OutputPack
	var workers []*domain.Worker
	err := s.store.View(ctx, func(tx storage.Tx) error {
		row, err := tx.Executions().Get(ctx, x.ProjectID, x.ID)
		if err != nil || row.PackID == "" {
			return errors.Join(err, away)
		}
		x = row
		if pack, err = tx.OutputPacks().Get(ctx, x.ProjectID, x.PackID); err != nil {
			return err
		}
		workers, err = tx.Workers().All(ctx)
		return err
	})
	switch {
	case errors.HasCode(err, errors.NotFound):
		return nil, away
	case err != nil:
		return nil, err
	}
	workers = slices.DeleteFunc(workers, func(w *domain.Worker) bool {
		return w.State == domain.WorkerAway || domain.OutputStorage(w.Storage) != pack.Packed.Store
	})
	// All gateways ask the same one first, which has it from then on.
	rank := func(w *domain.Worker) uint64 {
		h := fnv.New64a()
		_, _ = io.WriteString(h, string(pack.ID+w.ID))
		return h.Sum64()
	}
	slices.SortFunc(workers, func(a, b *domain.Worker) int { return cmp.Compare(rank(a), rank(b)) })
	for _, w := range workers {
		node, err := s.nodes.Node(w.ID)
		if err == nil {
			var r vmm.OutputReader
			// One of before knows of no storage for output, and has none of this.
			if r, err = node.Output(ctx, x, from, false); !errors.HasCode(err, errors.Unavailable) && !errors.HasCode(err, errors.NotFound) {
				return r, err
			}
		}
		s.log.Debug("output is not to be had of a worker", "execution", x.ID, "worker", w.Name, "error", err)
	}
	return nil, away
}

// WaitExecution implements vmm.Executions.
func (s *Service) WaitExecution(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.Execution, error) {
	x, node, err := s.execution(ctx, by, id)
	if err != nil || x.State.Ended() {
		return x, err
	}
	return node.WaitExecution(ctx, id)
}

// MaxStdinPiece bounds one write of input.
const MaxStdinPiece = 1 << 20

// WriteStdin implements vmm.Executions.
func (s *Service) WriteStdin(ctx context.Context, by vmm.Caller, id domain.ID, offset int64, data []byte) error {
	if len(data) > MaxStdinPiece {
		return errors.New(errors.TooLarge, "a piece of input has %d bytes, at most %d are allowed", len(data), MaxStdinPiece).
			WithHint("send it in smaller pieces")
	}
	if offset < -1 {
		return errors.New(errors.InvalidArgument, "the offset %d is negative", offset).WithField("offset")
	}
	return s.live(ctx, by, id, func(n Node) error { return n.WriteStdin(ctx, id, offset, data) })
}

// CloseStdin implements vmm.Executions.
func (s *Service) CloseStdin(ctx context.Context, by vmm.Caller, id domain.ID) error {
	return s.live(ctx, by, id, func(n Node) error { return n.CloseStdin(ctx, id) })
}

// ResizePTY implements vmm.Executions.
func (s *Service) ResizePTY(ctx context.Context, by vmm.Caller, id domain.ID, size domain.PTYSize) error {
	if err := size.Validate("size"); err != nil {
		return err
	}
	return s.live(ctx, by, id, func(n Node) error { return n.ResizePTY(ctx, id, size) })
}

// SignalExecution implements vmm.Executions.
func (s *Service) SignalExecution(ctx context.Context, by vmm.Caller, id domain.ID, signal int) error {
	if signal < 1 || signal > 64 {
		return errors.New(errors.InvalidArgument, "%d is not a signal", signal).WithField("signal").WithHint("between 1 and 64, see signal(7)")
	}
	return s.live(ctx, by, id, func(n Node) error { return n.SignalExecution(ctx, id, signal) })
}

// live runs f for an execution that has not ended. Returns NotFound, Conflict.
func (s *Service) live(ctx context.Context, by vmm.Caller, id domain.ID, f func(Node) error) error {
	x, node, err := s.execution(ctx, by, id)
	if err != nil {
		return err
	}
	if x.State.Ended() {
		return errors.New(errors.Conflict, "the execution has ended")
	}
	if err := s.awake(ctx, by, node, x.VMID); err != nil {
		return err
	}
	return f(node)
}

// awake resumes the VM of an execution if its memory is saved and it resumes by
// itself. Returns Conflict when it does not.
func (s *Service) awake(ctx context.Context, by vmm.Caller, node Node, id domain.ID) error {
	if _, ok := node.Live(id); ok {
		return nil
	}
	vm, err := s.GetVM(ctx, by, id)
	if err != nil || vm.Desired != domain.WantPaused || vm.PauseMode == domain.PauseFreeze {
		return err // one that is frozen takes what it is told when it goes on
	}
	_, _, err = s.running(ctx, by, id)
	return err
}

// StdinOffset tells how much input an execution was given so far: where the
// next belongs. Returns NotFound, Conflict after its end.
func (s *Service) StdinOffset(ctx context.Context, by vmm.Caller, id domain.ID) (int64, error) {
	var offset int64
	err := s.live(ctx, by, id, func(n Node) (err error) {
		offset, err = n.StdinOffset(ctx, id)
		return err
	})
	return offset, err
}
