package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/proxy"
)

// host is what the certificate of httptest's servers is for.
const host = "example.com"

// intercepted is a rig with a secret bound to the server, and the configuration
// of a client that trusts the rig's authority alone.
func intercepted(t *testing.T, handler http.HandlerFunc) (*rig, *tls.Config) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2, server.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca, err := egress.NewCA("rig", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	minter, err := proxy.NewMinter(*ca)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, server, func(c *proxy.Config) {
		c.CA = func() *proxy.Minter { return minter }
		c.Roots = x509.NewCertPool()
		c.Roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	})
	r.rules.Store(egress.New(domain.EgressPolicy{Allow: []string{host}, Deny: []string{"*"}}, []egress.Secret{{Placeholder: "the-placeholder", Value: "the-value", Hosts: []string{host}}}))
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(ca.Certificate)
	return r, &tls.Config{RootCAs: trust, ServerName: host}
}

// tls is a connection whose server's certificate is not looked at.
func (r *rig) tls(t *testing.T) *tls.Conn {
	t.Helper()
	c, err := r.handshake(t, r.dial())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *rig) handshake(t *testing.T, c net.Conn) (*tls.Conn, error) {
	t.Helper()
	secure := tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true}) //nolint:gosec // a guest may do so
	return secure, secure.HandshakeContext(t.Context())
}

// client speaks HTTP through the rig, whatever address is asked for.
func (r *rig) client(trust *tls.Config, http2 bool) *http.Client {
	var d net.Dialer
	tr := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp4", r.at) },
		TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: http2,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// Answers come as they are written, by both versions of HTTP.
func TestStreamsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	r, trust := intercepted(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d %s\n", i, r.Header.Get("Authorization"))
			w.(http.Flusher).Flush()
			select {
			case <-next: // the client has read it
			case <-r.Context().Done():
				return
			}
		}
	})
	for _, http2 := range []bool{true, false} {
		req, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer the-placeholder")
		resp, err := r.client(trust, http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if (resp.ProtoMajor == 2) != http2 {
			t.Errorf("spoken is %s", resp.Proto)
		}
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d Bearer the-value\n", i) {
				t.Fatalf("%q %v", line, err)
			}
			next <- struct{}{}
		}
		_ = resp.Body.Close()
	}
}

// A WebSocket's request carries secrets, what is said on it does not; new
// rules end it.
func TestWebSocketsPass(t *testing.T) {
	t.Parallel()
	r, trust := intercepted(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Was: %s\r\n\r\n", r.Header.Get("Authorization"))
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	c := tls.Client(r.dial(), trust)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: the-placeholder\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil) //nolint:bodyclose // the connection is the body
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Was") != "the-value" {
		t.Fatalf("%+v %v", resp, err)
	}
	if _, err := io.WriteString(c, "the-placeholder\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := br.ReadString('\n'); err != nil || line != "the-placeholder\n" {
		t.Errorf("%q %v", line, err)
	}
	r.may(t, only("other.test"))
	r.proxy.Recheck(loopback)
	if line, err := br.ReadString('\n'); err == nil {
		t.Errorf("it goes on: %q", line)
	}
}

// Only headers carry secrets: neither bodies nor addresses do.
func TestSecretsAreInHeadersAlone(t *testing.T) {
	t.Parallel()
	r, trust := intercepted(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s", r.URL.RequestURI(), body)
	})
	req, err := http.NewRequest(http.MethodPost, "https://"+host+"/the-placeholder?k=the-placeholder", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Body = io.NopCloser(io.LimitReader(&repeating{"the-placeholder "}, 160))
	resp, err := r.client(trust, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	want, _ := io.ReadAll(io.LimitReader(&repeating{"the-placeholder "}, 160))
	if err != nil || string(text) != "/the-placeholder?k=the-placeholder "+string(want) {
		t.Errorf("%q %v", text, err)
	}
}

type repeating struct{ text string }

func (r *repeating) Read(p []byte) (int, error) {
	n := copy(p, r.text)
	r.text = r.text[n:] + r.text[:n]
	return n, nil
}
