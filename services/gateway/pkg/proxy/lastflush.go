package proxy

import (
	"net/http"
	"strconv"
)

// lastFlush leaves an answer's last flush to its end, which comes at once. On
// HTTP/2 that saves a frame, and the client waking up once more for it: what
// ends an answer goes with its last bytes.
type lastFlush struct {
	http.ResponseWriter
	control *http.ResponseController
	left    int64 // bytes to come; unknown: less than none
}

// endsAtOnce gives a writer for one answer on HTTP/2.
func endsAtOnce(w http.ResponseWriter) *lastFlush {
	return &lastFlush{w, http.NewResponseController(w), -1}
}

// Unwrap is for [http.ResponseController].
func (w *lastFlush) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *lastFlush) WriteHeader(status int) {
	if n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil && status >= http.StatusOK {
		w.left = n
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *lastFlush) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.left = max(w.left-int64(n), -1)
	return n, err
}

// FlushError sends what is buffered, unless that is all there is.
func (w *lastFlush) FlushError() error {
	if w.left == 0 {
		return nil
	}
	return w.control.Flush()
}
