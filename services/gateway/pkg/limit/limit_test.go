package limit_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"log/slog"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/limit"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

// clock stands still until it is moved.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// from asks a handler as a client at an address, which gives the status.
func from(t testing.TB, h http.Handler, addr string, by vmm.Caller, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.RemoteAddr = addr
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(auth.WithCaller(r.Context(), by)))
	return w
}

func observed(t testing.TB, h http.Handler, trusted ...netip.Prefix) http.Handler {
	t.Helper()
	m, err := middleware.NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	return middleware.Observe(middleware.Observer{Logger: slog.New(slog.DiscardHandler), Metrics: m, Trusted: trusted}, h)
}

var ok = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func TestCallers(t *testing.T) {
	t.Parallel()
	c := &clock{}
	l := limit.New(limit.Config{Key: limit.Rate{PerSecond: 2, Burst: 4}}, c.now)
	h := l.Callers(ok)
	alice := vmm.Caller{ProjectID: "p", KeyID: "k1", UserID: "u"}
	for i, want := range []struct {
		status           int
		remaining, reset string
	}{{204, "3", "1"}, {204, "2", "1"}, {204, "1", "2"}, {204, "0", "2"}, {429, "0", "2"}} {
		w := from(t, h, "192.0.2.1:1", alice)
		got := w.Header()
		if w.Code != want.status || got.Get("RateLimit-Limit") != "4" || got.Get("RateLimit-Remaining") != want.remaining || got.Get("RateLimit-Reset") != want.reset {
			t.Errorf("request %d: %d %v", i, w.Code, got)
		}
		if retry := got.Get("Retry-After"); (retry == "1") != (want.status == 429) {
			t.Errorf("request %d: Retry-After %q", i, retry)
		}
	}
	// Another key of the same user is the same bucket; another user has its own.
	if w := from(t, h, "192.0.2.1:1", vmm.Caller{ProjectID: "p", KeyID: "k2", UserID: "u"}); w.Code != 429 {
		t.Errorf("a second key: %d", w.Code)
	}
	for _, by := range []vmm.Caller{{ProjectID: "p", KeyID: "k1"}, {ProjectID: "p", KeyID: "u"}, {ProjectID: "p", UserID: "v"}} {
		if w := from(t, h, "192.0.2.1:1", by); w.Code != 204 {
			t.Errorf("%+v: %d", by, w.Code)
		}
	}
	if err := l.Take(alice); !errors.HasCode(err, errors.RateLimited) {
		t.Errorf("a message on a stream: %v", err)
	}
	c.advance(time.Second)
	for i, want := range []int{204, 204, 429} {
		if w := from(t, h, "192.0.2.1:1", alice); w.Code != want {
			t.Errorf("a second later, request %d: %d", i, w.Code)
		}
	}
}

