package gateway_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
)

// limited sets limits. Rates are so low that no token comes back in a test.
func limited(l limit.Config) func(*gateway.Config, *gateway.Deps) {
	return func(c *gateway.Config, _ *gateway.Deps) { c.Limits = l }
}

const never = 1e-6

func TestRateLimitHeadersOnEveryAnswer(t *testing.T) {
	t.Parallel()
	l := newLab(t, limited(limit.Config{Key: limit.Rate{PerSecond: never, Burst: 6}}))
	for i, q := range []req{
		{method: "GET", path: "/vms"},
		{method: "GET", path: "/vms/absent"},
		{method: "POST", path: "/vms", body: `{"bogus":1}`},
		{method: "GET", path: "/openapi.json"},
		{method: "DELETE", path: "/vms/absent"},
		{method: "GET", path: "/events/stream"},
	} {
		resp, body := l.do(q)
		left, err := strconv.Atoi(resp.Header.Get("RateLimit-Remaining"))
		if err != nil || left != 5-i || resp.Header.Get("RateLimit-Limit") != "6" || resp.Header.Get("RateLimit-Reset") == "" {
			t.Errorf("%s %s: %d %v %s", q.method, q.path, resp.StatusCode, resp.Header, body)
		}
	}
	l.problem(429, errors.RateLimited, req{method: "GET", path: "/vms"})
	resp, _ := l.do(req{method: "POST", path: "/vms", body: "{}"})
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || resp.Header.Get("RateLimit-Remaining") != "0" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if l.core.Creates() != 0 {
		t.Error("a refused request did something")
	}
	// Others have their own, and what needs no key is not limited by one.
	l.want(200, req{method: "GET", path: "/vms", key: l.user})
	l.want(200, req{method: "GET", path: "/health", key: "none"})
}

// Guessing is refused sooner than anything else, and takes nothing from those
// who have a key behind the same address.
func TestGuessingLocksNobodyOut(t *testing.T) {
	t.Parallel()
	l := newLab(t, limited(limit.Config{Failures: limit.Rate{PerSecond: never, Burst: 3}}))
	guess := req{method: "GET", path: "/vms", key: "aeth_" + strings.Repeat("0", 40)}
	for range 3 {
		l.problem(401, errors.Unauthenticated, guess)
	}
	l.problem(429, errors.RateLimited, guess)
	l.want(200, req{method: "GET", path: "/vms"})
	l.want(200, req{method: "GET", path: "/vms", key: l.user}) // for the first time
	l.problem(401, errors.Unauthenticated, req{method: "GET", path: "/vms", key: "none"})
	if _, resp, err := l.dial("/events/stream", nil, http.Header{"Authorization": {"Bearer x"}}); err == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("over a stream: %v", err)
	}
}

// Behind a trusted proxy clients are told apart; from anybody else the header
// changes nothing.
func TestAddressesBehindAProxy(t *testing.T) {
	t.Parallel()
	one := limit.Config{Address: limit.Rate{PerSecond: never, Burst: 1}}
	l := newLab(t, limited(one), func(c *gateway.Config, _ *gateway.Deps) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	as := func(client string) req {
		return req{method: "GET", path: "/vms", header: map[string]string{"X-Forwarded-For": client}}
	}
	l.want(200, as("203.0.113.1"))
	l.problem(429, errors.RateLimited, as("203.0.113.1"))
	l.problem(429, errors.RateLimited, as("198.51.100.9, 203.0.113.1"))
	l.want(200, as("203.0.113.2"))
	l.want(200, as("2001:db8::1"))
	l.problem(429, errors.RateLimited, as("2001:db8::2"))
	for range 3 {
		l.want(200, req{method: "GET", path: "/vms"}) // the proxy's own
	}
	if err := l.log.await(t.Context(), `"client":"203.0.113.2"`); err != nil {
		t.Error("the log does not tell the client")
	}
	plain := newLab(t, limited(one))
	for range 3 {
		plain.want(200, as("203.0.113.1"))
	}
}

func TestStreamsOfACallerAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t, limited(limit.Config{Streams: 2}))
	vm := l.vm().ID
	first, second := l.mustDial("/events/stream"), l.mustDial("/vms/"+vm+"/stream")
	_ = second
	if _, resp, err := l.dial("/events/stream", nil, nil); err == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("a third stream: %v", err)
	}
	l.problem(429, errors.RateLimited, req{method: "GET", path: "/events/stream", header: map[string]string{"Accept": "text/event-stream"}})
	if _, _, err := l.dial("/events/stream", nil, http.Header{"Authorization": {"Bearer " + l.user}}); err != nil {
		t.Errorf("another key's: %v", err)
	}
	_ = first.conn.Close(websocket.StatusNormalClosure, "")
	// The server has noticed when there is room again.
	for {
		s, resp, err := l.dial("/events/stream", nil, nil)
		if err == nil {
			_ = s.conn.CloseNow()
			return
		}
		if resp == nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Fatal(err)
		}
		if t.Context().Err() != nil {
			t.Fatal("no room again")
		}
	}
}

