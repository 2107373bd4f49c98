package proxy_test

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
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
	hash := sha256.Sum256([]byte("secret"))
	want := proxy.Target{VM: domain.NewID(), Port: 80}
	if err := m.Put(t.Context(), hash, want, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	// Of many, one gets it.
	var wg sync.WaitGroup
	won := make(chan proxy.Target, 50)
	for range cap(won) {
		wg.Go(func() {
			if got, err := m.Take(t.Context(), hash); err == nil {
				won <- got
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || <-won != want {
		t.Fatalf("%d got the link", len(won)+1)
	}
	_ = m.Put(t.Context(), hash, want, now.Add(time.Minute))
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	if _, err := m.Take(t.Context(), hash); !errors.HasCode(err, errors.NotFound) {
		t.Fatalf("an expired link: %v", err)
	}
	// Its room is bounded, and what has expired makes room.
	for i := 0; ; i++ {
		err := m.Put(t.Context(), sha256.Sum256([]byte{byte(i), byte(i >> 8), 1}), want, now.Add(time.Minute))
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
	if err := m.Put(t.Context(), hash, want, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
}
