package domain

import (
	"net"
	"net/netip"
	"strconv"
)

// EgressProxy is a SOCKS5 proxy (RFC 1928) that a VM's TCP connections go
// through once its policy has let them.
type EgressProxy struct {
	Address  string `json:"address"`            // host:port, the host a domain or an IPv4 address
	Username string `json:"username,omitempty"` // RFC 1929; empty: the proxy wants no credentials
	Password string `json:"password,omitempty"` // in a VM's spec always empty: it is stored apart, encrypted
}

// maxProxyCredential bounds user name and password, in bytes (RFC 1929 §2).
const maxProxyCredential = 255

// Normal gives the proxy in its one form. Returns InvalidArgument, without the password.
func (p EgressProxy) Normal(field string) (EgressProxy, error) {
	host, text, err := net.SplitHostPort(p.Address)
	port, perr := strconv.ParseUint(text, 10, 16)
	ip, iperr := netip.ParseAddr(host)
	name, named := normalDomain(host)
	if err != nil || perr != nil || port == 0 || (iperr != nil || !ip.Is4()) && (!named || name[0] == '*') {
		return p, invalid(field+".address", "%q is not a proxy's address", clip(p.Address, 64)).WithHint("such as proxy.example.com:1080 or 203.0.113.7:1080")
	}
	if iperr == nil {
		name = ip.String()
	}
	p.Address = net.JoinHostPort(name, strconv.FormatUint(port, 10))
	switch {
	case len(p.Username) > maxProxyCredential:
		return p, invalid(field+".username", "it has more than %d bytes", maxProxyCredential)
	case len(p.Password) > maxProxyCredential:
		return p, invalid(field+".password", "it has more than %d bytes", maxProxyCredential)
	case p.Username == "" && p.Password != "":
		return p, invalid(field+".password", "it needs a user name")
	}
	return p, nil
}
