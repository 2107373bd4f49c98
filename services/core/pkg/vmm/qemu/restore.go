package qemu

import (
	"context"
	"os"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
)

// Restore makes a guest that stands still, with a saved memory, see [Engine.Boot]
// for its monitor. It may stand as long as one likes. Returns NotFound without a
// saved memory, Unsupported for one of another QEMU, InvalidArgument for one of a
// machine of another shape.
func (e *Engine) Restore(ctx context.Context, g microvm.Guest, from microvm.Memory) (int, error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	saved, err := readForm(from)
	if err != nil {
		return 0, err
	}
	drives, _, err := drivesOf(g)
	if err != nil {
		return 0, fault.Of(err, "a machine's disk is not there")
	}
	if err := saved.takes(formOf(h, g, drives)); err != nil {
		return 0, err
	}
	state, err := readState(from, saved)
	if err != nil {
		return 0, err
	}
	ram, err := openRAM(from, saved)
	if err != nil {
		return 0, err
	}
	defer ram.Close()
	m := machine{file: memoryFile{present: true}}
	l := &launch{
		shown:  []shown{{name: memoryName, path: ram.Name()}},
		opened: map[string]*os.File{memoryName: ram},
	}
	return e.run(ctx, h, g, m, l, func(ctx context.Context, c *qmp.Client) error {
		if err := capabilities(ctx, c, true); err != nil {
			return err
		}
		in, err := pour(state)
		if err != nil {
			return err
		}
		defer in.Close()
		if err := receive(ctx, c, in); err != nil {
			return err
		}
		return moved(ctx, c)
	})
}
