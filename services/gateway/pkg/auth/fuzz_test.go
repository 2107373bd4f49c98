package auth_test

import (
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
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

// Nothing that is shown is a token of ours or of a provider's but by their
// signatures, whatever it says of itself.
func FuzzAny(f *testing.F) {
	tokens, err := auth.NewTokens(auth.TokenConfig{Issuer: "us", Secrets: [][]byte{[]byte(strings.Repeat("s", 32))}})
	if err != nil {
		f.Fatal(err)
	}
	a := auth.NewAny(auth.NewKeys(&store{}, slog.New(slog.DiscardHandler), nil), map[string]auth.Authenticator{"us": tokens})
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	f.Add("aeth_" + strings.Repeat("0", 40))
	f.Add(part(`{"alg":"none","typ":"`+auth.TokenType+`"}`) + "." + part(`{"iss":"us"}`) + ".")
	f.Add(part(`{"alg":"HS256","kid":"x"}`) + "." + part(`{"iss":"us","iss":"them"}`) + "." + part("x"))
	f.Add("a.b.c.d")
	f.Fuzz(func(t *testing.T, token string) {
		by, err := a.Authenticate(t.Context(), token)
		if !errors.HasCode(err, errors.Unauthenticated) || by.ProjectID != "" {
			t.Errorf("%q: %+v, %v", token, by, err)
		}
		// What might be one of ours does not go on to a guest.
		if auth.LooksLikeKey(token) && !auth.HoldsOurs("Bearer "+token) {
			t.Errorf("%q goes on", token)
		}
	})
}
