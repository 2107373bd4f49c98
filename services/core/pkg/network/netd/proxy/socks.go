package proxy

import (
	"context"
	"net"
	"net/netip"

	"golang.org/x/net/proxy"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

// connect makes a connection to where it has been decided that one may go:
// directly, or through the machine's own proxy, which is told the address, not
// a name that it could find elsewhere. Without the proxy there is none.
func (f *flow) connect(ctx context.Context, rules *egress.Rules, to netip.AddrPort) (*net.TCPConn, error) {
	dialer := &net.Dialer{KeepAliveConfig: probed()}
	via := rules.Proxy()
	if via == nil {
		c, err := dialer.DialContext(ctx, "tcp4", to.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	hop := &hop{dialer: dialer, f: f, rules: rules}
	var auth *proxy.Auth
	if via.Username != "" {
		auth = &proxy.Auth{User: via.Username, Password: via.Password}
	}
	socks, err := proxy.SOCKS5("tcp", via.Address, auth, hop)
	if err != nil {
		return nil, err
	}
	if _, err := socks.(proxy.ContextDialer).DialContext(ctx, "tcp", to.String()); err != nil {
		if hop.conn != nil {
			_ = hop.conn.Close()
		}
		return nil, err
	}
	return hop.conn, nil
}

// hop connects to a proxy where the operator lets its machine connect.
type hop struct {
	dialer *net.Dialer
	f      *flow
	rules  *egress.Rules
	conn   *net.TCPConn
}

// Dial implements proxy.Dialer.
func (h *hop) Dial(network, address string) (net.Conn, error) {
	return h.DialContext(context.Background(), network, address)
}

// DialContext implements proxy.ContextDialer.
func (h *hop) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 1)
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = h.f.p.cfg.Resolve(ctx, h.rules, host); err != nil {
			return nil, err
		}
	}
	err = errors.Plain("the proxy has no address")
	for _, ip := range addrs {
		if h.f.p.cfg.Refused(ip) {
			err = &denial{reason: domain.EgressPrivate, addr: ip}
			continue
		}
		var c net.Conn
		if c, err = h.dialer.DialContext(ctx, "tcp4", net.JoinHostPort(ip.String(), port)); err == nil {
			h.conn = c.(*net.TCPConn)
			return c, nil
		}
	}
	return nil, err
}
