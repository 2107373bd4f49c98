package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// handle looks at what comes first and decides.
func (p *Proxy) handle(c *net.TCPConn) {
	from, ok := netip.AddrFromSlice(c.RemoteAddr().(*net.TCPAddr).IP.To4())
	reset := func() { _ = c.SetLinger(0); _ = c.Close() }
	if !ok {
		reset()
		return
	}
	machine, ok := p.cfg.Machine(from)
	if !ok {
		reset() // nobody said what it may reach
		return
	}
	to, err := p.cfg.Original(c)
	if err != nil {
		p.cfg.Log.Warn("a connection's destination is not known", "err", err)
		reset()
		return
	}
	f := &flow{p: p, machine: machine, from: from, to: to, client: c}
	local, _ := netip.AddrFromSlice(c.LocalAddr().(*net.TCPAddr).IP.To4())
	switch {
	case to.Addr() == local: // sent to the proxy itself
		f.refused("tcp", "", &denial{reason: domain.EgressPrivate})
		reset()
		return
	case !p.enter(f):
		f.refused("tcp", "", &denial{reason: domain.EgressBusy})
		reset()
		return
	}
	_ = c.SetKeepAliveConfig(probed())
	if why := f.serve(); why != nil {
		f.cut()
	}
}

// serve decides and carries the flow. An error is a denial that was noted; the
// flow has ended, or is HTTP's, otherwise.
func (f *flow) serve() error {
	br := bufio.NewReaderSize(f.client, 4096)
	early := f.early()
	defer early.discard(f)
	spoke, err := f.firstByte(br, early)
	if err != nil {
		if early.connected() { // it asked for no more than that
			f.allowedTo(target{via: "tcp", addr: f.to.Addr()}, f.machine.Rules().Address(f.to.Addr()))
		}
		return err
	}
	_ = f.client.SetReadDeadline(time.Now().Add(speakWithin))
	if !spoke {
		return f.byAddress(br, early)
	}
	first, err := br.Peek(1)
	switch {
	case err != nil:
		return err // it went away
	case first[0] == recordHandshake:
		return f.tls(br, early)
	case isHTTP(br):
		early.discard(f)
		f.carriesRequests()
		f.p.feed.put(&conn{Conn: f.client, r: br, f: f})
		return nil
	}
	return f.byAddress(br, early)
}

