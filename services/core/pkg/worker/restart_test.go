package worker_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
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