// Signals over a stream take from their caller's bucket, as requests do.
func TestSignalsOverAStreamAreLimited(t *testing.T) {
	t.Parallel()
	l := newLab(t, limited(limit.Config{Key: limit.Rate{PerSecond: never, Burst: 4}}))
	vm := l.vm().ID
	s := l.mustDial("/vms/" + vm + "/stream")
	s.send(start("winch")) // no signal ends it
	s.until(wire.ControlStarted)
	for range 3 { // two tokens are left
		s.send(wire.ClientControl{Type: wire.ControlSignal, Signal: "USR1"})
	}
	for {
		f, err := s.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.control != nil && f.control.Type == wire.ControlError {
			if f.control.Code != string(errors.RateLimited) {
				t.Errorf("%+v", f.control)
			}
			return
		}
	}
}

// A flood of small frames, pings and messages that a stream does not want makes
// its sender wait, is answered all the same, and keeps nobody else waiting.
func TestFloodsOfFrames(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	flood := l.mustDial("/vms/" + vm + "/stream")
	flood.send(start("cat"))
	flood.until(wire.ControlStarted)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := l.mustDial("/events/stream")
	go func() {
		for ctx.Err() == nil {
			if err := events.conn.Write(ctx, websocket.MessageText, []byte("x")); err != nil {
				return
			}
		}
	}()
	empty := wire.AppendFrame(nil, wire.FrameStdin, wire.AppendOffset, nil)
	for range 10_000 {
		if err := flood.conn.Write(t.Context(), websocket.MessageBinary, empty); err != nil {
			t.Fatal(err)
		}
	}
	flood.stdin(wire.AppendOffset, "after the flood")
	flood.send(wire.ClientControl{Type: wire.ControlCloseStdin})
	if _, out := flood.until(wire.ControlExit); out != "after the flood" {
		t.Errorf("%q", out)
	}
	l.want(200, req{method: "GET", path: "/vms/" + vm})
}

// rawSocket is a WebSocket whose frames are written by hand.
func (l *lab) rawSocket(path string) net.Conn {
	l.t.Helper()
	resp, _, c := l.raw("GET " + wire.BasePath + path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + l.admin +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		l.t.Fatalf("%s: %s", path, resp.Status)
	}
	return c
}

// Frames that lie about their length, are not masked, or belong to no protocol
// end their connection, and take no memory before.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vm := l.vm().ID
	mask := "\x00\x00\x00\x00"
	for name, frame := range map[string]string{
		"a length of exabytes":      "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + mask + strings.Repeat("x", 4<<20),
		"more than a message holds": "\x82\xff\x00\x00\x00\x00\x10\x00\x00\x00" + mask + strings.Repeat("x", 4<<20),
		"a length below zero":       "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + mask,
		"not masked":                "\x82\x01x",
		"an opcode that is none":    "\x83\x80" + mask,
		"reserved bits":             "\xf2\x80" + mask,
		"a ping of 126 bytes":       "\x89\xfe\x00\x7e" + mask + strings.Repeat("x", 126),
		"a ping in pieces":          "\x09\x80" + mask,
		"a continuation of nothing": "\x80\x80" + mask,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := l.rawSocket("/vms/" + vm + "/stream")
			_, _ = c.Write([]byte(frame)) // the server may have closed before all was written
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil {
					if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
						t.Errorf("the connection stays: %v", err)
					}
					return
				}
			}
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