// firstByte waits for whoever speaks first, and tells whether the machine did.
func (f *flow) firstByte(br *bufio.Reader, e *early) (spoke bool, err error) {
	client := make(chan error, 1)
	go func() {
		_, err := br.Peek(1)
		client <- err
	}()
	timer := time.NewTimer(speakWithin)
	defer timer.Stop()
	select {
	case err := <-client:
		return err == nil, err
	case <-e.spoke: // or cannot be reached
	case <-timer.C:
	}
	// The reading above must end before anybody else reads.
	_ = f.client.SetReadDeadline(time.Unix(1, 0))
	err = <-client
	_ = f.client.SetReadDeadline(time.Time{})
	if err == nil {
		return true, nil
	}
	if !isTimeout(err) {
		return false, err
	}
	if e.none {
		return false, f.failed("tcp", "", &denial{reason: domain.EgressNoName})
	}
	return false, nil
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// byAddress carries a flow that tells no name.
func (f *flow) byAddress(br *bufio.Reader, e *early) error {
	d, _ := f.machine.Rules().Connection("", f.to.Addr())
	if !d.Allow {
		return f.failed("tcp", "", f.deny("", d))
	}
	up, said, err := e.take()
	if e.none {
		up, _, err = f.dial(context.Background(), "", d, false)
	}
	if err != nil {
		return f.failed("tcp", "", err)
	}
	f.allowedTo(target{via: "tcp", addr: f.to.Addr()}, d)
	f.splice(buffered(br), up, said)
	return nil
}

// failed notes why a connection could not be made.
func (f *flow) failed(via, name string, err error) error {
	var why *denial
	if !errors.As(err, &why) {
		why = &denial{reason: domain.EgressUnreachable}
	}
	f.refused(via, name, why)
	return why
}

// recordHandshake is the content type that TLS begins with (RFC 8446 §5.1).
const recordHandshake = 22

// extensionECH is encrypted_client_hello (RFC 9849 §5).
const extensionECH = 0xfe0d

// tls decides about a TLS connection by its ClientHello.
func (f *flow) tls(br *bufio.Reader, e *early) error {
	hello, raw, err := readHello(br)
	if err != nil {
		return f.failed("tls", "", &denial{reason: domain.EgressNoName})
	}
	rules := f.machine.Rules()
	name := hostName(hello.ServerName)
	// An encrypted hello hides the name that counts behind one that does not.
	// Browsers send a decoy that looks the same (GREASE), which is refused too.
	// Where no name is allowed or denied, nothing hangs on it.
	if slices.Contains(hello.Extensions, extensionECH) && rules.Named() && !rules.Learns() {
		return f.failed("tls", name, &denial{reason: domain.EgressECH})
	}
	d, byName := rules.Connection(name, f.to.Addr())
	if !d.Allow {
		return f.failed("tls", name, f.deny(name, d))
	}
	_ = f.client.SetReadDeadline(time.Time{})
	if minter := f.p.cfg.CA(); name != "" && minter != nil && rules.Intercepts(name) {
		e.discard(f)
		f.sni = name
		f.carriesRequests()
		f.p.feed.put(tls.Server(&conn{Conn: f.client, r: io.MultiReader(bytes.NewReader(raw), br), f: f}, minter.config(name)))
		return nil
	}
	var up *net.TCPConn
	var said []byte
	addr := f.to.Addr()
	if byName || e.none {
		e.discard(f)
		up, addr, err = f.dial(context.Background(), name, d, byName)
	} else {
		if up, said, err = e.take(); err == nil {
			err = f.join(up, target{name: name, addr: addr}) // it was made without the name
		}
	}
	if err != nil {
		return f.failed("tls", name, err)
	}
	f.allowedTo(target{"tls", name, addr}, d)
	f.splice(io.MultiReader(bytes.NewReader(raw), buffered(br)), up, said)
	return nil
}

// buffered is what a reader holds, without reading more.
func buffered(br *bufio.Reader) io.Reader {
	held, _ := br.Peek(br.Buffered())
	return bytes.NewReader(held)
}

// readHello reads a ClientHello and gives the bytes that it took. crypto/tls
// parses it and is then stopped.
func readHello(r io.Reader) (hello tls.ClientHelloInfo, raw []byte, err error) {
	rec := &recorder{r: io.LimitReader(r, maxHelloBytes)}
	seen := false
	_ = tls.Server(rec, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { //nolint:gosec // no connection is made of it
		hello.ServerName, hello.Extensions = h.ServerName, slices.Clone(h.Extensions)
		seen = true
		return nil, errStop
	}}).HandshakeContext(context.Background())
	if !seen {
		return hello, nil, errors.Plain("no ClientHello")
	}
	return hello, rec.read.Bytes(), nil
}

var errStop = errors.Plain("the hello was read")

// recorder is a connection that keeps what is read and drops what is written.
type recorder struct {
	net.Conn
	r    io.Reader
	read bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.read.Write(p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error)      { return len(p), nil }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// isHTTP reports whether a request line of HTTP/1 begins here. "PRI" begins
// HTTP/2 without TLS (RFC 9113 §3.4), whose requests are not looked into.
func isHTTP(br *bufio.Reader) bool {
	methods := []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH ", "PROPFIND ", "REPORT ", "MKCOL ", "MOVE ", "COPY ", "LOCK ", "UNLOCK ", "SEARCH ", "QUERY "}
	for n := 1; ; n++ {
		b, err := br.Peek(n)
		if err != nil {
			return false
		}
		if i := slices.IndexFunc(methods, func(m string) bool { return strings.HasPrefix(m, string(b)) }); i < 0 {
			return false
		} else if len(methods[i]) == n {
			return true
		}
	}
}

// hostForm is what names of hosts are made of. It has ASCII alone: there are
// other letters whose lower case is ASCII.
var hostForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?$`)

// hostName gives a name in the form that rules have; empty for what is none,
// an address or what no host is called.
func hostName(host string) string {
	name := strings.TrimSuffix(host, ".")
	if isAddress(name) || len(name) > 253 || !hostForm.MatchString(host) {
		return ""
	}
	return strings.ToLower(name)
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}
