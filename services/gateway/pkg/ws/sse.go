package ws

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

// WantsSSE reports whether a request asks for server-sent events.
func WantsSSE(r *http.Request) bool { return accepts(r, "text/event-stream") }

// accepts reports whether a media type is named in Accept; wildcards do not count.
func accepts(r *http.Request, media string) bool {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), media) {
				return true
			}
		}
	}
	return false
}

// sse writes server-sent events (WHATWG HTML §9.2), each flushed at once, and
// comments while there is nothing to tell, so that proxies keep the stream open.
type sse struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	buf     []byte
	wrote   bool // since the last tick
	stop    chan struct{}
	ticker  sync.WaitGroup
}

// startSSE sends the header and the first bytes.
func startSSE(w http.ResponseWriter, ping time.Duration) (*sse, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx: do not buffer
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	s := &sse{w: w, control: http.NewResponseController(w), stop: make(chan struct{})}
	if err := s.raw([]byte("retry: 1000\n\n")); err != nil {
		return nil, err
	}
	s.ticker.Go(func() {
		tick := time.NewTicker(ping)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.idle()
			}
		}
	})
	return s, nil
}

// close ends the keep-alives. The ResponseWriter must not be used after the
// handler returned, so it waits for a keep-alive under way.
func (s *sse) close() {
	close(s.stop)
	s.ticker.Wait()
}

func (s *sse) idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrote {
		s.wrote = false
		return
	}
	if _, err := s.w.Write([]byte(": alive\n\n")); err == nil {
		_ = s.control.Flush()
	}
}

func (s *sse) raw(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = true
	if _, err := s.w.Write(p); err != nil {
		return err
	}
	return s.control.Flush()
}

// event sends one event. Data is JSON, which holds no bare line feed.
func (s *sse) event(name, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.eventText(name, id, text)
}

func (s *sse) eventText(name, id string, text []byte) error {
	b := s.buf[:0]
	b = append(b, "event: "...)
	b = append(b, name...)
	if id != "" {
		b = append(b, "\nid: "...)
		b = append(b, id...)
	}
	b = append(b, "\ndata: "...)
	b = append(b, text...)
	b = append(b, "\n\n"...)
	s.buf = b
	return s.raw(b)
}

// fail tells why the stream ends, where there is something to tell.
func (s *sse) fail(ctx context.Context, err error) {
	var told streamError
	switch cause := context.Cause(ctx); {
	case err == nil:
		return
	case errors.Is(cause, errStopping):
		_ = s.raw([]byte(": the server is stopping; connect again\n\n"))
		return
	case errors.As(cause, &told):
		err = told
	case cause != nil:
		return // the client is gone
	}
	e := errors.Public(err)
	_ = s.event("error", "", wire.ServerControl{Type: wire.ControlError, Code: string(e.Code), Message: e.Message, Hint: e.Hint, Field: e.Field})
}
