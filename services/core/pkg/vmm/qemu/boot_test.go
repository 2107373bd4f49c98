package qemu_test

import (
	"strings"
	"testing"
)

// A guest boots from its disks, is heard, sees them in order, and stands still
// when it is told to.
func TestBoot(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.boot(g)
	want := "root root ro=1 <nil>\ndisk disk ro=0 <nil>\nmount:/extra extra ro=1 <nil>\n"
	if got := l.ask(g, "GET", "/drives"); got != want {
		t.Errorf("the guest sees %q, not %q", got, want)
	}
	if mtu := l.ask(g, "GET", "/file?path=/sys/class/net/eth0/mtu"); strings.TrimSpace(mtu) != "1420" {
		t.Errorf("mtu %q", mtu)
	}
	if mac := l.ask(g, "GET", "/file?path=/sys/class/net/eth0/address"); strings.TrimSpace(mac) != g.Link.MAC.String() {
		t.Errorf("address %q", mac)
	}
}
