package servercert

import "net"

// localhost is the name of loopback addresses (RFC 6761 §6.3).
const localhost = "localhost"

// dnsNames are what a certificate is for: the domain, what is one label below
// it, and this host by itself. A wildcard covers api.<domain> too; it is there
// by name for clients that don't take wildcards.
func dnsNames(domain string) []string {
	return []string{domain, "*." + domain, "api." + domain, localhost}
}

func addresses() []net.IP { return []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} }

// loopback is the networks that an authority may certify addresses of.
func loopback() []*net.IPNet {
	return []*net.IPNet{
		{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
		{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
	}
}
