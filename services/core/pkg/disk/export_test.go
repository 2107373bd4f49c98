package disk

import (
	"context"
	"os"
	"time"
)

// GuardRounds is how often the guard has looked.
func (p *Pool) GuardRounds() int64 { return p.guard.rounds.Load() }

// ReclaimAll is Reclaim that waits until all is back, however slow the host is.
func (p *Pool) ReclaimAll(ctx context.Context) error {
	defer func(d time.Duration) { p.reclaimPatience = d }(p.reclaimPatience)
	p.reclaimPatience = 5 * time.Minute
	return p.Reclaim(ctx)
}

// WithoutGuard does something while the guard rests, which then goes on as if it had
// just taken the ballast out.
func (p *Pool) WithoutGuard(do func() error) error {
	p.guard.mu.Lock()
	defer p.guard.mu.Unlock()
	p.guard.lifted = time.Now()
	return do()
}

// Freed has the file system free what was deleted, without giving the room back to
// the disk below, until nothing is left of it.
func (p *Pool) Freed() (done bool, err error) {
	root, err := os.Open(p.root)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if err := ioctl(root, iocSync, nil); err != nil {
		return false, err
	}
	left, err := deletedSubvolumes(root)
	if err != nil || left {
		return false, err
	}
	// What was freed last can be used once that is committed, too.
	return true, ioctl(root, iocSync, nil)
}
