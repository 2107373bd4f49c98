package oci

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// machine is what this process holds of a machine: who works on it, and who
// waits for its end. All facts are in its record.
type machine struct {
	turn     chan struct{} // holds one token: whoever has it works on the machine
	users    int           // calls that hold or want the turn; guarded by Driver.mu
	cancel   context.CancelFunc
	deleting int    // Delete calls under way; guarded by Driver.mu
	watch    *watch // of its process, if any; guarded by Driver.mu
}

// begin takes the turn to work on a machine. Delete waits for no one: it
// cancels what is under way, and until it is done nothing else begins.
// The context returned is canceled by such a Delete.
func (d *Driver) begin(ctx context.Context, id string, del bool) (context.Context, func(), error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, nil, errors.New(errors.Unavailable, "the driver is closed")
	}
	m := d.machines[id]
	if m == nil {
		m = &machine{turn: make(chan struct{}, 1)}
		m.turn <- struct{}{}
		d.machines[id] = m
	}
	m.users++
	if del {
		m.deleting++
		if m.cancel != nil {
			m.cancel()
		}
	}
	d.mu.Unlock()

	leave := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		m.users--
		if del {
			m.deleting--
		}
		if m.users == 0 && m.watch == nil {
			delete(d.machines, id)
		}
	}
	select {
	case <-m.turn:
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
	d.mu.Lock()
	if !del && m.deleting > 0 {
		d.mu.Unlock()
		m.turn <- struct{}{}
		leave()
		return nil, nil, errors.New(errors.Conflict, "the machine is being deleted")
	}
	work, cancel := context.WithCancel(ctx)
	if !del {
		m.cancel = cancel
	}
	d.mu.Unlock()
	return work, func() {
		d.mu.Lock()
		if !del {
			m.cancel = nil
		}
		d.mu.Unlock()
		cancel()
		m.turn <- struct{}{}
		leave()
	}, nil
}
