package loki_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/loki"
)

// server takes what Loki documents of its push API, and nothing else.
type server struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex
	answer []int    // of the next requests; then 204
	after  []string // Retry-After of those
	came   int      // requests, those that are held among them
	asked  int
	times  []time.Time // of requests
	lines  []string
	labels []map[string]string
	header http.Header
	hold   chan struct{}
}

func newServer(t *testing.T, answers ...int) *server {
	s := &server{t: t, answer: answers}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	hold := s.hold
	s.came++
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}
	if r.Context().Err() != nil { // whoever asked has given up and will ask again
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	s.times = append(s.times, time.Now())
	s.header = r.Header
	if len(s.answer) > 0 {
		code := s.answer[0]
		s.answer = s.answer[1:]
		if len(s.after) > 0 {
			w.Header().Set("Retry-After", s.after[0])
			s.after = s.after[1:]
		}
		if code != http.StatusNoContent {
			w.WriteHeader(code)
			return
		}
	}
	var in struct {
		Streams []struct {
			Stream map[string]string `json:"stream"`
			Values [][2]string       `json:"values"`
		} `json:"streams"`
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || r.Method != http.MethodPost || r.URL.Path != "/loki/api/v1/push" || r.Header.Get("Content-Type") != "application/json" {
		s.t.Errorf("%s %s %v: %s", r.Method, r.URL, err, body)
	}
	for _, st := range in.Streams {
		if len(st.Stream) == 0 || len(st.Values) == 0 {
			s.t.Errorf("an empty stream: %s", body)
		}
		s.labels = append(s.labels, st.Stream)
		for _, v := range st.Values {
			if ns, err := strconv.ParseInt(v[0], 10, 64); err != nil || time.Since(time.Unix(0, ns)) > time.Hour {
				s.t.Errorf("time %q: %v", v[0], err)
			}
			s.lines = append(s.lines, v[1])
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) got() (lines []string, asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines, s.asked
}

func sink(t *testing.T, c loki.Config) (*loki.Sink, *slog.Logger) {
	t.Helper()
	s, err := loki.New(c)
	if err != nil {
		t.Fatal(err)
	}
	h, err := logging.NewLines("info", s.Add)
	if err != nil {
		t.Fatal(err)
	}
	return s, slog.New(h)
}

func shut(t *testing.T, s *loki.Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits until something is so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for !is() {
		if t.Context().Err() != nil {
			t.Fatal(what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPush(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	s, log := sink(t, loki.Config{URL: srv.URL + "/", Labels: map[string]string{"service": "gateway"}, Tenant: "a", Authorization: "Bearer b"})
	log.Debug("not this")
	log.With("vm", "x").WithGroup("g").Info("hello", "n", 1, "password", "hunter2")
	log.Error("bad \"quoted\"\n")
	shut(t, s)
	lines, _ := srv.got()
	if len(lines) != 2 || srv.header.Get("X-Scope-OrgID") != "a" || srv.header.Get("Authorization") != "Bearer b" {
		t.Fatalf("%q, %v", lines, srv.header)
	}
	var l map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &l); err != nil || l["vm"] != "x" || l["msg"] != "hello" || strings.Contains(lines[0], "hunter2") {
		t.Errorf("%s: %v", lines[0], err)
	}
	if got := fmt.Sprint(srv.labels); got != "[map[level:info service:gateway] map[level:error service:gateway]]" {
		t.Error(got)
	}
	log.Info("after the end") // lost, and no harm
}

// All that a Loki may take later is sent again, in order; what it refuses is lost and told.
func TestPushAgain(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 503, 429, 500)
	var told []string
	s, log := sink(t, loki.Config{URL: srv.URL, Tell: func(m string) { told = append(told, m) }})
	for i := range 100 {
		log.Info("m", "n", i)
	}
	for {
		if lines, _ := srv.got(); len(lines) == 100 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("not sent")
		}
		time.Sleep(time.Millisecond)
	}
	shut(t, s)
	lines, asked := srv.got()
	for i, l := range lines {
		if !strings.Contains(l, fmt.Sprintf(`"n":%d}`, i)) {
			t.Fatalf("line %d is %s", i, l)
		}
	}
	if asked < 4 || s.Lost() != 0 || len(told) != 1 || !strings.Contains(told[0], "503") {
		t.Errorf("asked %d times, %d lost, told %q", asked, s.Lost(), told)
	}

	srv = newServer(t, 400)
	told = nil
	s, log = sink(t, loki.Config{URL: srv.URL, Tell: func(m string) { told = append(told, m) }})
	log.Info("refused")
	shut(t, s)
	if lines, asked := srv.got(); len(lines) != 0 || asked != 1 || s.Lost() != 1 || len(told) != 1 || !strings.Contains(told[0], "400") {
		t.Errorf("%q, asked %d times, %d lost, told %q", lines, asked, s.Lost(), told)
	}
}

// A Loki that wants to be left alone is, but not longer than lines can wait.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 429)
	srv.after = []string{"3"}
	s, log := sink(t, loki.Config{URL: srv.URL})
	log.Info("later")
	until(t, "not sent", func() bool { lines, _ := srv.got(); return len(lines) == 1 })
	shut(t, s)
	if wait := srv.times[1].Sub(srv.times[0]); wait < 3*time.Second {
		t.Errorf("it was left alone for %s", wait)
	}

	// Who ends tries once more all the same.
	srv = newServer(t, 503)
	srv.after = []string{"86400"}
	s, log = sink(t, loki.Config{URL: srv.URL})
	log.Info("at the end")
	until(t, "not asked", func() bool { _, asked := srv.got(); return asked == 1 })
	shut(t, s)
	if lines, asked := srv.got(); len(lines) != 1 || asked != 2 {
		t.Errorf("%q, asked %d times", lines, asked)
	}
}

// Who ends while a request is under way that comes to nothing tries once more, too.
func TestCloseWhileAsked(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 503)
	hold := make(chan struct{})
	srv.hold = hold
	s, log := sink(t, loki.Config{URL: srv.URL})
	log.Info("at the end")
	until(t, "nothing comes", func() bool { srv.mu.Lock(); defer srv.mu.Unlock(); return srv.came == 1 })
	closed := make(chan struct{})
	go func() { defer close(closed); shut(t, s) }()
	until(t, "it does not end", func() bool { log.Info("too late"); return s.Lost() > 0 })
	close(hold)
	<-closed
	if lines, asked := srv.got(); asked < 2 || len(lines) == 0 || !strings.Contains(lines[0], "at the end") {
		t.Errorf("%q, asked %d times", lines, asked)
	}
}

// While nothing is taken nobody waits, memory is bounded, and the newest stay.
func TestPushWhileAway(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	hold := make(chan struct{})
	srv.hold = hold
	s, log := sink(t, loki.Config{URL: srv.URL})
	const lines, size = 400, 64 << 10 // 25 MiB
	text := strings.Repeat("x", size)
	for i := range lines {
		log.Info(text, "n", i)
	}
	log.Info(strings.Repeat("y", 1<<20)) // is cut
	if lost := s.Lost(); lost < 200 || lost > 300 {
		t.Errorf("%d of %d were lost", lost, lines)
	}
	srv.mu.Lock()
	srv.hold = nil
	srv.mu.Unlock()
	close(hold)
	shut(t, s)
	got, _ := srv.got()
	if n := int64(len(got)) + s.Lost(); n != lines+1 {
		t.Errorf("%d came, %d were lost", len(got), s.Lost())
	}
	if last := got[len(got)-1]; len(last) != 128<<10 || !strings.Contains(got[len(got)-2], fmt.Sprintf(`"n":%d}`, lines-1)) {
		t.Errorf("the last is %d bytes", len(last))
	}
}

// Closing does not wait for a Loki that does not answer longer than it may.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	hold := make(chan struct{})
	srv.hold = hold
	t.Cleanup(func() { close(hold) })
	s, log := sink(t, loki.Config{URL: srv.URL})
	log.Info("m")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); err == nil {
		t.Error("it was taken")
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "loki:3100", "ftp://loki", "http://", "http://u:p@loki", "http://loki?x=1", "http://loki#x"} {
		if loki.CheckURL(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, good := range []string{"http://127.0.0.1:3100", "https://loki.example.com/prefix/"} {
		if err := loki.CheckURL(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}
