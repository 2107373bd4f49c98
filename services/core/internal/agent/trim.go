package agent

import (
	"net/http"
	"runtime/debug"
	"time"
)

// trimAfter is how long an agent is left alone before it gives back memory.
const trimAfter = 2 * time.Second

// trimmed serves h and, once nobody has called for a while, gives the memory
// that calls have left behind back to the kernel: of many machines most are
// idle, and each of them has an agent.
func trimmed(h http.Handler) http.Handler {
	idle := time.AfterFunc(trimAfter, debug.FreeOSMemory)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		idle.Reset(trimAfter)
		defer idle.Reset(trimAfter)
		h.ServeHTTP(w, r)
	})
}
