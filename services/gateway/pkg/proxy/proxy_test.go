package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/proxy"
)

func TestDomain(t *testing.T) {
	t.Parallel()
	d := proxy.Domain("aeth.localhost")
	id := domain.NewID()
	target := proxy.Target{VM: id, Port: 8080}
	if d.Host(target) != "8080-"+id.String()+".aeth.localhost" || len(strings.Split(d.Host(proxy.Target{VM: id, Port: 65535}), ".")[0]) > 63 {
		t.Fatal(d.Host(target))
	}
	for _, tc := range []struct {
		host      string
		below, ok bool
	}{
		{d.Host(target), true, true},
		{d.Host(target) + ":7300", true, true},
		{strings.ToUpper(d.Host(target)) + ".:7300", true, true},
		{"0-" + id.String() + ".aeth.localhost", true, false},
		{"65536-" + id.String() + ".aeth.localhost", true, false},
		{"08-" + id.String() + ".aeth.localhost", true, false},
		{"-1-" + id.String() + ".aeth.localhost", true, false},
		{"80-" + id.String()[1:] + ".aeth.localhost", true, false},
		{"80-" + id.String() + ".x.aeth.localhost", true, false},
		{"api.aeth.localhost", true, false},
		{"aeth.localhost", false, false},
		{"xaeth.localhost", false, false},
		{d.Host(target) + ".evil.example", false, false},
		{"", false, false},
	} {
		got, below, ok := d.Parse(tc.host)
		if below != tc.below || ok != tc.ok || ok && got != target {
			t.Errorf("%q: %+v %t %t", tc.host, got, below, ok)
		}
	}
	for host, want := range map[string]string{
		"127.0.0.1:7300": "http://" + d.Host(target) + ":7300/",
		"localhost":      "http://" + d.Host(target) + "/",
		"[::1]:80":       "http://" + d.Host(target) + ":80/",
	} {
		r := httptest.NewRequest(http.MethodGet, "http://x/", nil)
		r.Host = host
		if got := d.URL(r, target); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestMemoryLinks(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var mu sync.Mutex
	m := proxy.NewMemoryLinks(func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	want := proxy.Target{VM: domain.NewID(), Port: 80}
	link := func() (string, error) { return m.New(t.Context(), want, "token", now.Add(time.Minute)) }
	secret, err := link()
	if err != nil {
		t.Fatal(err)
	}
	// Of many, one gets it.
	var wg sync.WaitGroup
	var won atomic.Int32
	for range 50 {
		wg.Go(func() {
			if m.Take(t.Context(), want, "token", secret) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d got the link", won.Load())
	}
	secret, _ = link()
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	if err := m.Take(t.Context(), want, "token", secret); !errors.HasCode(err, errors.NotFound) {
		t.Fatalf("an expired link: %v", err)
	}
	// Its room is bounded, and what has expired makes room.
	for i := 0; ; i++ {
		_, err := link()
		if errors.HasCode(err, errors.RateLimited) {
			break
		}
		if err != nil || i > 100_000 {
			t.Fatal(i, err)
		}
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	if _, err := link(); err != nil {
		t.Fatal(err)
	}
}

// used notes uses in memory.
type used struct {
	mu  sync.Mutex
	all map[string]time.Time
}

func (u *used) Once(_ context.Context, vm domain.ID, name string, until time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	name = vm.String() + name
	if _, is := u.all[name]; is {
		return errors.New(errors.AlreadyExists, "used")
	}
	u.all[name] = until
	return nil
}

// A link that is signed is good for its VM, port, token and time, once, wherever it
// was made, and nothing about it can be changed.
func TestSignedLinks(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := func() time.Time { return now }
	uses := &used{all: map[string]time.Time{}}
	makes, opens := proxy.NewSignedLinks(uses, clock), proxy.NewSignedLinks(uses, clock)
	to := proxy.Target{VM: domain.NewID(), Port: 80}
	link := func() string {
		t.Helper()
		secret, err := makes.New(t.Context(), to, "token", now.Add(time.Minute))
		if err != nil || url.QueryEscape(secret) != secret {
			t.Fatal(secret, err)
		}
		return secret
	}
	refused := func(what string, t_ proxy.Target, token, secret string) {
		t.Helper()
		if err := opens.Take(t.Context(), t_, token, secret); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	secret := link()
	refused("another VM's", proxy.Target{VM: domain.NewID(), Port: 80}, "token", secret)
	refused("another port's", proxy.Target{VM: to.VM, Port: 81}, "token", secret)
	refused("after the token has changed", to, "other", secret)
	refused("nothing", to, "token", "")
	refused("much", to, "token", strings.Repeat(secret, 100))
	for i := range secret {
		c := byte('A')
		if secret[i] == c {
			c = 'B'
		}
		refused(fmt.Sprint("changed at ", i), to, "token", secret[:i]+string(c)+secret[i+1:])
	}
	if len(uses.all) > 0 {
		t.Errorf("%d were noted as used", len(uses.all))
	}
	if err := opens.Take(t.Context(), to, "token", secret); err != nil {
		t.Error(err)
	}
	refused("used", to, "token", secret)
	for _, until := range uses.all {
		if until.Sub(now).Abs() > time.Minute {
			t.Errorf("kept until %s", until)
		}
	}
	secret = link()
	now = now.Add(time.Minute)
	refused("expired", to, "token", secret)
	if len(uses.all) != 1 {
		t.Errorf("%d were noted as used", len(uses.all))
	}
}
