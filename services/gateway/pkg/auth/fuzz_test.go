package auth_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// Only the API's own names and literal addresses are the API's.
func FuzzHosts(f *testing.F) {
	hosts := auth.NewHosts("api.example")
	for _, h := range []string{"localhost:7300", "api.example.", "API.EXAMPLE:1", "[::1]:80", "[::1", "127.0.0.1", "localhost.evil", "evil:localhost", "::ffff:127.0.0.1", "fe80::1%eth0", ""} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !hosts.Allowed(host) {
			return
		}
		name := auth.HostName(host)
		if _, err := netip.ParseAddr(name); err != nil && name != "localhost" && name != "api.example" {
			t.Errorf("%q is allowed as %q", host, name)
		}
	})
}

// Whatever the headers say, there is one credential or none.
func FuzzToken(f *testing.F) {
	f.Add("Bearer a", "", "")
	f.Add("bearer  a ", "a", "bearer.a")
	f.Add("Basic a", "b", "x, bearer.b,")
	f.Fuzz(func(t *testing.T, authorization, key, protocols string) {
		r := &http.Request{Header: http.Header{
			"Authorization": {authorization}, "X-Api-Key": {key}, "Sec-Websocket-Protocol": {protocols}, "Upgrade": {"websocket"},
		}}
		token, err := auth.Token(r)
		if (token == "") == (err == nil) {
			t.Fatalf("%q, %v", token, err)
		}
		if err == nil && !strings.Contains(authorization+"\n"+key+"\n"+protocols, token) {
			t.Errorf("%q was never sent", token)
		}
	})
}
