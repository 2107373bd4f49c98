package middleware

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	ae "github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// stream is the server's side of a request over HTTP/2. As that of net/http, it
// must not be given a deadline once its handler has returned.
type stream struct {
	header   http.Header
	returned bool
	wrong    int // deadlines after that
	right    int // deadlines before
}

func (s *stream) Header() http.Header         { return s.header }
func (s *stream) WriteHeader(int)             {}
func (s *stream) Write(p []byte) (int, error) { return len(p), nil }

func (s *stream) SetReadDeadline(time.Time) error  { return s.deadline() }
func (s *stream) SetWriteDeadline(time.Time) error { return s.deadline() }

func (s *stream) deadline() error {
	if s.returned {
		s.wrong++
	} else {
		s.right++
	}
	return nil
}

// read is a body whose read takes a time and ends with an error.
type read struct {
	takes time.Duration
	err   error
}

func (r read) Read([]byte) (int, error) { time.Sleep(r.takes); return 0, r.err }
func (read) Close() error               { return nil }

// A client that breaks off what it sends over HTTP/2 is not waited for any more
// once its request was answered, nor is one that is still sending then.
func TestNobodyIsWatchedAfterTheHandler(t *testing.T) {
	t.Parallel()
	const stall = time.Second
	for name, c := range map[string]struct {
		body  io.ReadCloser
		left  bool // to another goroutine
		right int
	}{
		"it breaks off":                  {body: read{err: errors.New("stream error: CANCEL")}},
		"it stalls":                      {body: read{takes: 2 * stall, err: io.ErrUnexpectedEOF}, right: 1},
		"it sends on":                    {body: read{takes: 5 * stall, err: io.EOF}, left: true},
		"it has sent all there is of it": {body: io.NopCloser(bytes.NewReader([]byte("all")))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics, err := NewMetrics()
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				s := &stream{header: http.Header{}}
				h := Observe(Observer{Logger: slog.New(slog.DiscardHandler), Metrics: metrics, Stall: stall}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if c.left {
						begun := make(chan struct{})
						go func() { close(begun); _, _ = r.Body.Read(make([]byte, 10)) }()
						<-begun
						synctest.Wait()
					} else if _, err := io.Copy(io.Discard, r.Body); err != nil && !ae.HasCode(err, ae.Canceled) {
						t.Error(err)
					}
					_, _ = w.Write([]byte("answered"))
				}))
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://localhost/", c.body)
				if err != nil {
					t.Fatal(err)
				}
				r.ProtoMajor = 2
				h.ServeHTTP(s, r)
				s.returned = true
				time.Sleep(10 * stall) // of the test's own clock
				if s.wrong > 0 || s.right != c.right {
					t.Errorf("deadlines were set %d times while it was served, %d times after", s.right, s.wrong)
				}
			})
		})
	}
}
