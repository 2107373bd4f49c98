package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// headed is an intercepted rig whose rule sets two headers of the host's requests.
func headed(t *testing.T) (*rig, func(http2 bool, change func(*http.Request)) (*http.Response, string)) {
	t.Helper()
	r, trust := intercepted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%q %q %q %s", r.Header["Authorization"], r.Header["X-Tenant"], r.Header["X-Own"], body)
	})
	r.rules.Store(egress.New(only(host), nil, rule(host, "Bearer the-value")))
	return r, func(http2 bool, change func(*http.Request)) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, "https://"+host+"/", strings.NewReader("a body"))
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		resp, err := r.client(trust, http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}
}

func rule(host, authorization string) domain.HeaderRule {
	return domain.HeaderRule{Host: host, Headers: map[string]string{"Authorization": authorization, "X-Tenant": "t"}}
}

const withRule = `["Bearer the-value"] ["t"] `

// Headers take the place of those that the machine sends, however it sends them.
func TestHeadersAreSet(t *testing.T) {
	t.Parallel()
	_, ask := headed(t)
	for _, http2 := range []bool{true, false} {
		for what, change := range map[string]func(*http.Request){
			"none of its own": func(*http.Request) {},
			"its own":         func(r *http.Request) { r.Header["Authorization"] = []string{"one", "two"} },
			"in other cases":  func(r *http.Request) { r.Header["aUTHORIZATION"] = []string{"other"} },
			"taken away": func(r *http.Request) {
				if !http2 {
					r.Header.Set("Connection", "Authorization, X-Tenant")
				}
			},
		} {
			resp, text := ask(http2, change)
			if resp.StatusCode != http.StatusOK || text != withRule+"[] a body" || (resp.ProtoMajor == 2) != http2 {
				t.Errorf("%s, %s: %d %q", resp.Proto, what, resp.StatusCode, text)
			}
		}
	}
}

// What the rule is not for gets nothing by it: another host on the same
// connection, a request smuggled behind another, a host that the policy denies,
// headers beyond all bounds.
func TestHeadersAreForTheirHostAlone(t *testing.T) {
	t.Parallel()
	r, ask := headed(t)
	for _, http2 := range []bool{true, false} {
		for what, tc := range map[string]struct {
			change func(*http.Request)
			status int
		}{
			"another host": {func(r *http.Request) { r.Host = "other.test" }, http.StatusMisdirectedRequest},
			"no host":      {func(r *http.Request) { r.Host = "203.0.113.7" }, http.StatusMisdirectedRequest},
			"TRACE":        {func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodTrace, nil, 0 }, http.StatusMethodNotAllowed},
			"too large":    {func(r *http.Request) { r.Header.Set("X-Own", strings.Repeat("x", 200<<10)) }, http.StatusRequestHeaderFieldsTooLarge},
		} {
			if http2 && what == "too large" {
				continue // refused by the client already, by what the settings say
			}
			if resp, text := ask(http2, tc.change); resp.StatusCode != tc.status || strings.Contains(text, "the-value") {
				t.Errorf("%s, %s: %d %q", resp.Proto, what, resp.StatusCode, text)
			}
		}
	}
	// A body is a body, whatever it looks like: two lengths are refused.
	for _, head := range []string{
		"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "Transfer-Encoding: chunked, identity\r\n\r\n", "Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n\r\n",
	} {
		c := r.tls(t)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+host+"\r\n"+head+"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || strings.Contains(string(text), "the-value") {
			t.Errorf("%q: %d %q", head, resp.StatusCode, text)
		}
	}
	// A rule allows nothing.
	r.rules.Store(egress.New(only("other.test"), nil, rule(host, "Bearer the-value")))
	if _, err := r.handshake(t, r.dial()); err == nil {
		t.Error("a denied host is connected to for its rule")
	}
}

// The longest domain counts, and it alone; the exact name before all.
func TestHeadersOfTheNarrowestRule(t *testing.T) {
	t.Parallel()
	rules := egress.New(domain.EgressPolicy{}, nil, rule("*.b.test", "wide"), rule("*.a.b.test", "narrow"), domain.HeaderRule{Host: "x.a.b.test", Headers: map[string]string{"X-Exact": "exact"}})
	for name, want := range map[string]string{
		"b.test": "", "c.test": "", "xb.test": "", "y.b.test": "wide", "a.b.test": "wide", "y.a.b.test": "narrow", "z.y.a.b.test": "narrow", "x.a.b.test": "",
	} {
		if got := rules.Headers(name)["Authorization"]; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if h := rules.Headers("x.a.b.test"); len(h) != 1 || h["X-Exact"] != "exact" || !rules.Proxied() || !rules.Intercepts("x.a.b.test") || rules.Intercepts("b.test") {
		t.Errorf("%v", h)
	}
}
