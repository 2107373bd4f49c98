// Package loki sends logs to Grafana Loki, or what speaks its push API
// (https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs), and
// reads them there.
package loki

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/common/pkg/retryafter"
)

const (
	pushPath    = "/loki/api/v1/push"
	maxLine     = 128 << 10 // of one: Loki refuses more than 256 KiB unless told otherwise
	maxBatch    = 1 << 20   // bytes of lines in a request
	maxWaiting  = 8 << 20   // bytes of lines in memory
	gather      = time.Second
	pushTimeout = 10 * time.Second
	firstPause  = 500 * time.Millisecond // after a failure; twice as long after each one that follows
	longPause   = 30 * time.Second
	longestAsk  = 5 * time.Minute // that Loki may ask for: lines wait in memory meanwhile, up to their bound
	tellEvery   = time.Minute
)

// Config says where logs are sent and as whose.
type Config struct {
	URL           string            // of Loki, such as http://127.0.0.1:3100
	Labels        map[string]string // of all lines, beside level
	Tenant        string            // X-Scope-OrgID; empty: none
	Authorization string            // the header; empty: none
	Tell          func(msg string)  // hears that lines were lost, once a minute at most; must not log to this
	Client        *http.Client      // nil: one with time limits
}

// show says as whose a request is.
func (c Config) show(r *http.Request) {
	if c.Tenant != "" {
		r.Header.Set("X-Scope-OrgID", c.Tenant)
	}
	if c.Authorization != "" {
		r.Header.Set("Authorization", c.Authorization)
	}
}

// CheckURL returns InvalidArgument for what is no address of a Loki.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New(errors.InvalidArgument, "this is no address of a Loki").WithHint("such as http://127.0.0.1:3100; credentials go into a file")
	}
	return nil
}

// Sink sends lines in batches, in the background. Nobody who logs waits for it:
// while it cannot send, lines wait in memory up to a bound, then the oldest are lost.
type Sink struct {
	config Config
	to     string

	mu      sync.Mutex
	waiting []logging.Line
	bytes   int
	lost    int64
	told    time.Time
	wake    chan struct{} // holds one when there is more to send than a batch, or it is to end

	closing context.Context
	close   context.CancelFunc
	ended   chan struct{}
}

// New starts a sink. Returns InvalidArgument.
func New(c Config) (*Sink, error) {
	if err := CheckURL(c.URL); err != nil {
		return nil, err
	}
	if c.Client == nil {
		c.Client = &http.Client{Timeout: pushTimeout}
	}
	if c.Tell == nil {
		c.Tell = func(string) {}
	}
	s := &Sink{config: c, to: strings.TrimRight(c.URL, "/") + pushPath, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	s.closing, s.close = context.WithCancel(context.Background())
	go s.run()
	return s, nil
}

// Add takes a line.
func (s *Sink) Add(l logging.Line) {
	if len(l.Text) > maxLine {
		l.Text = strings.ToValidUTF8(l.Text[:maxLine], "")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		s.lost++
		return
	}
	s.waiting = append(s.waiting, l)
	s.bytes += len(l.Text)
	for s.bytes > maxWaiting {
		s.bytes -= len(s.waiting[0].Text)
		s.waiting = s.waiting[1:]
		s.lost++
	}
	if s.bytes >= maxBatch {
		s.nudge()
	}
}

func (s *Sink) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Lost is how many lines were lost so far.
func (s *Sink) Lost() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Close sends what waits until ctx ends, and stops. What is added later is lost.
func (s *Sink) Close(ctx context.Context) error {
	s.close()
	select {
	case <-s.ended:
	case <-ctx.Done():
		return errors.Public(ctx.Err())
	}
	return nil
}

func (s *Sink) run() {
	defer close(s.ended)
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for {
		last := false
		select {
		case <-s.wake:
		case <-timer.C:
		case <-s.closing.Done():
			last = true
		}
		for s.send(last) {
		}
		if last {
			return
		}
		timer.Reset(gather)
	}
}

// send sends one batch, until it is taken or refused; last: it is tried once. It
// reports whether there is another that is full, or any at the end.
func (s *Sink) send(last bool) bool {
	batch, more := s.take(last)
	if len(batch) == 0 {
		return false
	}
	body := s.encode(batch)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		last = last || s.closing.Err() != nil // not when that comes while it is asked: then once more
		again, wish, err := s.push(body)
		if err == nil {
			return more
		}
		if !again || last {
			s.lose(len(batch), err)
			return more && !again // what is refused need not be so for the next
		}
		s.lose(0, err)
		select {
		case <-time.After(wish + pause/2 + rand.N(pause/2)): //nolint:gosec // so that not all try at once
		case <-s.closing.Done(): // once more
		}
	}
}

// take gives the lines of the next request.
func (s *Sink) take(all bool) (batch []logging.Line, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.waiting) && (n == 0 || size+len(s.waiting[n].Text) <= maxBatch) {
		size += len(s.waiting[n].Text)
		n++
	}
	batch = s.waiting[:n:n]
	s.waiting = s.waiting[n:]
	s.bytes -= size
	if len(s.waiting) == 0 {
		s.waiting = nil // its memory
	}
	return batch, s.bytes >= maxBatch || all && s.bytes > 0
}

// stream and request are what Loki's push API takes.
type (
	stream struct {
		Stream map[string]string `json:"stream"`
		Values [][2]string       `json:"values"` // nanoseconds since 1970, and the line
	}
	request struct {
		Streams []*stream `json:"streams"`
	}
)

func (s *Sink) encode(batch []logging.Line) []byte {
	var r request
	by := map[slog.Level]*stream{}
	for _, l := range batch {
		to := by[l.Level]
		if to == nil {
			to = &stream{Stream: map[string]string{"level": strings.ToLower(l.Level.String())}}
			maps.Copy(to.Stream, s.config.Labels)
			by[l.Level] = to
			r.Streams = append(r.Streams, to)
		}
		to.Values = append(to.Values, [2]string{strconv.FormatInt(l.At.UnixNano(), 10), l.Text})
	}
	text, _ := json.Marshal(r) // of strings
	return text
}

// push reports whether it may be tried again after an error, and how long Loki
// wishes to be left alone before.
func (s *Sink) push(body []byte) (again bool, wish time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), pushTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to, bytes.NewReader(body))
	if err != nil {
		return false, 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	s.config.show(r)
	resp, err := s.config.Client.Do(r)
	if err != nil {
		return true, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // the connection is used again
	if resp.StatusCode/100 == 2 {
		return false, 0, nil
	}
	again = resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
	return again, retryafter.Read(resp.Header, time.Now(), longestAsk), fmt.Errorf("it answers %s", resp.Status)
}

// lose counts lines that are lost, and tells why nothing is sent.
func (s *Sink) lose(n int, why error) {
	s.mu.Lock()
	s.lost += int64(n)
	lost, now := s.lost, time.Now()
	tell := now.Sub(s.told) >= tellEvery
	if tell {
		s.told = now
	}
	s.mu.Unlock()
	if tell {
		s.config.Tell(fmt.Sprintf("logs are not taken by Loki: %v; %d lines were lost so far", why, lost))
	}
}
