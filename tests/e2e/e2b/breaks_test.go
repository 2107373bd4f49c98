package e2b

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// The ways in which a connection breaks.
const (
	unsent     = "unsent"     // reset before the server has the request
	unanswered = "unanswered" // reset when the server has answered, instead of the answer
	replaced   = "replaced"   // the server has answered, and the client is told something else
	refused    = "refused"    // the server never has it, and the client is told something else
	download   = "download"   // reset within the answer
	upload     = "upload"     // reset within the request
	stalled    = "stalled"    // neither goes on nor ends
)

// fault is what a script wants to happen to the next requests of a kind.
type fault struct {
	Method string `json:"method"`
	Path   string `json:"path"`   // its end
	How    string `json:"how"`    // a way
	Times  int    `json:"times"`  // to so many; those after it are left alone
	Bytes  int64  `json:"bytes"`  // after so much of the body
	Status int    `json:"status"` // what is told instead, to be tried again at once
	Mute   bool   `json:"mute"`   // that says nothing of when to try again
}

// breaker stands between an SDK and a server, and breaks connections as the
// SDK's script asks: PUT /break begins anew with a fault, GET /break tells how
// many requests were of its kind and which idempotency keys they had, and
// DELETE /break resets all that are being answered.
type breaker struct {
	proxy *httputil.ReverseProxy

	mu     sync.Mutex
	fault  fault
	seen   int
	keys   []string
	live   map[*http.Request]bool
	spoken map[int]bool // the major versions of HTTP that it was asked by
}

// speaks reports whether it was asked by a major version of HTTP.
func (b *breaker) speaks(major int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spoken[major]
}

// breaks runs a breaker before a server, and gives its URL.
func breaks(t *testing.T, s *server.Server) string {
	t.Helper()
	srv, _ := newBreaker(t, s.URL, &http.Transport{DisableCompression: true})
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

// breaksOverTLS is breaks where a server is found by its name, over TLS: what
// speaks HTTP/2 does so to the breaker, and the breaker to the server. It gives
// the variables that packages find it by, and trust its certificate beside what
// environ has them trust.
func breaksOverTLS(t *testing.T, environ []string) ([]string, *breaker) {
	t.Helper()
	given := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		given[name] = value
	}
	trusted, err := os.ReadFile(given["SSL_CERT_FILE"])
	must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(trusted) {
		t.Fatal("nothing is trusted")
	}
	_, port, err := net.SplitHostPort(given["E2B_DOMAIN"])
	must(t, err)
	srv, b := newBreaker(t, "https://localhost:"+port, &http.Transport{
		DisableCompression: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	})
	own, pair := certified(t)
	srv.TLS, srv.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	out := []string{"TEST_BREAKER=" + srv.URL}
	for _, name := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"} {
		trusted, err := os.ReadFile(given[name])
		must(t, err)
		file := filepath.Join(t.TempDir(), "trusted.pem")
		must(t, os.WriteFile(file, append(append(trusted, '\n'), own...), 0o600))
		out = append(out, name+"="+file)
	}
	return out, b
}

// certified is an authority of this test alone, and what it vouches for: this
// host's loopback.
func certified(t *testing.T) (authority []byte, pair tls.Certificate) {
	t.Helper()
	from, until := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	root, signer, err := certificate.Issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "Breaker of a test"},
		NotBefore: from, NotAfter: until, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	must(t, err)
	leaf, key, err := certificate.Issue(&x509.Certificate{
		NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, signer)
	must(t, err)
	return certificate.PEM(root), tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// newBreaker makes a breaker before a URL, and what serves it, which does not run yet.
func newBreaker(t *testing.T, before string, transport *http.Transport) (*httptest.Server, *breaker) {
	t.Helper()
	to, err := url.Parse(before)
	must(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	b := &breaker{live: map[*http.Request]bool{}, spoken: map[int]bool{}}
	b.proxy = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		FlushInterval: -1,
		Transport:     transport,
		ErrorLog:      log.New(io.Discard, "", 0), // what it would tell of was asked for
		// The client's connection breaks where the server's does.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	srv := httptest.NewUnstartedServer(b)
	srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	srv.Config.ErrorLog = b.proxy.ErrorLog
	return srv, b
}

func (b *breaker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/break" {
		b.control(w, r)
		return
	}
	if r.ProtoMajor == 1 {
		// Else the answer breaks where the end of the request is still being passed on.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	reset := func() { cut(r) }
	f := b.next(r)
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.live, r)
	}()
	switch f.How {
	case unsent:
		reset()
	case refused:
		instead(w, f)
	case stalled:
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // until the client has enough of it
	case unanswered, replaced:
		b.proxy.ServeHTTP(httptest.NewRecorder(), r)
		if f.How == unanswered {
			reset()
			return
		}
		instead(w, f)
	case upload:
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, f.Bytes), broken{}))
		defer reset() // also where the server's connection is what ended
		defer func() { _ = recover() }()
		b.proxy.ServeHTTP(httptest.NewRecorder(), r)
	case download:
		b.proxy.ServeHTTP(&shortened{ResponseWriter: w, left: f.Bytes, reset: reset}, r)
	default:
		b.proxy.ServeHTTP(w, r)
	}
}

// next says what happens to a request.
func (b *breaker) next(r *http.Request) fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live[r] = true
	b.spoken[r.ProtoMajor] = true
	if r.Method != b.fault.Method || !strings.HasSuffix(r.URL.Path, b.fault.Path) {
		return fault{}
	}
	b.seen++
	b.keys = append(b.keys, r.Header.Get("Idempotency-Key"))
	if b.seen > b.fault.Times {
		return fault{}
	}
	return b.fault
}

func (b *breaker) control(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch r.Method {
	case http.MethodPut:
		b.fault, b.seen, b.keys = fault{}, 0, []string{}
		if err := json.NewDecoder(r.Body).Decode(&b.fault); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	case http.MethodDelete:
		for r := range b.live {
			cut(r)
		}
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{"seen": b.seen, "keys": b.keys})
	}
}

// connKey is where a request's context has its connection.
type connKey struct{}

// cut resets the connection that a request came by.
func cut(r *http.Request) {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn() // without a word of TLS's
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
}

func instead(w http.ResponseWriter, f fault) {
	w.Header().Set("Content-Type", "application/json")
	if !f.Mute {
		w.Header().Set("Retry-After", "0")
	}
	w.WriteHeader(f.Status)
	_, _ = io.WriteString(w, `{"code":`+strconv.Itoa(f.Status)+`,"message":"not now"}`)
}

// broken is a body that does not arrive.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// shortened resets the connection once so much of an answer was written.
type shortened struct {
	http.ResponseWriter
	left  int64
	reset func()
}

func (s *shortened) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *shortened) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(int64(len(p)), s.left)])
	if s.left -= int64(n); s.left == 0 && err == nil {
		err = http.NewResponseController(s.ResponseWriter).Flush()
		s.reset()
		if err == nil {
			err = io.ErrClosedPipe
		}
	}
	return n, err
}
