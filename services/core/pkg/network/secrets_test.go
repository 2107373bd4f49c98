package network_test

import (
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

const (
	placeholder = "aetherium-secret-0123456789abcdef"
	secretValue = "ghp_the-real-one"
)

func bound(value string) domain.BoundSecret {
	return domain.BoundSecret{Placeholder: placeholder, Value: value, Hosts: []string{"api.test", "*.bound.test"}}
}

// The value leaves in requests to its hosts, and is nowhere else.
func TestSecretsAreRevealedToTheirHostsOnly(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	cfg := w.named(t)
	m := open(t, cfg)
	setEgress(t, m, "a", domain.EgressPolicy{}, bound(secretValue))
	a := acquire(t, m, "a", domain.NetworkNAT)
	trust := w.pool.Clone()
	trust.AppendCertsFromPEM(cfg.EgressCA.Certificate)
	c := w.guest(a, trust)

	bearer := "Bearer " + placeholder
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+placeholder))
	for _, tc := range []struct{ url, given, want string }{
		{"https://api.test/", bearer, "Bearer " + secretValue},
		{"https://x.bound.test/", bearer, "Bearer " + secretValue},
		{"https://api.test/", basic, "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secretValue))},
		{"https://api.test/", "Bearer other", "Bearer other"},
		{"https://other.test/", bearer, bearer},
		{"https://bound.test/", bearer, bearer},
		{"http://api.test/", bearer, bearer}, // in clear it would be everybody's
	} {
		status, text, err := fetch(c, tc.url, "Authorization", tc.given)
		if err != nil || status != 200 || !strings.HasSuffix(text, "auth="+tc.want+"\n") {
			t.Errorf("%s with %s: %d %q %v", tc.url, tc.given, status, text, err)
		}
	}
	// Without the authority such a host is not trusted; all others are untouched.
	plain := w.guest(a, w.pool)
	if _, _, err := fetch(plain, "https://api.test/"); err == nil {
		t.Error("the host's own certificate was passed on where a secret is bound")
	}
	if status, _, err := fetch(plain, "https://other.test/"); err != nil || status != 200 {
		t.Errorf("a host without a secret is intercepted: %d %v", status, err)
	}
	// A request for another host on such a connection goes nowhere.
	if status, text, err := fetch(c, "https://api.test/", "Host", "other.test"); err != nil || status != 421 {
		t.Errorf("another host's request: %d %q %v", status, text, err)
	}
	// Nor does the host tell what it got, where it would.
	if req, err := http.NewRequest(http.MethodTrace, "https://api.test/", nil); err != nil {
		t.Error(err)
	} else if resp, err := c.Do(req); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("TRACE: %v %v", resp, err)
	}
	// A new value is used by the next request.
	setEgress(t, m, "a", domain.EgressPolicy{}, bound("rotated"))
	if _, text, err := fetch(c, "https://api.test/", "Authorization", bearer); err != nil || !strings.HasSuffix(text, "auth=Bearer rotated\n") {
		t.Errorf("after the change: %q %v", text, err)
	}
	// The host behind must prove who it is.
	setEgress(t, m, "a", domain.EgressPolicy{})
	noSecretsOnDisk(t, cfg.RuntimeDir)
}

// noSecretsOnDisk looks into every file for what must not be there.
func noSecretsOnDisk(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // a file of the kernel's, or one that went
		}
		for _, secret := range []string{secretValue, "rotated", "PRIVATE KEY"} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A host whose certificate is not good gets no secret.
func TestSecretsAreNotGivenToImpostors(t *testing.T) {
	if !isolated(t) {
		return
	}
	w := newWeb(t)
	cfg := w.named(t)
	cfg.EgressRoots = nil // nobody trusts the lab's internet
	m := open(t, cfg)
	setEgress(t, m, "a", domain.EgressPolicy{}, bound(secretValue))
	a := acquire(t, m, "a", domain.NetworkNAT)
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(cfg.EgressCA.Certificate)
	status, text, err := fetch(w.guest(a, trust), "https://api.test/", "Authorization", "Bearer "+placeholder)
	if err != nil || status != 502 || !strings.Contains(text, "certificate is not good") {
		t.Errorf("%d %q %v", status, text, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) > 0 {
		t.Errorf("it got %v", w.seen)
	}
}
