package proxy

import (
	"net/http"
	"strings"
	"testing"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// A Host header names at most one port of one VM, by one name.
func FuzzHost(f *testing.F) {
	const d Domain = "aeth.localhost"
	for _, host := range []string{
		"8000-abcdefghijklmnopqrst.aeth.localhost", "8000-abcdefghijklmnopqrst.aeth.localhost:7300", "65536-a.aeth.localhost",
		"aeth.localhost", ".aeth.localhost", "x.y.aeth.localhost.", "[::1]:80", "0-0.aeth.localhost", "+1-abcdefghijklmnopqrst.AETH.localhost", "",
	} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		target, below, ok := d.Parse(host)
		if ok && (!below || target.Port == 0) {
			t.Fatalf("%q is %+v, below %t", host, target, below)
		}
		if !ok {
			return
		}
		again, _, ok := d.Parse(d.Host(target))
		if !ok || again != target {
			t.Fatalf("%q is %+v, whose name is %q, which is %+v", host, target, d.Host(target), again)
		}
		if !strings.HasPrefix(strings.ToLower(host), d.Host(target)) {
			t.Fatalf("%q and %q are one", host, d.Host(target))
		}
	})
}

// What a guest gets of its visitor's request has nothing in it that is ours,
// and has the rest as it was.
func FuzzRequest(f *testing.F) {
	f.Add("Bearer x", "a=b; "+cookieName+"=1.x; c=d", "a=1&"+wire.PreviewLinkParam+"=s&b=2", "chat, "+wire.BearerProtocolPrefix+"k")
	f.Add("Bearer "+access.KeyPrefix+"abc", cookieName+" =x;;"+cookieName, wire.PreviewLinkParam, wire.Subprotocol)
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, authorization, cookies, query, protocols string) {
		h := http.Header{"Authorization": {authorization}, "Cookie": {cookies}, "Sec-Websocket-Protocol": {protocols}}
		stripKeys(h)
		stripCookie(h)
		if strings.Contains(h.Get("Authorization"), access.KeyPrefix) {
			t.Errorf("a key is left in %q", h)
		}
		for _, p := range auth.Subprotocols(h) {
			if p == wire.Subprotocol || strings.HasPrefix(p, wire.BearerProtocolPrefix) {
				t.Errorf("a subprotocol of ours is left in %q", h)
			}
		}
		if left := (&http.Request{Header: h}).CookiesNamed(cookieName); len(left) > 0 {
			t.Errorf("our cookie is left: %q", h)
		}
		_, rest, has := takeParam(query)
		if !has && rest != query {
			t.Errorf("the query %q became %q", query, rest)
		}
		if _, _, again := takeParam(rest); again {
			t.Errorf("the link is left in %q", rest)
		}
	})
}

// A guest's answer sets no cookie of ours and none beyond its own origin.
func FuzzSetCookie(f *testing.F) {
	for _, line := range []string{"a=b", "a=b; Domain=aeth.localhost", "a=b;domain", cookieName + "=x", " " + cookieName + " = x; path=/", "; domain=x", cookieName + ";a=b", "a=b; DoMaIn = x ;secure"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		h := http.Header{"Set-Cookie": {line}}
		confineCookies(h)
		for _, c := range (&http.Response{Header: h}).Cookies() {
			if c.Name == cookieName || c.Domain != "" {
				t.Errorf("%q sets %+v", line, c)
			}
		}
	})
}
