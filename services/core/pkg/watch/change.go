package watch

import (
	"context"
	"sync"
)

// Change wakes those who wait for the next change of one thing. Its zero value
// is ready. Every method is called with the lock held that guards the thing: so
// a change between looking and waiting is never missed, and one that nobody
// waits for costs nothing.
type Change struct {
	next chan struct{} // closed at the next change; nil: nobody waits
}

// Next returns a channel that is closed at the next change.
func (c *Change) Next() <-chan struct{} {
	if c.next == nil {
		c.next = make(chan struct{})
	}
	return c.next
}

// Notify wakes everybody who waits.
func (c *Change) Notify() {
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// Wait lets go of the lock until the next change, or until ctx ends, whose error
// it then returns.
func (c *Change) Wait(ctx context.Context, lock sync.Locker) error {
	next := c.Next()
	lock.Unlock()
	defer lock.Lock()
	select {
	case <-next:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
