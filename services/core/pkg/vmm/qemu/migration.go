package qemu

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
)

// capabilities of migrations, set before one begins.
func capabilities(ctx context.Context, c *qmp.Client, ignoreShared bool) error {
	type state struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return c.Do(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []state{
		{"events", true},                  // its end is told
		{"x-ignore-shared", ignoreShared}, // memory that is in a file stays there
	}}, nil)
}

// send has a guest sent to a descriptor, and returns when that has begun.
func send(ctx context.Context, c *qmp.Client, to *os.File) error {
	if err := c.Hand(ctx, "migration", to); err != nil {
		return err
	}
	return c.Do(ctx, "migrate", map[string]string{"uri": "fd:migration"}, nil)
}

// receive has a guest taken from a descriptor, and returns when that has begun.
func receive(ctx context.Context, c *qmp.Client, from *os.File) error {
	if err := c.Hand(ctx, "migration", from); err != nil {
		return err
	}
	// No packets are sent in the guest's name: what it was called may not be what
	// it is called now.
	if err := c.Do(ctx, "migrate-set-parameters", map[string]any{"announce-rounds": 0}, nil); err != nil {
		return err
	}
	return c.Do(ctx, "migrate-incoming", map[string]string{"uri": "fd:migration"}, nil)
}

// moved waits until a migration has ended well.
func moved(ctx context.Context, c *qmp.Client) error {
	for {
		e, err := c.Next(ctx, "MIGRATION")
		if err != nil {
			return err
		}
		status, err := statusOf(e)
		if err != nil || status == "completed" {
			return err
		}
	}
}

// statusOf gives how far a migration is. The error is that of one that failed.
func statusOf(e qmp.Event) (string, error) {
	var data struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return "", errors.Wrap(err, errors.GuestFault, "the monitor's event cannot be read")
	}
	switch data.Status {
	case "failed", "cancelled", "cancelling":
		return "", errors.New(errors.Internal, "the machine's memory could not be moved").WithHint("see the server's log")
	}
	return data.Status, nil
}

// pour feeds a pipe.
func pour(raw []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer w.Close()
		_, _ = w.Write(raw) // who reads will miss what does not get through
	}()
	return r, nil
}

// catch gives a descriptor to write to, and what was written, once all ends of it
// are closed.
func catch(most int64) (*os.File, func() ([]byte, error), error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer r.Close()
		raw, err := io.ReadAll(io.LimitReader(r, most+1))
		if err == nil && int64(len(raw)) > most {
			err = errors.New(errors.GuestFault, "the machine's devices are larger than they can be")
		}
		done <- result{raw, err}
	}()
	return w, func() ([]byte, error) { got := <-done; return got.raw, got.err }, nil
}

// settled waits until a monitor itself knows that it has moved its guest. It
// tells of that a moment before, and not when.
func settled(ctx context.Context, c *qmp.Client) error {
	return until(ctx, c, "query-status", func(status string) bool { return status != "finish-migrate" })
}

// idle has a monitor end what an earlier process began to move: the other end of
// it is gone.
func idle(ctx context.Context, c *qmp.Client) error {
	if err := cancelMigration(ctx, c); err != nil {
		return err
	}
	return until(ctx, c, "query-migrate", func(status string) bool {
		return slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, status)
	})
}

// cancelMigration ends one under way. None is success.
func cancelMigration(ctx context.Context, c *qmp.Client) error {
	var refused *qmp.Refusal
	if err := c.Do(ctx, "migrate_cancel", nil, nil); err != nil && !errors.As(err, &refused) {
		return err
	}
	return nil
}

// until asks for a status until it is as it should be, which it is in a moment.
func until(ctx context.Context, c *qmp.Client, query string, good func(status string) bool) error {
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		var now struct {
			Status string `json:"status"`
		}
		if err := c.Do(ctx, query, nil, &now); err != nil || good(now.Status) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
