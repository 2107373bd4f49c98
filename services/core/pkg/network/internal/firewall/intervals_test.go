package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestIntervals(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                             "",
		"10.0.0.0/8":                   "10.0.0.0-11.0.0.0",
		"10.0.0.0/8 10.1.0.0/16":       "10.0.0.0-11.0.0.0",
		"10.1.0.0/16 10.0.0.0/16":      "10.0.0.0-10.2.0.0", // neighbours are one
		"240.0.0.0/4 224.0.0.0/4":      "224.0.0.0-",        // no end after the last address
		"0.0.0.0/0 1.2.3.4/32":         "0.0.0.0-",
		"0.0.0.0/8 255.255.255.255/32": "0.0.0.0-1.0.0.0 255.255.255.255-",
		"1.2.3.4/32 1.2.3.6/32":        "1.2.3.4-1.2.3.5 1.2.3.6-1.2.3.7",
		"192.168.1.77/16":              "192.168.0.0-192.169.0.0", // host bits do not count
	} {
		var of []netip.Prefix
		for _, p := range strings.Fields(in) {
			of = append(of, netip.MustParsePrefix(p))
		}
		var got strings.Builder
		for _, e := range intervals(of) {
			ip, _ := netip.AddrFromSlice(e.Key)
			if e.IntervalEnd {
				fmt.Fprint(&got, ip)
				continue
			}
			if got.Len() > 0 {
				got.WriteByte(' ')
			}
			fmt.Fprintf(&got, "%s-", ip)
		}
		if got.String() != want {
			t.Errorf("%q: %q, want %q", in, got.String(), want)
		}
	}
}
