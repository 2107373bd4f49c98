package middleware

import (
	"sync"
	"time"
)

// watchdog ends what takes too long. It is for HTTP/2, where a deadline is an
// order to the connection's own goroutine: too dear to set and lift around
// every read and write, as a timer that does not go off is not.
type watchdog struct {
	end func(deadline time.Time) error // sets a deadline

	mu    sync.Mutex
	timer *time.Timer
	over  bool // the handler has returned
}

// start allows so much time until stop.
func (d *watchdog) start(limit time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.over:
	case d.timer == nil:
		d.timer = time.AfterFunc(limit, d.bite)
	default:
		d.timer.Reset(limit)
	}
}

func (d *watchdog) bite() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over {
		_ = d.end(time.Unix(1, 0))
	}
}

func (d *watchdog) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}

// dismissed ends the watch for good, as the handler returns: there is nothing
// left then to set a deadline on, and the attempt would end the process.
func (d *watchdog) dismissed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
