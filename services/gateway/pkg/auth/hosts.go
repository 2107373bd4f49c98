package auth

import (
	"net"
	"net/netip"
	"strings"
)

// Hosts are the names under which the API answers. A page elsewhere can make
// its own name resolve to this server (DNS rebinding), and previews of VMs
// live on names of their own; neither may reach the API.
type Hosts struct{ names map[string]bool }

// NewHosts allows localhost, every literal address and the names given.
func NewHosts(names ...string) Hosts {
	h := Hosts{names: map[string]bool{"localhost": true}}
	for _, n := range names {
		if n = HostName(n); n != "" {
			h.names[n] = true
		}
	}
	return h
}

// Allowed reports whether a Host header names the API. An address can stand
// there only when somebody addressed this server by it.
func (h Hosts) Allowed(host string) bool {
	name := HostName(host)
	if h.names[name] {
		return true
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}

// HostName is a Host header's name alone: lower case, without port, brackets
// and a root dot.
func HostName(host string) string {
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	} else {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
