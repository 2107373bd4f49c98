package network_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// raw connects inside a machine and hands the connection over.
func (w *web) raw(a network.Attachment, to netip.AddrPort, talk func(c net.Conn) error) error {
	var err error
	w.in(a.NetNS, func(int) error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", to.String(), 10*time.Second); err != nil {
			return nil
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		err = talk(c)
		return nil
	})
	return err
}

// log waits until a machine's log has an entry that is wanted.
func (w *web) log(m *network.Manager, machine, what string, wanted func(domain.EgressEntry) bool) domain.EgressEntry {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	var all []domain.EgressEntry
	for after := int64(0); time.Now().Before(deadline); {
		entries, err := m.EgressLog(context.Background(), machine, after, 1000, time.Until(deadline))
		w.must(err)
		for _, e := range entries {
			after = e.Seq
			all = append(all, e)
			if wanted(e) {
				return e
			}
		}
	}
	w.t.Errorf("%s: the log has no such entry: %+v", what, all)
	return domain.EgressEntry{}
}

// A connection that is kept open, or a request hidden in another, is no way to
// a host that is refused.
func TestRequestsOnOneConnectionAreDecidedOneByOne(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", onlyAllowed)
	a := acquire(t, m, "a", domain.NetworkNAT)
	at := netip.AddrPortFrom(publicIP, 80)
	const good = "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
	const last = "GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n"
	// answers gives the statuses of what comes back.
	answers := func(text string) (out []int) {
		err := w.raw(a, at, func(c net.Conn) error {
			if _, err := io.WriteString(c, text); err != nil {
				return err
			}
			r := bufio.NewReader(c)
			for {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					return err
				}
				out = append(out, resp.StatusCode)
				_, _ = io.Copy(io.Discard, resp.Body)
			}
		})
		if err == nil {
			t.Error("no end")
		}
		return out
	}
	for name, tc := range map[string]struct {
		text string
		want string
	}{
		"two that are allowed":        {good + last, "[200 200]"},
		"then another host":           {good + "GET / HTTP/1.1\r\nHost: refused.test\r\n\r\n", "[200 403]"},
		"absolute form":               {"GET http://refused.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "[403]"},
		"two hosts":                   {"GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: refused.test\r\n\r\n", "[400]"},
		"no host":                     {"GET / HTTP/1.1\r\n\r\n", "[400]"},
		"both lengths":                {"POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: refused.test\r\n\r\n", "[200 403]"},
		"a length that hides another": {"POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET / HTTP/1.1\r\nHost: refused.test\r\n\r\n", "[400]"},
		"tunnel":                      {"CONNECT refused.test:443 HTTP/1.1\r\nHost: refused.test:443\r\n\r\n", "[405]"},
		"space before the colon":      {"GET / HTTP/1.1\r\nHost: allowed.test\r\nHost : refused.test\r\n\r\n", "[400]"},
	} {
		got := fmt.Sprint(answers(tc.text))
		if name == "both lengths" && got == "[400]" {
			continue // as good
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 {
		t.Error("nothing arrived at all")
	}
}

// clientHello captures what crypto/tls would send, to be changed.
func clientHello(t *testing.T, cfg *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	go func() { _ = tls.Client(theirs, cfg).Handshake(); _ = theirs.Close() }()
	buf := make([]byte, 16<<10)
	n, err := ours.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestHiddenNamesAreRefused(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", onlyAllowed)
	a := acquire(t, m, "a", domain.NetworkNAT)
	at := netip.AddrPortFrom(publicIP, 443)
	// A plain hello for the allowed name goes through; one with the extension
	// encrypted_client_hello, real or decoy, does not.
	hello := clientHello(t, &tls.Config{ServerName: "allowed.test"})
	send := func(record []byte) error {
		return w.raw(a, at, func(c net.Conn) error {
			if _, err := c.Write(record); err != nil {
				return err
			}
			_, err := c.Read(make([]byte, 1))
			return err
		})
	}
	if err := send(hello); err != nil {
		t.Fatalf("a plain hello: %v", err)
	}
	if err := send(withExtension(hello, 0xfe0d, make([]byte, 64))); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("an encrypted hello: %v", err)
	}
	if e := w.log(m, "a", "ech", func(e domain.EgressEntry) bool { return e.Reason == domain.EgressECH }); e.Name != "allowed.test" {
		t.Errorf("%+v", e)
	}
	// Where no name decides, nothing is hidden: a browser's decoy is let through.
	setEgress(t, m, "b", domain.EgressPolicy{}, bound(secretValue))
	a = acquire(t, m, "b", domain.NetworkNAT)
	if err := send(withExtension(hello, 0xfe0d, make([]byte, 64))); err != nil {
		t.Errorf("an encrypted hello of a machine without names in its policy: %v", err)
	}
	a = acquire(t, m, "a", domain.NetworkNAT)
	// QUIC would hide the name as well.
	var err error
	w.in(a.NetNS, func(int) error {
		var c net.Conn
		if c, err = net.Dial("udp4", netip.AddrPortFrom(publicIP, 443).String()); err != nil {
			return nil
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err = c.Write([]byte("x")); err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return nil
	})
	refused(t, "QUIC", err)
}

// withExtension adds an extension to a ClientHello in one record (RFC 8446 §4.1.2).
func withExtension(record []byte, kind uint16, body []byte) []byte {
	const header = 5 + 4 // record, handshake
	b := append([]byte(nil), record...)
	at := header + 2 + 32
	at += 1 + int(b[at])                   // session ID
	at += 2 + int(b[at])<<8 + int(b[at+1]) // cipher suites
	at += 1 + int(b[at])                   // compression
	add := append([]byte{byte(kind >> 8), byte(kind), byte(len(body) >> 8), byte(len(body))}, body...)
	b = append(b, add...)
	grow := func(at, size int) {
		n := len(add)
		for i := size - 1; i >= 0; i-- {
			n += int(b[at+i])
			b[at+i] = byte(n)
			n >>= 8
		}
	}
	grow(at, 2)
	grow(6, 3)
	grow(3, 2)
	return b
}

// The proxy and its DNS serve those who are led there, and nobody else.
func TestNetdsPortsAreNoWayAround(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", onlyAllowed)
	a, b := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT)
	for _, port := range []uint16{9040, 9053} {
		_, err := w.dialFrom(b.NetNS, netip.AddrPortFrom(b.Gateway, port).String())
		refused(t, fmt.Sprintf("port %d for a machine that is not led there", port), err)
	}
	// One that is led there gets nowhere by speaking to the proxy itself.
	err := w.raw(a, netip.AddrPortFrom(a.Gateway, 9040), func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	})
	if err == nil {
		t.Error("the proxy answered who spoke to it directly")
	}
	// Whatever resolver is asked, netd answers.
	for _, server := range []netip.Addr{resolverIP, publicIP, metadataIP} {
		for _, transport := range []string{"udp", "tcp"} {
			answer, err := w.ask(a.NetNS, server, transport, "refused.test.", dns.TypeA)
			if err != nil || answer.Rcode != dns.RcodeRefused {
				t.Errorf("%s by %s: %v %v", server, transport, answer, err)
			}
		}
	}
}

func TestNothingLeavesInQuestionsForRefusedNames(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	setEgress(t, m, "a", onlyAllowed)
	a := acquire(t, m, "a", domain.NetworkNAT)
	for _, kind := range []uint16{dns.TypeTXT, dns.TypeA, dns.TypeNULL, dns.TypeMX, dns.TypeCNAME, dns.TypePTR, dns.TypeHTTPS} {
		answer, err := w.ask(a.NetNS, a.DNS[0], "udp", "c2VjcmV0.tunnel.test.", kind)
		if err != nil || answer.Rcode != dns.RcodeRefused {
			t.Errorf("%s: %v %v", dns.TypeToString[kind], answer, err)
		}
	}
	for _, kind := range []uint16{dns.TypeNULL, dns.TypeANY, dns.TypeAXFR} {
		if answer, err := w.ask(a.NetNS, a.DNS[0], "udp", "allowed.test.", kind); err != nil || answer.Rcode != dns.RcodeRefused {
			t.Errorf("%s of an allowed name: %v %v", dns.TypeToString[kind], answer, err)
		}
	}
	for _, kind := range []uint16{dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB} {
		if answer, err := w.ask(a.NetNS, a.DNS[0], "udp", "allowed.test.", kind); err != nil || answer.Rcode != dns.RcodeSuccess || len(answer.Answer) != 0 {
			t.Errorf("%s of an allowed name: %v %v", dns.TypeToString[kind], answer, err)
		}
	}
	w.lab.mu.Lock()
	for _, q := range w.asked {
		if !strings.HasPrefix(q, "allowed.test.") {
			t.Error("got out:", q)
		}
	}
	w.lab.mu.Unlock()
	if e := w.log(m, "a", "tunnel", func(e domain.EgressEntry) bool { return e.Name == "c2vjcmv0.tunnel.test" }); e.Verdict != domain.EgressDeny || e.Via != "dns" || e.Reason != domain.EgressPolicyDenied {
		t.Errorf("%+v", e)
	}
}

// netd is held to what machines are: it reaches no more for being on the host.
func TestTheKernelHoldsNetd(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	cfg := w.named(t)
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNAT)
	raw, err := os.ReadFile(cfg.RuntimeDir + "/netd.lock")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil || st.Uid == 0 {
		t.Fatalf("netd runs as %d, %v", st.Uid, err)
	}
	// As netd's user, from the host: by a thread that is that user and ends.
	dial := func(to netip.AddrPort) error {
		said := make(chan error)
		go func() {
			runtime.LockOSThread()
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(st.Uid), ^uintptr(0)); errno != 0 {
				said <- errno
				return
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
				_ = unix.Close(fd)
			}
			said <- err
		}()
		return <-said
	}
	if err := dial(netip.AddrPortFrom(publicIP, webPort)); err != nil {
		t.Errorf("a public address: %v", err)
	}
	for _, ip := range append([]netip.Addr{hostIP, metadataIP, a.Gateway, a.Address.Addr()}, privateIPs...) {
		refused(t, "netd to "+ip.String(), dial(netip.AddrPortFrom(ip, webPort)))
	}
}

// Who floods the log burns neither netd's time nor the others' entries.
func TestAFloodOfRefusedPacketsIsRationed(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	m := open(t, w.named(t))
	a, b := acquire(t, m, "a", domain.NetworkNAT), acquire(t, m, "b", domain.NetworkNAT)
	const n = 50_000
	w.in(a.NetNS, func(int) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		for i := range n {
			_ = unix.Sendto(fd, nil, 0, &unix.SockaddrInet4{Port: 1 + i%60000, Addr: metadataIP.As4()})
		}
		return nil
	})
	if _, err := w.dialFrom(b.NetNS, at(publicIP)); err != nil {
		t.Fatal(err)
	}
	w.log(m, "b", "a neighbour's", func(e domain.EgressEntry) bool { return e.Addr == publicIP.String() && e.Port == webPort })
	entries, err := m.EgressLog(context.Background(), "a", 0, 1_000_000, 0)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, e := range entries {
		told += max(e.Count, 1)
	}
	if told == 0 || told > n/2 {
		t.Errorf("%d of %d refused packets are told", told, n)
	}
}
