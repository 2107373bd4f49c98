package proxy

import (
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

// Headers of ours, which no guest ever sees.
var ourHeaders = []string{
	wire.HeaderPreviewToken, wire.HeaderE2BToken, wire.HeaderE2BSandbox, wire.HeaderE2BPort, wire.HeaderProject, "Proxy-Authorization", "Proxy-Connection",
}

// address addresses the outgoing request: the VM's ID stands as its host, for
// dial and for the pool of connections, which is thereby per VM and port.
func address(pr *httputil.ProxyRequest) destination {
	d, _ := pr.In.Context().Value(destinationKey{}).(destination)
	pr.Out.URL.Scheme = "http"
	if d.tls {
		pr.Out.URL.Scheme = "https"
	}
	pr.Out.URL.Host = d.VM.String() + ":" + strconv.Itoa(int(d.Port))
	return d
}

// rewritePreview makes the request that the guest gets from a visitor of its
// preview: the visitor's own, without anything of ours. ReverseProxy has taken
// hop-by-hop and Forwarded headers out before.
func rewritePreview(pr *httputil.ProxyRequest) {
	d := address(pr)
	h := pr.Out.Header
	for _, name := range ourHeaders {
		h.Del(name)
	}
	stripKeys(h)
	stripCookie(h)
	pr.Out.Host = pr.In.Host
	if d.host != "" {
		pr.Out.Host = strings.ReplaceAll(d.host, "${PORT}", strconv.Itoa(int(d.Port)))
	}
	setForwarded(pr)
}

// rewritePath makes the request that the guest gets from the path form. Its
// cookies and credentials belong to the API's origin: none passes.
func rewritePath(pr *httputil.ProxyRequest) {
	d := address(pr)
	h := pr.Out.Header
	for _, name := range ourHeaders {
		h.Del(name)
	}
	for _, name := range []string{"Authorization", wire.HeaderAPIKey, "Cookie", "Origin", "Referer"} {
		h.Del(name)
	}
	stripSubprotocols(h)
	pr.Out.Host = "localhost:" + strconv.Itoa(int(d.Port))
	setForwarded(pr)
	h.Set("X-Forwarded-Prefix", d.prefix)
}

// setForwarded tells the guest's application who asks, and how: its visitor, also
// behind a proxy that is trusted.
func setForwarded(pr *httputil.ProxyRequest) {
	pr.SetXForwarded()
	h := pr.Out.Header
	h.Set("X-Forwarded-Proto", middleware.SchemeOf(pr.In))
	peer := h.Get("X-Forwarded-For")
	if client := middleware.ClientOf(pr.In.Context()); client.IsValid() && client.String() != peer {
		h.Set("X-Forwarded-For", client.String()+", "+peer)
	}
}

// stripKeys removes API keys and access tokens that a client sent to a preview by mistake. Other
// credentials are between the visitor and the guest's own application.
func stripKeys(h http.Header) {
	for _, name := range []string{"Authorization", wire.HeaderAPIKey} {
		values := h.Values(name)
		kept := values[:0:0]
		for _, v := range values {
			if !auth.HoldsOurs(v) {
				kept = append(kept, v)
			}
		}
		if len(kept) == 0 {
			h.Del(name)
		} else {
			h[http.CanonicalHeaderKey(name)] = kept
		}
	}
	stripSubprotocols(h)
}

func stripSubprotocols(h http.Header) {
	offered := auth.Subprotocols(h)
	if len(offered) == 0 {
		return
	}
	var kept []string
	for _, p := range offered {
		if p != wire.Subprotocol && !strings.HasPrefix(p, wire.BearerProtocolPrefix) {
			kept = append(kept, p)
		}
	}
	if len(kept) == len(offered) {
		return
	}
	h.Del("Sec-Websocket-Protocol")
	if len(kept) > 0 {
		h.Set("Sec-Websocket-Protocol", strings.Join(kept, ", "))
	}
}

// stripCookie removes our cookie and leaves the guest's own as they are.
func stripCookie(h http.Header) {
	lines := h.Values("Cookie")
	var kept []string
	for _, line := range lines {
		for c := range strings.SplitSeq(line, ";") {
			c = strings.TrimSpace(c)
			name, _, _ := strings.Cut(c, "=")
			if c != "" && strings.TrimSpace(name) != cookieName {
				kept = append(kept, c)
			}
		}
	}
	h.Del("Cookie")
	if len(kept) > 0 {
		h.Set("Cookie", strings.Join(kept, "; "))
	}
}

// cleanPreview goes over the guest's answer on its preview origin. What would
// reach beyond that origin is taken out: cookies for the parent domain,
// clearing its cookies, and sending visitors to another server for it.
func cleanPreview(resp *http.Response) error {
	h := resp.Header
	confineCookies(h)
	h.Del("Clear-Site-Data")
	h.Del("Alt-Svc")
	// A preview may be served without TLS tomorrow: a guest does not decide
	// that for its visitors' browsers.
	h.Del("Strict-Transport-Security")
	dropOurResponseHeaders(h)
	return nil
}

// cleanPath goes over the guest's answer on the API's origin, where it must
// not be run, kept or believed.
func cleanPath(resp *http.Response) error {
	h := resp.Header
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			h.Del(name)
		}
	}
	for _, name := range []string{
		"Set-Cookie", "Clear-Site-Data", "Alt-Svc", "Strict-Transport-Security", "Service-Worker-Allowed",
		"Www-Authenticate", "Content-Security-Policy-Report-Only", "Report-To", "Reporting-Endpoints", "Nel", "Refresh", "Link",
	} {
		h.Del(name)
	}
	h.Set("Content-Security-Policy", "sandbox")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	dropOurResponseHeaders(h)
	return nil
}

// dropOurResponseHeaders keeps a guest from speaking in the gateway's name.
func dropOurResponseHeaders(h http.Header) {
	h.Del(wire.HeaderRequestID)
	h.Del(wire.HeaderPreviewToken)
}

// confineCookies binds the guest's cookies to its own origin and keeps it from
// setting ours.
func confineCookies(h http.Header) {
	lines := h.Values("Set-Cookie")
	if len(lines) == 0 {
		return
	}
	h.Del("Set-Cookie")
	for _, line := range lines {
		name, _, _ := strings.Cut(line, "=")
		first, _, _ := strings.Cut(name, ";")
		if strings.TrimSpace(first) == cookieName {
			continue
		}
		parts := strings.Split(line, ";")
		kept := parts[:1]
		for _, attr := range parts[1:] {
			key, _, _ := strings.Cut(attr, "=")
			if !strings.EqualFold(strings.TrimSpace(key), "domain") {
				kept = append(kept, attr)
			}
		}
		h.Add("Set-Cookie", strings.Join(kept, ";"))
	}
}
