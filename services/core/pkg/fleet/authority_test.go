package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
	"github.com/aetherium/aetherium/services/core/pkg/rekey"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, database string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), database, postgres.Options{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// Gateways that start at once have one authority, which is stored under the
// installation's keys and moves with them.
func TestOneAuthority(t *testing.T) {
	t.Parallel()
	ring, err := seal.NewKeys(make([]byte, 32))
	must(t, err)
	database := server.Database(t)
	open(t, database) // the schema is made once
	got := make([]*fleet.Authority, 4)
	var all sync.WaitGroup
	for i := range got {
		store := open(t, database)
		all.Go(func() {
			a, err := fleet.Open(context.WithoutCancel(t.Context()), store, seal.New(ring), nil)
			if err != nil {
				t.Error(err)
			}
			got[i] = a
		})
	}
	all.Wait()
	for _, a := range got {
		if a == nil || a.Hash() != got[0].Hash() {
			t.Fatal("there are several authorities")
		}
	}

	store := open(t, database)
	other := make([]byte, 32)
	other[0] = 1
	both, err := seal.NewKeys(other, make([]byte, 32))
	must(t, err)
	res, err := rekey.Rewrap(t.Context(), store, both, nil)
	if err != nil || res.Done != 1 || res.Failed != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	newest, err := seal.NewKeys(other)
	must(t, err)
	if a, err := fleet.Open(t.Context(), store, seal.New(newest), nil); err != nil || a.Hash() != got[0].Hash() {
		t.Errorf("under another key: %v", err)
	}
	if _, err := fleet.Open(t.Context(), store, seal.New(ring), nil); !errors.HasCode(err, errors.Internal) {
		t.Errorf("under a key that is gone: %v", err)
	}
}

// files writes an authority as somebody else makes one.
func files(t *testing.T, change func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(template)
	}
	c, k, err := certificate.Issue(template, nil, nil)
	must(t, err)
	return write(t, c, k)
}

func write(t *testing.T, c *x509.Certificate, k *ecdsa.PrivateKey) (cert, key string) {
	t.Helper()
	text, err := certificate.KeyPEM(k)
	must(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	must(t, os.WriteFile(cert, certificate.PEM(c), 0o600))
	must(t, os.WriteFile(key, text, 0o600))
	return cert, key
}

// An authority can be given, if it can be one.
func TestGivenAuthority(t *testing.T) {
	t.Parallel()
	cert, key := files(t, nil)
	a, err := fleet.Load(cert, key, nil)
	must(t, err)
	if text, err := os.ReadFile(cert); err != nil || string(text) != string(a.PEM()) {
		t.Errorf("it is %s, %v", a.PEM(), err)
	}
	_, other := files(t, nil)
	for name, change := range map[string]func(*x509.Certificate){
		"no authority":          func(c *x509.Certificate) { c.IsCA = false },
		"one that may not sign": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign },
		"one that has expired":  func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"one for servers alone": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"one for other names": func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example.com"}
		},
	} {
		cert, key := files(t, change)
		if _, err := fleet.Load(cert, key, nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, pair := range map[string][2]string{
		"another's key": {cert, other}, "no key": {cert, cert}, "no certificate": {key, key}, "no file": {cert, key + ".absent"},
	} {
		if _, err := fleet.Load(pair[0], pair[1], nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Chmod(key, 0o640)) //nolint:gosec // that is what is refused
	if _, err := fleet.Load(cert, key, nil); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("a key that others can read: %v", err)
	}
}

func TestValidateAddress(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"node-1:7400", "node-1.example.com:65535", "192.0.2.1:1", "[2001:db8::1]:7400"} {
		if err := fleet.ValidateAddress("address", good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "node-1", ":7400", "node-1:", "node-1:0", "node-1:65536", "node-1:x", "0.0.0.0:7400", "[::]:7400", "2001:db8::1:7400", "a b:1", "a/b:1", "u@h:1", "224.0.0.1:1"} {
		if err := fleet.ValidateAddress("address", bad); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWorkerOf(t *testing.T) {
	t.Parallel()
	id := domain.NewID()
	if got, err := fleet.WorkerOf(&x509.Certificate{DNSNames: []string{fleet.WorkerName(id)}}); err != nil || got != id {
		t.Errorf("%s, %v", got, err)
	}
	for _, names := range [][]string{nil, {fleet.GatewayName}, {"x." + fleet.WorkerName(id)}, {fleet.WorkerName(id), fleet.WorkerName(id)}} {
		if got, err := fleet.WorkerOf(&x509.Certificate{DNSNames: names}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%v is %s, %v", names, got, err)
		}
	}
}
