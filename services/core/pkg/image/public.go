package image

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// publicOnly reaches registries for whom this host's own network is none of
// their business: whoever names an image, and the registry that answers, by
// redirects and token addresses, choose what this host connects to.
type publicOnly struct {
	direct, proxied http.RoundTripper
}

func newPublicOnly() *publicOnly {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: controlPublic}
	return &publicOnly{
		direct: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, MaxIdleConns: 16, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second,
		},
		proxied: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 16, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second,
		},
	}
}

// RoundTrip implements http.RoundTripper. Where the environment names a proxy
// it is the proxy that connects, and finds out what names mean.
func (p *publicOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && !public(ip) {
		return nil, notPublic()
	}
	if proxy, err := http.ProxyFromEnvironment(r); err == nil && proxy != nil {
		return p.proxied.RoundTrip(r)
	}
	return p.direct.RoundTrip(r)
}

// controlPublic looks at the address that is connected to, whatever name led there.
func controlPublic(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !public(at.Addr()) {
		return notPublic()
	}
	return nil
}

func notPublic() error {
	return errors.New(errors.PermissionDenied, "the registry is not at a public address").WithField("source.image").
		WithHint("an administrator may build from it, or open it to all by the setting images.registries")
}

// special are unicast addresses that are not the public internet's, beside
// those that netip knows: the IANA special-purpose registries (RFC 6890), and
// forms of IPv6 that carry an IPv4 address.
func special() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"),
		netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
		netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("fec0::/10"),
	}
}

func public(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && ip.Zone() == "" &&
		!slices.ContainsFunc(special(), func(p netip.Prefix) bool { return p.Contains(ip) })
}
