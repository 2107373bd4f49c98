package middleware

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
)

// maxHops bounds the proxies that a request is believed to have passed.
const maxHops = 16

// ClientOf gives the address that a request came from; not valid outside of
// [Observe].
func ClientOf(ctx context.Context) netip.Addr {
	if rec := RecordOf(ctx); rec != nil {
		return rec.Client
	}
	return netip.Addr{}
}

// SchemeOf gives the scheme by which a request's client asked: https over TLS, also
// where a trusted proxy in front ended that, and says so.
func SchemeOf(r *http.Request) string {
	if rec := RecordOf(r.Context()); r.TLS != nil || rec != nil && rec.secure {
		return "https"
	}
	return "http"
}

// forwardedSecure reports whether a peer that is trusted says that its own was asked
// over TLS. Of several words the first is about the client.
func forwardedSecure(r *http.Request, trusted []netip.Prefix) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !contains(trusted, peer.Addr().Unmap()) {
		return false
	}
	proto, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	return strings.EqualFold(strings.TrimSpace(proto), "https")
}

// clientAddress is the peer's address, or, where the peer is a trusted proxy,
// the nearest address before it in X-Forwarded-For that is none. What stands
// in front of that anybody may have written.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap()
	lines := r.Header["X-Forwarded-For"]
	for hops := 0; len(lines) > 0 && hops < maxHops && contains(trusted, at); {
		line := lines[len(lines)-1]
		lines = lines[:len(lines)-1]
		for rest := line; rest != "" && hops < maxHops && contains(trusted, at); hops++ {
			var last string
			if i := strings.LastIndexByte(rest, ','); i >= 0 {
				rest, last = rest[:i], rest[i+1:]
			} else {
				rest, last = "", rest
			}
			next, ok := parseHop(last)
			if !ok {
				return at // as far as it can be told
			}
			at = next
		}
	}
	return at
}

// parseHop reads an address, with a port where a proxy adds one.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

func contains(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
