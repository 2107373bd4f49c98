package middleware

import "time"

// watchdog ends what takes too long. It is for HTTP/2, where a deadline is an
// order to the connection's own goroutine: too dear to set and lift around
// every read and write, as a timer that does not go off is not.
type watchdog struct {
	end   func(deadline time.Time) error // sets a deadline
	timer *time.Timer
}

// start allows so much time until stop.
func (d *watchdog) start(limit time.Duration) {
	if d.timer == nil {
		d.timer = time.AfterFunc(limit, func() { _ = d.end(time.Unix(1, 0)) })
		return
	}
	d.timer.Reset(limit)
}

func (d *watchdog) stop() { d.timer.Stop() }
