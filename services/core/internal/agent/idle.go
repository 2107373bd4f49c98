package agent

import (
	"net/http"
	"sync"
	"time"
)

// idleAfter is how long an agent is left alone before it is idle.
const idleAfter = 2 * time.Second

// watchIdle serves h and calls idle, once, when nobody has called for a while.
func watchIdle(h http.Handler, idle func()) http.Handler {
	timer := time.AfterFunc(idleAfter, sync.OnceFunc(idle))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timer.Reset(idleAfter)
		h.ServeHTTP(w, r)
	})
}
