package netd

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// What leads to the host is out of reach, whatever the operator allows.
func TestNothingLeadsToTheHost(t *testing.T) {
	t.Parallel()
	f := newFloor(Config{
		Listen: netip.MustParseAddr("10.0.0.1"), Clients: netip.MustParsePrefix("10.0.0.0/24"), Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	}, slog.New(slog.DiscardHandler))
	f.list = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(203, 0, 113, 2), Mask: net.CIDRMask(24, 32)}}, nil
	}
	for ip, want := range map[string]bool{
		"0.0.0.0": true, "0.1.2.3": true, "127.0.0.1": true, "127.8.9.1": true, "224.0.0.1": true, "10.0.0.9": true, "10.0.0.1": true,
		"::ffff:127.0.0.1": true, "::1": true, "2001:db8::1": true, "203.0.113.2": true, "203.0.113.1": false,
	} {
		if got := f.refuses(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %t", ip, got)
		}
	}
}

func TestAHostThatDoesNotTellItsAddressesHasThemAll(t *testing.T) {
	t.Parallel()
	f := newFloor(Config{}, slog.New(slog.DiscardHandler))
	f.list = func() ([]net.Addr, error) { return nil, errors.Plain("no") }
	if !f.refuses(netip.MustParseAddr("203.0.113.1")) {
		t.Error("an address was let through")
	}
}

// An answer that names thousands of addresses does not have the kernel asked for each.
func TestLargeAnswersAreLookedAtOnce(t *testing.T) {
	t.Parallel()
	f := newFloor(Config{}, slog.New(slog.DiscardHandler))
	asked := 0
	f.list = func() ([]net.Addr, error) { asked++; return nil, nil }
	ip := netip.MustParseAddr("203.0.113.1")
	for range 10000 {
		f.refuses(ip)
	}
	if asked > 1000 {
		t.Errorf("asked %d times", asked)
	}
}
