package worker_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A command that is taken up after a restart is still known for what it is,
// and its input goes on.
func TestRestartKeepsTheCommandAndItsInput(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	x, err := b.StartExecution(b.ctx, b.by, vm.ID, vmm.StartExecution{Command: domain.Command{Args: []string{"cat"}, Stdin: true}})
	must(t, err)
	must(t, b.WriteStdin(b.ctx, b.by, x.ID, 0, []byte("before ")))
	b.down()
	b.up()
	again, err := b.GetExecution(b.ctx, b.by, x.ID)
	must(t, err)
	if len(again.Command.Args) != 1 || again.Command.Args[0] != "cat" || !again.Command.Stdin || !again.CreatedAt.Equal(x.CreatedAt) {
		t.Errorf("%+v", again)
	}
	must(t, b.WriteStdin(b.ctx, b.by, x.ID, -1, []byte("after")))
	if offset, err := b.StdinOffset(b.ctx, b.by, x.ID); err != nil || offset != int64(len("before after")) {
		t.Errorf("%d, %v", offset, err)
	}
	must(t, b.CloseStdin(b.ctx, b.by, x.ID))
	if out := b.output(x.ID); out != "before after" {
		t.Errorf("%q", out)
	}
}

// TestAskedForAgainAsItIsMet: a command whose row the worker's death swallowed
// is asked for again in the moment in which the new worker meets it.
func TestAskedForAgainAsItIsMet(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	for range 12 {
		req := vmm.StartExecution{ID: domain.NewID(), Command: domain.Command{Args: []string{"sh", "-c", "echo done; exit 3"}}}
		_, err := b.StartExecution(b.ctx, b.by, vm.ID, req)
		must(t, err)
		b.ended(req.ID)
		b.down()
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
			_, err := tx.Executions().Delete(b.ctx, b.by.ProjectID, req.ID)
			return err
		}))
		b.up()
		_, err = b.StartExecution(b.ctx, b.by, vm.ID, req)
		must(t, err)
		stored, err := b.GetExecution(b.ctx, b.by, req.ID)
		must(t, err)
		if stored.State != domain.ExecutionExited || *stored.ExitCode != 3 || len(stored.Command.Args) != 3 || stored.StartedAt == nil {
			t.Errorf("%s, %q, started %v", stored.State, stored.Command.Args, stored.StartedAt)
		}
	}
}

// A command whose row was lost with the worker, because it was killed between
// the end and the row, is not run again, and its result is there.
func TestRowsThatACrashSwallowed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	vm := b.running(vmm.CreateVM{})
	req := vmm.StartExecution{ID: domain.NewID(), Command: domain.Command{Args: []string{"sh", "-c", "echo ran >> f; echo done; exit 3"}}}
	_, err := b.StartExecution(b.ctx, b.by, vm.ID, req)
	must(t, err)
	_, err = b.WaitExecution(b.ctx, b.by, req.ID)
	must(t, err)
	b.down()
	b.up()
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		_, err := tx.Executions().Delete(b.ctx, b.by.ProjectID, req.ID)
		return err
	}))
	again, err := b.StartExecution(b.ctx, b.by, vm.ID, req)
	must(t, err)
	if again.State != domain.ExecutionExited || again.ExitCode == nil || *again.ExitCode != 3 || again.OutputBytes != 5 || again.Command.Args[0] != "sh" {
		t.Errorf("%+v", again)
	}
	if out := b.output(req.ID); out != "done\n" {
		t.Errorf("%q", out)
	}
	if out, _ := b.sh(vm.ID, "cat f"); out != "ran\n" {
		t.Errorf("it ran: %q", out)
	}
	stored, err := b.GetExecution(b.ctx, b.by, req.ID)
	if err != nil || stored.State != domain.ExecutionExited {
		t.Errorf("%+v, %v", stored, err)
	}
}
