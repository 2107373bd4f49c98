package image

import (
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/publicip"
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
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && !publicip.Is(ip) {
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
	if err != nil || !publicip.Is(at.Addr()) {
		return notPublic()
	}
	return nil
}

func notPublic() error {
	return errors.New(errors.PermissionDenied, "the registry is not at a public address").WithField("source.image").
		WithHint("an administrator may build from it, or open it to all by the setting images.registries")
}
