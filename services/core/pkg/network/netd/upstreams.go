package netd

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// hostFiles is where a host's resolvers are written. The second is who
// systemd-resolved really asks: its stub at 127.0.0.53 would also tell
// machines the names that the host itself has and hears of on its links.
func hostFiles() []string {
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// upstreams knows whom to ask.
type upstreams struct {
	fixed []netip.AddrPort
	not   netip.Prefix // never asked: netd itself
	files []string

	mu    sync.Mutex
	read  []time.Time // when each file had changed last
	found []netip.AddrPort
}

func newUpstreams(fixed []netip.AddrPort, not netip.Prefix, files []string) *upstreams {
	return &upstreams{fixed: fixed, not: not, files: files}
}

// now gives the resolvers, at most three. The files are read again when they have changed.
func (u *upstreams) now() []netip.AddrPort {
	if len(u.fixed) > 0 {
		return u.fixed[:min(len(u.fixed), maxResolvers)]
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	changed := make([]time.Time, len(u.files))
	same := len(u.read) == len(u.files)
	for i, f := range u.files {
		if st, err := os.Stat(f); err == nil {
			changed[i] = st.ModTime()
		}
		same = same && changed[i].Equal(u.read[i])
	}
	if !same {
		u.read, u.found = changed, u.look()
	}
	return u.found
}

func (u *upstreams) look() []netip.AddrPort {
	for _, f := range u.files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		var found []netip.AddrPort
		for _, ip := range Nameservers(raw) {
			if !u.not.Contains(ip) && len(found) < maxResolvers {
				found = append(found, netip.AddrPortFrom(ip, 53))
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// Nameservers reads the resolvers in a resolv.conf(5), without the stubs of
// systemd-resolved (127.0.0.53 and .54).
func Nameservers(conf []byte) []netip.Addr {
	var out []netip.Addr
	for sc := bufio.NewScanner(bytes.NewReader(conf)); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		ip, err := netip.ParseAddr(fields[1])
		if err != nil || ip.String() == "127.0.0.53" || ip.String() == "127.0.0.54" {
			continue
		}
		out = append(out, ip)
	}
	return out
}

// HostResolvers gives whom netd would ask on this host.
func HostResolvers() []netip.AddrPort {
	return newUpstreams(nil, netip.Prefix{}, hostFiles()).now()
}
