package webhook

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/publicip"
)

// Targets is where webhooks may lead: to public addresses by https, and to
// networks that the operator allows by http as well. Its zero value allows none
// of these.
type Targets struct{ allowed []netip.Prefix }

// NewTargets reads the networks, or addresses, that are allowed. Returns
// InvalidArgument.
func NewTargets(field string, texts []string) (Targets, error) {
	var t Targets
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); e == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() {
			return t, errors.New(errors.InvalidArgument, "%q is not an address or a network", text).WithField(field).WithHint("such as 10.0.0.7 or 10.0.0.0/24")
		}
		t.allowed = append(t.allowed, p.Masked())
	}
	return t, nil
}

func (t Targets) allows(ip netip.Addr) bool {
	return slices.ContainsFunc(t.allowed, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// may reports whether an address is connected to.
func (t Targets) may(ip netip.Addr, secure bool) bool {
	ip = ip.Unmap()
	return t.allows(ip) || secure && publicip.Is(ip)
}

// Check looks at a URL before anything is sent there. A name's addresses are
// looked at when they are connected to. Returns InvalidArgument.
func (t Targets) Check(field, text string) error {
	if err := domain.ValidateWebhookURL(field, text); err != nil {
		return err
	}
	u, err := url.Parse(text)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "it is not a URL").WithField(field)
	}
	const hint = "the operator allows networks by the setting webhooks.allow"
	ip, err := netip.ParseAddr(u.Hostname())
	switch secure := u.Scheme == "https"; {
	case err == nil && secure && !t.may(ip, secure):
		return errors.New(errors.InvalidArgument, "the URL's address is not a public one").WithField(field).WithHint(hint)
	case !secure && (err == nil && !t.may(ip, secure) || err != nil && len(t.allowed) == 0):
		return errors.New(errors.InvalidArgument, "the URL's scheme is not https").WithField(field).WithHint(hint)
	}
	return nil
}

// notAllowed is the error of connections to addresses that are refused.
var notAllowed = errors.New(errors.PermissionDenied, "the address is not allowed")

// Bounds on what receivers do.
const (
	connectTimeout = 10 * time.Second
	maxHeaderBytes = 64 << 10
	idleTimeout    = 30 * time.Second
)

// transport connects to addresses that may be, whatever name led there.
func (t Targets) transport(secure bool) *http.Transport {
	dialer := &net.Dialer{Timeout: connectTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !t.may(at.Addr(), secure) {
			return notAllowed
		}
		return nil
	}}
	return &http.Transport{
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: connectTimeout, MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConns: 64, MaxIdleConnsPerHost: 2, IdleConnTimeout: idleTimeout, DisableCompression: true,
	}
}
