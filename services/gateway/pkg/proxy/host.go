package proxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

// Target is a TCP port in a VM.
type Target struct {
	VM   domain.ID
	Port uint16
}

// Domain is the name below which previews live, such as aeth.localhost.
type Domain string

// Parse finds which port of which VM a Host header names. below reports
// whether the name lies under the preview domain at all: such a name is never
// the API's, whatever it says.
func (d Domain) Parse(host string) (t Target, below, ok bool) {
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	label, below := strings.CutSuffix(name, "."+string(d))
	if !below {
		return Target{}, false, false
	}
	t, ok = parseLabel(label)
	return t, true, ok
}

func parseLabel(label string) (Target, bool) {
	port, id, found := strings.Cut(label, "-")
	if !found || !domain.IsID(id) {
		return Target{}, false
	}
	p, ok := ParsePort(port)
	return Target{VM: domain.ID(id), Port: p}, ok
}

// ParsePort reads a port from 1 to 65535 in its one canonical form, so that no
// two names or paths mean the same port.
func ParsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, false
	}
	return uint16(n), true
}

// Host is the name of a target's preview.
func (d Domain) Host(t Target) string {
	return strconv.Itoa(int(t.Port)) + "-" + t.VM.String() + "." + string(d)
}

// URL is the address of a target's preview as the client of r would reach it:
// by the same scheme and port.
func (d Domain) URL(r *http.Request, t Target) string {
	host := d.Host(t)
	if _, port, err := net.SplitHostPort(r.Host); err == nil && port != "" {
		host = net.JoinHostPort(host, port)
	}
	return middleware.SchemeOf(r) + "://" + host + "/"
}
