package proxy

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// conn is a flow's connection in the hands of the HTTP server.
type conn struct {
	net.Conn
	r io.Reader // what was looked at, then the connection
	f *flow
}

func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Close ends the flow with its connection.
func (c *conn) Close() error { c.f.end(); return nil }

type flowKey struct{}

// served is a flow with what its requests have in common.
type served struct {
	*flow
	via     string
	forward *httputil.ReverseProxy
}

// withFlow gives requests the flow that they come on.
func withFlow(ctx context.Context, c net.Conn) context.Context {
	s := &served{via: "http"}
	if t, ok := c.(*tls.Conn); ok {
		s.via, c = "tls", t.NetConn()
	}
	s.flow = c.(*conn).f
	transport := &http.Transport{
		DialContext: s.dialFor, DisableCompression: true, MaxIdleConns: maxKept, MaxIdleConnsPerHost: maxKept, MaxConnsPerHost: 64, IdleConnTimeout: idleHTTP,
		TLSHandshakeTimeout: dialWithin, ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: maxHeaderBytes, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: s.p.cfg.Roots, MinVersion: tls.VersionTLS12},
	}
	s.forward = &httputil.ReverseProxy{
		Rewrite: s.rewrite, Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), ErrorHandler: s.cannot,
	}
	return context.WithValue(ctx, flowKey{}, s)
}

// serveHTTP decides about one request and passes it on.
func (p *Proxy) serveHTTP(w http.ResponseWriter, r *http.Request) {
	s := r.Context().Value(flowKey{}).(*served)
	name := hostName(withoutPort(r.Host))
	done, ok := p.begin(s.from)
	if !ok {
		s.refuse(w, http.StatusTooManyRequests, name, &denial{reason: domain.EgressBusy})
		return
	}
	defer done()
	// TRACE would have the host send a secret back that was put into the request.
	if r.Method == http.MethodConnect || s.sni != "" && r.Method == http.MethodTrace {
		s.refuse(w, http.StatusMethodNotAllowed, name, &denial{reason: domain.EgressMismatch})
		return
	}
	if s.sni != "" && name != s.sni {
		s.refuse(w, http.StatusMisdirectedRequest, name, &denial{reason: domain.EgressMismatch})
		return
	}
	if host := withoutPort(r.Host); name == "" && host != "" && !isAddress(host) {
		s.refuse(w, http.StatusBadRequest, "", &denial{reason: domain.EgressNoName}) // neither a name nor an address
		return
	}
	d, _ := s.machine.Rules().Connection(name, s.to.Addr())
	if !d.Allow {
		s.refuse(w, http.StatusForbidden, name, s.deny(name, d))
		return
	}
	if s.sni != "" && !reveal(r.Header, s.machine.Rules().SecretsFor(name)) {
		s.refuse(w, http.StatusRequestHeaderFieldsTooLarge, name, &denial{reason: domain.EgressBusy})
		return
	}
	if r.ProtoMajor == 1 {
		// Else the server, once the answer begins, reads the rest of the body
		// itself: the answer waits for it, or breaks where it was being passed on.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	s.forward.ServeHTTP(w, r)
}

func withoutPort(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// refuse answers a request that goes nowhere.
func (s *served) refuse(w http.ResponseWriter, status int, name string, why *denial) {
	s.refused(s.via, name, why)
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Aetherium-Egress", why.reason)
	w.WriteHeader(status)
	if name == "" {
		name = s.to.Addr().String()
	}
	_, _ = fmt.Fprintf(w, "egress of this machine to %s is refused: %s\n", name, why)
}

// cannot answers a request that did not get through.
func (s *served) cannot(w http.ResponseWriter, r *http.Request, err error) {
	var why *denial
	switch name := hostName(withoutPort(r.Host)); {
	case errors.As(err, &why) && why.reason == domain.EgressPrivate, errors.As(err, &why) && why.reason == domain.EgressPolicyDenied:
		s.refuse(w, http.StatusForbidden, name, why)
	case errors.As(err, &why):
		s.refuse(w, http.StatusBadGateway, name, why)
	default: // it was reached, and then it broke, or its certificate is not good
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusBadGateway)
		_, _ = fmt.Fprintf(w, "the connection to %q failed: %s\n", name, reasonOf(err))
	}
}

// reasonOf tells a guest about a failure of TLS, which it cannot see otherwise.
func reasonOf(err error) string {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) {
		return "its certificate is not good: " + bad.Err.Error()
	}
	return "it was broken off"
}

