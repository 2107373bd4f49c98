package qemu

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
)

// Freeze stops the guest's processors. Returns Conflict when the guest has ended.
func (e *Engine) Freeze(ctx context.Context, g microvm.Guest) error {
	return e.with(ctx, g, func(c *qmp.Client) error { return c.Do(ctx, "stop", nil, nil) })
}

// Thaw lets them go on, also those of a guest that a saving of this or an
// earlier process left standing. Returns Conflict when the guest has ended.
func (e *Engine) Thaw(ctx context.Context, g microvm.Guest) error {
	return e.with(ctx, g, func(c *qmp.Client) error {
		if err := settled(ctx, c); err != nil {
			return err
		}
		return c.Do(ctx, "cont", nil, nil)
	})
}

// Console gives the last that the guest's kernel said: why it does not come up,
// or nothing. Returns Conflict when the guest has ended.
func (e *Engine) Console(ctx context.Context, g microvm.Guest) (string, error) {
	var text string
	err := e.with(ctx, g, func(c *qmp.Client) error {
		return c.Do(ctx, "ringbuf-read", map[string]any{"device": "console", "size": 65536}, &text)
	})
	return text, err
}

// running asks whether the guest's processors run.
func running(ctx context.Context, c *qmp.Client) (bool, error) {
	var status struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := c.Do(ctx, "query-status", nil, &status); err != nil {
		return false, err
	}
	switch status.Status {
	case "running", "paused", "postmigrate", "prelaunch", "inmigrate", "finish-migrate":
		return status.Running, nil
	}
	return false, errors.New(errors.Conflict, "the machine does not run").WithHint("its monitor says that it is %q", status.Status)
}
