package e2b

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/tests/internal/netns"
)

// outside is what sandboxes may reach: a network namespace of the test's own,
// beside this host and without a route to anywhere else, in which a server on
// each of two addresses tells which it is.
type outside struct {
	addresses []string
}

// newOutside makes it of a few addresses that are nobody's, until the test ends.
func newOutside(t *testing.T) outside {
	t.Helper()
	// Of the network for benchmarks (RFC 2544), as tests may run side by side.
	first := 8 * rand.IntN(1<<14)
	at := func(n int) string {
		return fmt.Sprintf("198.%d.%d.%d", 18+(first+n)>>16, (first+n)>>8&0xff, (first+n)&0xff)
	}
	o := outside{addresses: []string{at(2), at(3)}}
	holder := exec.Command("cat") //nolint:noctx // ends with the test
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := holder.StdinPipe()
	must(t, err)
	must(t, holder.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = holder.Wait() }) // the link ends with the namespace
	near, far := fmt.Sprintf("aeto%d", first), fmt.Sprintf("aeti%d", first)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far, PeerNamespace: netlink.NsPid(holder.Process.Pid)}))
	must(t, netns.LinkUp(near, at(1)+"/29"))
	must(t, netns.In(fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), func() error {
		if err := netns.LinkUp(far, at(2)+"/29", at(3)+"/29"); err != nil {
			return err
		}
		for _, address := range o.addresses {
			l, err := net.Listen("tcp4", address+":80") //nolint:noctx // at once
			if err != nil {
				return err
			}
			s := &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second,
				Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, "this is %s\n", address) })}
			go func() { _ = s.Serve(l) }()
			t.Cleanup(func() { _ = s.Close() })
		}
		return nil
	}))
	return o
}

// setting has a server let sandboxes reach it, where their own rules do.
func (o outside) setting() string {
	return "AETHERIUM_NETWORK_ALLOW=" + strings.Join(o.addresses, "/32,") + "/32"
}

// variable is where the scripts find it.
func (o outside) variable() string { return "TEST_OUTSIDE=" + strings.Join(o.addresses, ",") }
