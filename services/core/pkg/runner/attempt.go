package runner

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Result is what is kept of an attempt, in the task's row.
type Result struct {
	VMID        domain.ID `json:"vm_id"`
	ExecutionID domain.ID `json:"execution_id"`
	// ExitCode is absent where the command was not started, or is lost.
	ExitCode    *int   `json:"exit_code,omitempty"`
	Signal      int    `json:"signal,omitempty"`
	TimedOut    bool   `json:"timed_out,omitempty"`
	LostReason  string `json:"lost_reason,omitempty"`
	OutputBytes int64  `json:"output_bytes"`
	Files       []File `json:"files,omitempty"`
}

// File is a result file.
type File struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"size_bytes"`
	Content   []byte `json:"content,omitempty"` // base64 in JSON
	Error     string `json:"error,omitempty"`   // the code of why it is not here
}

// outcome is how an attempt ended. err is nil where its command exited with 0.
type outcome struct {
	Result
	err *domain.TaskError
}

// errNoRoom wraps why there was none: nothing was made.
var errNoRoom = errors.New(errors.CapacityExhausted, "there is no room for the task's VM")

type noRoom struct{ because error }

func (n noRoom) Error() string        { return n.because.Error() }
func (n noRoom) Unwrap() error        { return n.because }
func (n noRoom) Is(target error) bool { return target == errNoRoom }

// attempt carries an attempt on until its command has ended and its results are
// read, or until it is known that this will not be. An error is for what may be
// otherwise when it is looked at again.
func (r *Runner) attempt(ctx context.Context, by vmm.Caller, t *domain.Task) (outcome, error) {
	ctx, stop := r.untilCanceled(ctx, t)
	defer stop()
	out := outcome{Result: Result{VMID: t.VMID, ExecutionID: t.ExecutionID}}
	var x *domain.Execution
	run, err := service.OpenRun(ctx, r.Sealer, t)
	if err == nil && t.Step == domain.StepCreating {
		if err = r.makeVM(ctx, by, t, run); err == nil {
			_, err = r.advance(ctx, t, domain.StepRunning, func(*domain.Task) {})
		}
	}
	if err == nil {
		x, err = r.execute(ctx, by, t, run)
	}
	if err == nil {
		out.ExitCode, out.Signal, out.TimedOut, out.LostReason, out.OutputBytes = x.ExitCode, x.Signal, x.TimedOut, x.LostReason, x.OutputBytes
		out.err = verdict(x)
		if len(run.Results) > 0 {
			if _, err = r.advance(ctx, t, domain.StepCollecting, func(*domain.Task) {}); err == nil {
				out.Files, err = r.collect(ctx, by, t, run)
			}
		}
	}
	switch {
	case err == nil:
		return out, nil
	case errors.Is(context.Cause(ctx), errCanceled):
		return out, nil // however far it came
	case ctx.Err() != nil, errors.Is(err, errStale), errors.Is(err, errAhead), errors.Is(err, errNoRoom), errors.As(err, new(claimed)):
		return out, err
	case errors.HasCode(err, errors.Unavailable) && !r.overdue(ctx, by, t):
		return out, err
	}
	public := errors.Public(err)
	out.err = &domain.TaskError{Code: string(public.Code), Message: public.Message}
	return out, nil
}

// verdict is why a command that has ended does not count as a success.
func verdict(x *domain.Execution) *domain.TaskError {
	switch {
	case x.State == domain.ExecutionLost:
		return &domain.TaskError{Code: domain.TaskCommandLost, Message: "the command is lost: " + x.LostReason}
	case x.TimedOut:
		return &domain.TaskError{Code: domain.TaskCommandTimedOut, Message: "the command was killed when its time was up"}
	case x.ExitCode == nil || *x.ExitCode != 0:
		code := -1
		if x.ExitCode != nil {
			code = *x.ExitCode
		}
		return &domain.TaskError{Code: domain.TaskCommandFailed, Message: fmt.Sprintf("the command exited with %d", code)}
	}
	return nil
}

// errCanceled is the cause of an attempt's end that somebody asked for.
var errCanceled = errors.New(errors.Canceled, "the task is canceled")

// untilCanceled ends with a run, or when somebody asks for its end.
func (r *Runner) untilCanceled(parent context.Context, t *domain.Task) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	sub := r.Changes.Subscribe(t.ID)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer sub.Done()
		for {
			changed := sub.Changed()
			var row *domain.Task
			err := r.Store.View(ctx, func(tx storage.Tx) (err error) {
				row, err = tx.Tasks().Get(ctx, t.ProjectID, t.ID)
				return err
			})
			if err == nil && row.CancelAsked {
				cancel(errCanceled)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// overdue reports whether a run's VM, which cannot be reached, is past its time.
func (r *Runner) overdue(ctx context.Context, by vmm.Caller, t *domain.Task) bool {
	vm, err := r.Service.GetVM(ctx, by, t.VMID)
	return err == nil && vm.Deadline != nil && vm.Deadline.Before(r.Now())
}

// makeVM has the run's VM made, and waits for it.
func (r *Runner) makeVM(ctx context.Context, by vmm.Caller, t *domain.Task, run vmm.Run) error {
	req := run.VM
	timeout := r.Service.RunTimeout(run)
	req.ID, req.Timeout, req.OnTimeout = t.VMID, &timeout, domain.TimeoutKill
	_, err := r.Service.CreateVM(ctx, by, req)
	switch {
	case errors.Is(err, service.ErrBeyondQuota):
		return err // it would wait for ever
	case errors.HasCode(err, errors.CapacityExhausted), errors.HasCode(err, errors.QuotaExceeded):
		return noRoom{err}
	case err != nil:
		return err
	}
	r.gotRoom(ctx, t.ProjectID)
	vm, err := r.Service.WaitVM(ctx, by, t.VMID)
	if err == nil && vm.Observed != domain.Running {
		if vmm.NotStarted(vm) {
			return vmm.Failure(vm)
		}
		err = errors.New(errors.Conflict, "the VM is %s: %s", vm.Observed, vm.Reason)
	}
	return err
}

// execute has the run's command run, and waits for its end. One that was started
// already is not started again: neither here nor, if its start was not told of
// any more, in the VM.
func (r *Runner) execute(ctx context.Context, by vmm.Caller, t *domain.Task, run vmm.Run) (*domain.Execution, error) {
	x, err := r.Service.GetExecution(ctx, by, t.ExecutionID)
	if errors.HasCode(err, errors.NotFound) {
		if err := r.writeFiles(ctx, by, t, run); err != nil {
			return nil, err
		}
		x, err = r.Service.StartExecution(ctx, by, t.VMID, vmm.StartExecution{ID: t.ExecutionID, Command: run.Command})
		r.Changes.Notify(t.ID) // its output can be read
	}
	if err != nil || x.State.Ended() {
		return x, err
	}
	feeding, stop := context.WithCancel(ctx)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if err := r.feed(feeding, by, t.ExecutionID, run.Stdin); err != nil && feeding.Err() == nil {
			r.Log.Debug("a run's command does not take its input", "task", t.ID, "error", err)
		}
	}()
	defer func() { stop(); <-fed }()
	return r.Service.WaitExecution(ctx, by, t.ExecutionID)
}

// feedPiece is how much of a command's input is sent at a time.
const feedPiece = 64 << 10

// feed sends a command its input from where the last one who did has come to.
func (r *Runner) feed(ctx context.Context, by vmm.Caller, id domain.ID, input []byte) error {
	if len(input) == 0 {
		return nil
	}
	at, err := r.Service.StdinOffset(ctx, by, id)
	for err == nil && at < int64(len(input)) {
		piece := input[at:min(at+feedPiece, int64(len(input)))]
		if err = r.Service.WriteStdin(ctx, by, id, at, piece); err == nil {
			at += int64(len(piece))
		}
	}
	if err != nil {
		return err
	}
	return r.Service.CloseStdin(ctx, by, id)
}

// collectLimit is how long result files may take.
const collectLimit = 2 * time.Minute

// collect reads the files that are to be kept. Those that are not there, or too
// large, are told as such.
func (r *Runner) collect(ctx context.Context, by vmm.Caller, t *domain.Task, run vmm.Run) ([]File, error) {
	ctx, cancel := context.WithTimeout(ctx, collectLimit)
	defer cancel()
	files := make([]File, len(run.Results))
	left := int64(domain.MaxTaskResultBytes)
	for i, path := range run.Results {
		files[i].Path = path
		info, body, err := r.Service.ReadFile(ctx, by, t.VMID, path, vmm.FileOptions{User: run.Command.User, Length: left + 1})
		if err == nil {
			files[i].SizeBytes = info.Size
			files[i].Content, err = io.ReadAll(io.LimitReader(body, left+1))
			err = errors.Join(err, body.Close())
		}
		if err == nil && int64(len(files[i].Content)) > left {
			err = errors.New(errors.TooLarge, "the result files have more than %d bytes", domain.MaxTaskResultBytes)
		}
		if err == nil {
			left -= int64(len(files[i].Content))
			continue
		}
		if ctx.Err() == nil && errors.HasCode(err, errors.Unavailable) {
			return nil, err
		}
		files[i].Content, files[i].Error = nil, string(errors.CodeOf(err))
	}
	return files, nil
}
