// Package retryafter reads for how long an HTTP server wishes to be left alone.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

// Read reads the header Retry-After in both of its forms (RFC 9110 §10.2.3): in
// seconds, or as a time by the clock of who tells it, where the header Date shows
// what that says, else by now. It is most at the longest. 0: there is none.
func Read(h http.Header, now time.Time, most time.Duration) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, most)
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if its, err := http.ParseTime(h.Get("Date")); err == nil {
		now = its
	}
	return min(max(0, until.Sub(now)), most)
}
