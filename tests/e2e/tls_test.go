package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// What `aetherium e2b env` says is enough for a program that knows nothing else
// of the server: by name, over TLS, with a certificate that it trusts. It goes
// on counting after the server was killed.
func TestTheEnvironmentOfSDKs(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	home := t.TempDir()
	names, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // for its port
	if err != nil {
		t.Fatal(err)
	}
	resolver := names.LocalAddr().String()
	_ = names.Close()
	s, err := server.New(filepath.Join(t.TempDir(), "data"), "AETHERIUM_BASE_SKIP=true", "AETHERIUM_POOL_SIZE=0",
		"AETHERIUM_NAMES_ADDRESS="+resolver, "XDG_CONFIG_HOME="+home, "NODE_EXTRA_CA_CERTS=")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Down(context.WithoutCancel(ctx), "--purge"); err != nil {
			t.Errorf("down: %v", err)
		}
	})
	if err := s.Start(ctx); err != nil {
		t.Fatalf("%v\n%s", err, s.Log())
	}
	env := map[string]string{}
	if err := s.JSON(ctx, &env, "e2b", "env"); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^e2b_[0-9a-f]{40}$`).MatchString(env["E2B_API_KEY"]) || !strings.HasPrefix(env["E2B_DOMAIN"], "aeth.localhost:") || len(env) != 4 {
		t.Fatalf("%d variables, domain %s", len(env), env["E2B_DOMAIN"])
	}
	if info, err := os.Stat(filepath.Join(s.DataDir, "tls", "authority.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key: %v, %v", info, err)
	}
	asks := func(when, trusts string) {
		t.Helper()
		text, err := os.ReadFile(trusts)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(text)
		client := &http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			DialContext: (&net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, resolver)
			}}}).DialContext,
		}}
		defer client.CloseIdleConnections()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api."+env["E2B_DOMAIN"]+"/v2/sandboxes", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-KEY", env["E2B_API_KEY"])
		resp, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Errorf("%s: %s, %s", when, resp.Status, resp.Proto)
		}
	}
	asks("with what Python trusts", env["SSL_CERT_FILE"])
	asks("with what Node.js trusts beside its own", env["NODE_EXTRA_CA_CERTS"])
	if text, _ := os.ReadFile(env["SSL_CERT_FILE"]); strings.Count(string(text), "BEGIN CERT") < 2 {
		t.Error("the host's own certificates are not trusted any more")
	}

	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	// The same port: what programs were told goes on counting.
	s.Env = append(s.Env, "AETHERIUM_TLS_ADDRESS=127.0.0.1:"+env["E2B_DOMAIN"][strings.LastIndexByte(env["E2B_DOMAIN"], ':')+1:])
	if err := s.Start(ctx); err != nil {
		t.Fatalf("%v\n%s", err, s.Log())
	}
	asks("after the server was killed", env["NODE_EXTRA_CA_CERTS"])
	again := map[string]string{}
	if err := s.JSON(ctx, &again, "e2b", "env"); err != nil {
		t.Fatal(err)
	}
	for name, value := range env {
		if again[name] != value {
			t.Errorf("%s is another after the server was killed", name)
		}
	}
	// The key is in its own file, and nowhere else.
	var holds []string
	for _, file := range s.Files() {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if strings.Contains(string(text), env["E2B_API_KEY"]) {
			holds = append(holds, file)
		}
	}
	if len(holds) > 0 {
		t.Errorf("the key is in %s", slices.Sorted(slices.Values(holds)))
	}
}
