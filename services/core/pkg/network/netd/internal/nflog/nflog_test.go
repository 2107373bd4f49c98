package nflog_test

import (
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/aetherium/aetherium/services/core/pkg/network/netd/internal/nflog"
)

func message(prefix string, packet []byte) []byte {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: 10, Data: append([]byte(prefix), 0)}, {Type: 9, Data: packet}})
	if err != nil {
		panic(err)
	}
	return append([]byte{2, 0, 0, 7}, attrs...)
}

// packet is IPv4 from 10.0.0.2 to 203.0.113.10 with a header of so many words.
func packet(words, protocol byte, ports ...byte) []byte {
	b := make([]byte, int(words)*4)
	b[0], b[9] = 4<<4|words, protocol
	copy(b[12:], []byte{10, 0, 0, 2, 203, 0, 113, 10})
	return append(b, ports...)
}

func TestParse(t *testing.T) {
	t.Parallel()
	from, to := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("203.0.113.10")
	for name, tc := range map[string]struct {
		message []byte
		want    nflog.Flow
	}{
		"tcp":          {message("allow", packet(5, 6, 0, 1, 1, 187)), nflog.Flow{Prefix: "allow", From: from, To: to, Protocol: 6, Port: 443}},
		"with options": {message("deny private", packet(15, 17, 0, 1, 0, 53)), nflog.Flow{Prefix: "deny private", From: from, To: to, Protocol: 17, Port: 53}},
		"icmp":         {message("allow", packet(5, 1, 8, 0, 0, 0)), nflog.Flow{Prefix: "allow", From: from, To: to, Protocol: 1}},
		"cut short":    {message("allow", packet(5, 6)), nflog.Flow{Prefix: "allow", From: from, To: to, Protocol: 6}},
	} {
		if got, ok := nflog.Parse(tc.message); !ok || got != tc.want {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
	fragment := packet(5, 6, 0, 1, 1, 187)
	fragment[7] = 1
	if got, ok := nflog.Parse(message("allow", fragment)); !ok || got.Port != 0 {
		t.Errorf("a later fragment has no ports: %+v", got)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "short": {2, 0}, "IPv6": message("allow", append([]byte{6 << 4}, make([]byte, 60)...)), "no header": message("allow", []byte{4<<4 | 5}),
		"a header shorter than one": message("allow", packet(5, 6)[:19]), "no packet": message("allow", nil),
	} {
		if got, ok := nflog.Parse(bad); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message("deny policy", packet(5, 6, 0, 1, 1, 187)))
	f.Add([]byte{2, 0, 0, 7, 255, 255, 9, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if flow, ok := nflog.Parse(b); ok && (!flow.From.Is4() || !flow.To.Is4()) {
			t.Errorf("%+v", flow)
		}
	})
}