// As many pass as there are tokens, however many ask at once.
func TestConcurrentCallers(t *testing.T) {
	t.Parallel()
	c := &clock{}
	h := limit.New(limit.Config{Key: limit.Rate{PerSecond: 1, Burst: 50}}, c.now).Callers(ok)
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 10 {
				if from(t, h, "192.0.2.1:1", vmm.Caller{KeyID: "k"}).Code == 204 {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 50 {
		t.Errorf("%d passed", passed.Load())
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	one := limit.Config{Address: limit.Rate{PerSecond: 1, Burst: 1}}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")}
	const xff = "X-Forwarded-For"
	for name, tc := range map[string]struct {
		first, second []string // peer, then headers
		same          bool
	}{
		"the same":                      {[]string{"192.0.2.1:1"}, []string{"192.0.2.1:2"}, true},
		"another":                       {[]string{"192.0.2.1:1"}, []string{"192.0.2.2:1"}, false},
		"a network of 64 bits":          {[]string{"[2001:db8::1]:1"}, []string{"[2001:db8::ffff:1]:1"}, true},
		"another network":               {[]string{"[2001:db8::1]:1"}, []string{"[2001:db8:0:1::1]:1"}, false},
		"IPv4 in IPv6":                  {[]string{"192.0.2.1:1"}, []string{"[::ffff:192.0.2.1]:1"}, true},
		"nobody's word is believed":     {[]string{"192.0.2.1:1", xff, "198.51.100.1"}, []string{"192.0.2.1:1", xff, "198.51.100.2"}, true},
		"a proxy's is":                  {[]string{"10.0.0.1:1", xff, "198.51.100.1"}, []string{"10.0.0.1:1", xff, "198.51.100.2"}, false},
		"through two of them":           {[]string{"10.0.0.1:1", xff, "198.51.100.1, 10.0.0.2"}, []string{"10.0.0.3:1", xff, "198.51.100.1"}, true},
		"not what stands before":        {[]string{"10.0.0.1:1", xff, "1.1.1.1, 198.51.100.1"}, []string{"10.0.0.1:1", xff, "2.2.2.2, 198.51.100.1"}, true},
		"not in an earlier line":        {[]string{"10.0.0.1:1", xff, "1.1.1.1", xff, "198.51.100.1"}, []string{"10.0.0.1:1", xff, "2.2.2.2", xff, "198.51.100.1"}, true},
		"nor as a proxy":                {[]string{"10.0.0.1:1", xff, "10.9.9.9, 198.51.100.1"}, []string{"10.0.0.1:1", xff, "198.51.100.1"}, true},
		"nonsense is the proxy itself":  {[]string{"10.0.0.1:1", xff, "unknown"}, []string{"10.0.0.1:1"}, true},
		"an address with a port":        {[]string{"10.0.0.1:1", xff, "198.51.100.1:4711"}, []string{"10.0.0.1:1", xff, "198.51.100.1"}, true},
		"an IPv6 proxy and an IPv6 one": {[]string{"[2001:db8:ffff::1]:1", xff, "2001:db8:1::1"}, []string{"[2001:db8:ffff::2]:1", xff, "2001:db8:1::2"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := observed(t, limit.New(one, new(clock).now).Addresses(ok), trusted...)
			if w := from(t, h, tc.first[0], vmm.Caller{}, tc.first[1:]...); w.Code != 204 {
				t.Fatalf("the first: %d", w.Code)
			}
			if w := from(t, h, tc.second[0], vmm.Caller{}, tc.second[1:]...); (w.Code == 429) != tc.same {
				t.Errorf("the second: %d", w.Code)
			}
		})
	}
	h := observed(t, limit.New(one, new(clock).now).Addresses(ok))
	for _, loopback := range []string{"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"} {
		for range 3 {
			if w := from(t, h, loopback, vmm.Caller{}); w.Code != 204 {
				t.Errorf("%s: %d", loopback, w.Code)
			}
		}
	}
}

// door knows one token.
type door struct{}

func (door) Authenticate(_ context.Context, token string) (vmm.Caller, error) {
	switch token {
	case "good":
		return vmm.Caller{KeyID: "k"}, nil
	case "broken":
		return vmm.Caller{}, errors.New(errors.Unavailable, "the store is away")
	}
	return vmm.Caller{}, errors.New(errors.Unauthenticated, "no")
}

// Bad credentials are limited by address; good ones of the same address pass
// all the time, also those never seen before.
func TestFailures(t *testing.T) {
	t.Parallel()
	c := &clock{}
	l := limit.New(limit.Config{Failures: limit.Rate{PerSecond: 1, Burst: 3}}, c.now)
	try := func(addr, token string) (code errors.Code) {
		h := observed(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := door{}.Authenticate(r.Context(), token)
			code = errors.CodeOf(l.Refused(r.Context(), vmm.Caller{}, err))
		}))
		from(t, h, addr, vmm.Caller{})
		return code
	}
	for range 100 {
		try("192.0.2.1:1", "broken") // which is nobody's fault
	}
	for i, want := range []errors.Code{errors.Unauthenticated, errors.Unauthenticated, errors.Unauthenticated, errors.RateLimited, errors.RateLimited} {
		if got := try("192.0.2.1:1", fmt.Sprint("guess", i)); got != want {
			t.Errorf("guess %d: %s", i, got)
		}
	}
	if got := try("192.0.2.1:1", "good"); got != "" {
		t.Errorf("the good key: %s", got)
	}
	if got := try("192.0.2.2:1", "guess"); got != errors.Unauthenticated {
		t.Errorf("another address: %s", got)
	}
	c.advance(time.Second)
	if got := try("192.0.2.1:1", "guess"); got != errors.Unauthenticated {
		t.Errorf("a second later: %s", got)
	}
}

func TestOpenStreams(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{Streams: 2}, nil)
	alice, bob := vmm.Caller{KeyID: "a"}, vmm.Caller{KeyID: "b"}
	first, err := l.OpenStream(alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.OpenStream(alice); err != nil {
		t.Fatal(err)
	}
	if _, err := l.OpenStream(alice); !errors.HasCode(err, errors.RateLimited) {
		t.Errorf("a third: %v", err)
	}
	if _, err := l.OpenStream(bob); err != nil {
		t.Errorf("another's: %v", err)
	}
	first()
	if _, err := l.OpenStream(alice); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
}

// Addresses that come by the million leave no more than a bounded number of
// buckets behind.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{Key: limit.Rate{PerSecond: 1, Burst: 1}}, new(clock).now)
	first := vmm.Caller{KeyID: "first"}
	if l.Take(first) != nil || l.Take(first) == nil {
		t.Fatal("the first has one token")
	}
	for i := range 1 << 16 {
		_ = l.Take(vmm.Caller{KeyID: domain.ID(fmt.Sprint(i))})
	}
	if err := l.Take(first); err != nil {
		t.Errorf("the oldest bucket is kept among 65536: %v", err)
	}
}

func TestZeroIsNoLimit(t *testing.T) {
	t.Parallel()
	l := limit.New(limit.Config{}, nil)
	h := observed(t, l.Addresses(l.Callers(ok)))
	for range 100 {
		if w := from(t, h, "192.0.2.1:1", vmm.Caller{}); w.Code != 204 || w.Header().Get("RateLimit-Limit") != "" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
	}
	for _, bad := range []limit.Config{{Key: limit.Rate{PerSecond: 1}}, {Address: limit.Rate{Burst: 1}}, {Failures: limit.Rate{PerSecond: -1, Burst: 1}}, {Streams: -1}} {
		if err := bad.Validate("limits"); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func BenchmarkCallers(b *testing.B) {
	h := limit.New(limit.Config{Key: limit.Rate{PerSecond: 1e6, Burst: 1e7}}, nil).Callers(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
	r = r.WithContext(auth.WithCaller(r.Context(), vmm.Caller{KeyID: "k"}))
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
