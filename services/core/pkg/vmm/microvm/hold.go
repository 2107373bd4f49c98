package microvm

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
)

// holdPatience is how long a guest may take to hold what runs in it. One whose
// agent does not answer is saved as it is.
const holdPatience = 5 * time.Second

// hold has what runs in a machine stop before its memory is saved, or may be, so
// that nothing runs in who goes on from there until it is told who it is, with
// random numbers and a time of its own. It ends by release, the agent's Thaw or
// Assume, or by itself a minute later.
func (d *Driver) hold(ctx context.Context, m *machine) {
	d.tellRunning(ctx, m, "what runs in a machine goes on in whoever goes on from its memory before that knows who it is", (*guest.Client).Hold)
}

// release lets go on in the machine itself what hold stopped.
func (d *Driver) release(ctx context.Context, m *machine) {
	d.tellRunning(context.WithoutCancel(ctx), m, "what runs in a machine may stand still for up to a minute", (*guest.Client).Release)
}

// tellRunning has a machine's agent do something, where its processors run. One of
// an older version cannot, and holds nothing.
func (d *Driver) tellRunning(ctx context.Context, m *machine, otherwise string, do func(*guest.Client, context.Context) error) {
	if m.run.Paused || m.run.Phase != phaseRunning {
		return // it holds it since it was paused or saved
	}
	ctx, cancel := context.WithTimeout(ctx, holdPatience)
	defer cancel()
	if err := do(d.client(m.MachineID), ctx); err != nil && !errors.HasCode(err, errors.Unsupported) {
		d.log.Warn(otherwise, "machine", m.MachineID, "error", err)
	}
}
