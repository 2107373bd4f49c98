package kms

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxToken bounds a token.
const maxToken = 8 << 10

// overHTTP asks by requests.
type overHTTP struct {
	base      string
	tokenFile string
	client    *http.Client
}

func newHTTP(c Config) (*overHTTP, error) {
	bad := func(format string, args ...any) error {
		return errors.New(errors.InvalidArgument, format, args...).WithField("url").
			WithHint("unix:///path/of/socket, https://host/path, or http:// with a loopback address")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, bad("the key management service's address is not understood") // it may hold a password
	}
	t := &http.Transport{
		Proxy: nil, DisableCompression: true, MaxConnsPerHost: parallel, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: maxAnswer, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	h := &overHTTP{base: strings.TrimSuffix(u.String(), "/"), tokenFile: c.TokenFile, client: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return nil, bad("%q is not the address of a socket", c.URL)
		}
		h.base = "http://kms"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", u.Path)
		}
	case "https":
		if u.Host == "" {
			return nil, bad("%q names no host", c.URL)
		}
	case "http":
		// In clear only where nobody can listen.
		if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.IsLoopback() {
			return nil, bad("data keys do not go over a network in clear: %q", c.URL)
		}
	default:
		return nil, bad("%q is not the address of a key management service", c.URL)
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the certificates in %s cannot be read", c.CAFile).WithField("ca_file")
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New(errors.InvalidArgument, "there is no certificate in %s", c.CAFile).WithField("ca_file")
		}
	}
	if c.TokenFile != "" {
		if _, err := h.token(); err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "%s", err.Error()).WithField("token_file")
		}
	}
	return h, nil
}

func (h *overHTTP) token() (string, error) {
	info, err := os.Stat(h.tokenFile)
	if err != nil {
		return "", fmt.Errorf("the token's file cannot be read: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("the token's file %s can be read by others (mode %o)", h.tokenFile, info.Mode().Perm())
	}
	text, err := os.ReadFile(h.tokenFile)
	if err != nil {
		return "", fmt.Errorf("the token's file cannot be read: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > maxToken {
		return "", fmt.Errorf("the token's file %s holds no token", h.tokenFile)
	}
	return token, nil
}

func (h *overHTTP) ask(ctx context.Context, what string, q question) (answer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return answer{}, &outcome{err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.base+"/"+what, bytes.NewReader(body))
	if err != nil {
		return answer{}, &outcome{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	// Both questions are idempotent, so a connection that turns out to be dead is no reason to fail.
	req.Header["Idempotency-Key"] = nil
	if h.tokenFile != "" {
		token, err := h.token()
		if err != nil {
			return answer{}, &outcome{err: err}
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return answer{}, &outcome{temporary: true, err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, &outcome{temporary: true, err: err}
	case resp.StatusCode == http.StatusNotFound:
		// A wrong path is a 404 as well, but not one of the service's own.
		return answer{}, &outcome{unknown: what == "unwrap", err: statusError(resp.StatusCode)}
	case resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooEarly,
		resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return answer{}, &outcome{temporary: true, err: statusError(resp.StatusCode)}
	case resp.StatusCode != http.StatusOK:
		return answer{}, &outcome{err: statusError(resp.StatusCode)}
	}
	return parse(text)
}

type statusError int

func (s statusError) Error() string { return fmt.Sprintf("status %d", int(s)) }

func parse(text []byte) (answer, error) {
	var a answer
	if len(text) > maxAnswer {
		return a, &outcome{err: fmt.Errorf("an answer of more than %d bytes", maxAnswer)}
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, &outcome{err: errors.New(errors.Unavailable, "its answer is not JSON")} // it may hold a key
	}
	return a, nil
}