// rewrite makes the request that goes out of the one that came in.
func (s *served) rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", s.to.String()
	if s.sni != "" {
		r.Out.URL.Scheme = "https"
	}
	name := hostName(withoutPort(r.In.Host))
	if name != "" {
		r.Out.URL.Host = net.JoinHostPort(name, strconv.Itoa(int(s.to.Port())))
	}
	r.Out.Host = r.In.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	if strings.EqualFold(r.Out.Header.Get("Upgrade"), "h2c") {
		// Its requests would not be looked at. A server that is not asked goes on in HTTP/1.
		r.Out.Header.Del("Upgrade")
		r.Out.Header.Del("Connection")
		r.Out.Header.Del("Http2-Settings")
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := r.In.Header[h]; v != nil {
			r.Out.Header[h] = v // the machine's own
		}
	}
	if s.sni != "" {
		// After what the machine's own Connection header takes away.
		for h, v := range s.machine.Rules().Headers(name) {
			r.Out.Header[h] = []string{v}
		}
	}
	// One entry for each request that comes on a kept connection, too.
	d, byName := s.machine.Rules().Connection(name, s.to.Addr())
	if addr, ok := s.connectedTo(name); ok && d.Allow {
		if !byName {
			addr = s.to.Addr()
		}
		s.allowedTo(target{s.via, name, addr}, d)
	}
}

// connectedTo gives where a connection for a name leads that is there already.
func (s *served) connectedTo(name string) (netip.Addr, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.others {
		if t.name == name {
			return t.addr, true
		}
	}
	return netip.Addr{}, false
}

// dialFor connects for the transport, whose connections are kept by address:
// a name and the port that the machine chose.
func (s *served) dialFor(ctx context.Context, _, address string) (net.Conn, error) {
	name := hostName(withoutPort(address))
	d, byName := s.machine.Rules().Connection(name, s.to.Addr())
	if !d.Allow {
		return nil, deny(d)
	}
	c, addr, err := s.dial(ctx, name, d, byName)
	if err != nil {
		return nil, err
	}
	s.allowedTo(target{s.via, name, addr}, d)
	return &counted{c, s.flow}, nil
}

// counted counts what goes over a connection.
type counted struct {
	net.Conn
	f *flow
}

func (c *counted) Close() error {
	c.f.part(c.Conn)
	return c.Conn.Close()
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.f.got.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.f.sent.Add(int64(n))
	return n, err
}

// reveal puts secrets in the place of their placeholders, in Basic credentials
// (RFC 7617) as well. It reports whether they fit: a header grows no further
// than by maxHeaderBytes, however often it repeats a placeholder. One in which
// they do not fit must not go out.
func reveal(h http.Header, secrets []domain.BoundSecret) bool {
	r := newRevealer(secrets)
	for _, values := range h {
		for i, v := range values {
			values[i] = r.text(v)
		}
	}
	for i, v := range h["Authorization"] {
		scheme, text, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "Basic") {
			continue
		}
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil {
			continue
		}
		if with := r.text(string(plain)); with != string(plain) {
			h["Authorization"][i] = scheme + " " + base64.StdEncoding.EncodeToString([]byte(with))
		}
	}
	return r.room >= 0
}

// revealer puts secrets into texts as long as there is room.
type revealer struct {
	secrets []domain.BoundSecret
	all     *strings.Replacer
	room    int
}

func newRevealer(secrets []domain.BoundSecret) *revealer {
	r := &revealer{room: maxHeaderBytes}
	var pairs []string
	for _, s := range secrets {
		if s.Placeholder != "" {
			r.secrets = append(r.secrets, s)
			pairs = append(pairs, s.Placeholder, s.Value)
		}
	}
	// All at once: what stands in a value is text, whatever it looks like.
	r.all = strings.NewReplacer(pairs...)
	return r
}

func (r *revealer) text(t string) string {
	for _, s := range r.secrets {
		r.room -= strings.Count(t, s.Placeholder) * max(0, len(s.Value)-len(s.Placeholder))
	}
	if r.room < 0 {
		return t
	}
	return r.all.Replace(t)
}
