package publicip_test

import (
	"net/netip"
	"testing"

	"github.com/aetherium/aetherium/services/core/internal/publicip"
)

func TestIs(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "192.0.0.192", "0.0.0.0", "0.1.2.3",
		"224.0.0.1", "255.255.255.255", "198.18.0.1", "203.0.113.7", "240.0.0.1", "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
		"fd00:ec2::254", "fc00::1", "fe80::1", "fe80::1%eth0", "ff02::1", "fec0::1", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:db8::1", "2001::1",
	} {
		if publicip.Is(netip.MustParseAddr(text)) {
			t.Errorf("%s counts as public", text)
		}
	}
	for _, text := range []string{"1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8"} {
		if !publicip.Is(netip.MustParseAddr(text)) {
			t.Errorf("%s does not count as public", text)
		}
	}
}
