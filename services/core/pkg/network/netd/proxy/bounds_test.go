package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// A secret's value is put in once: what stands in it is text, whatever it
// looks like. Values that name each other would double with each other.
func TestSecretsAreRevealedOnce(t *testing.T) {
	t.Parallel()
	r, trust := intercepted(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("Authorization")) })
	r.rules.Store(egress.New(only(host), []egress.Secret{
		{Placeholder: "place-1", Value: "<place-2 place-2>", Hosts: []string{host}},
		{Placeholder: "place-2", Value: "<place-1 place-1>", Hosts: []string{host}},
	}))
	req, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "place-1 place-2")
	resp, err := r.client(trust, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "<place-2 place-2> <place-1 place-1>" {
		t.Errorf("%q %v", text, err)
	}
}

// A header grows by what is put into it no further than it may be long: a
// machine that repeats a placeholder has no value multiplied.
func TestSecretsDoNotFillTheMemory(t *testing.T) {
	t.Parallel()
	value := strings.Repeat("v", domain.MaxSecretBytes)
	r, trust := intercepted(t, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, len(r.Header.Get("X-Secret"))) })
	r.rules.Store(egress.New(only(host), []egress.Secret{{Placeholder: "place", Value: value, Hosts: []string{host}}}))
	for n, want := range map[int]string{1: fmt.Sprint(len(value) + 1), 64: ""} {
		req, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Secret", strings.Repeat("place-", n))
		resp, err := r.client(trust, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if want != "" && string(text) != want {
			t.Errorf("%d: %d %q", n, resp.StatusCode, text)
		}
		if want == "" && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%d: %d", n, resp.StatusCode)
		}
		if strings.Contains(string(text), "vvvv") {
			t.Error("the value is told")
		}
	}
}

// One connection that names many hosts, one after the other, leaves few
// connections to them open behind it.
func TestManyHostsOnOneConnectionKeepFewOpen(t *testing.T) {
	t.Parallel()
	const hosts, kept = 40, 4
	closed := make(chan struct{}, hosts)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.Start()
	defer server.Close()
	r := newRig(t, server)
	r.may(t, only("*.a.test"))
	c := r.dial()
	br := bufio.NewReader(c)
	for i := range hosts {
		if status, text := r.request(c, br, fmt.Sprintf("n%d.a.test", i)); status != http.StatusOK {
			t.Fatalf("%d: %d %q", i, status, text)
		}
	}
	late := time.After(20 * time.Second)
	for i := range hosts - kept {
		select {
		case <-closed:
		case <-late:
			t.Fatalf("%d of %d connections are open still", hosts-i, hosts)
		}
	}
}
