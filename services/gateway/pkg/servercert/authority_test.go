package servercert_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/gateway/pkg/servercert"
)

// clock is a time that a test sets.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Now()} }

func open(t *testing.T, dir, domain string, c *clock) (*servercert.Authority, bool) {
	t.Helper()
	a, made, err := servercert.Open(dir, domain, "test", c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a, made
}

// leaf is the certificate that a client gets who names a server.
func leaf(t *testing.T, a *servercert.Authority, name string) *x509.Certificate {
	t.Helper()
	c, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func trusting(a *servercert.Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.PEM())
	return pool
}

func TestNamesOfACertificate(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, _ := open(t, t.TempDir(), "aeth.localhost", c)
	for name, good := range map[string]bool{
		"aeth.localhost": true, "api.aeth.localhost": true, "49983-abcdefghij0123456789.aeth.localhost": true, "localhost": true, "127.0.0.1": true, "::1": true,
		"a.b.aeth.localhost": false, "other.localhost": false, "127.0.0.2": false, "example.com": false,
	} {
		cert := leaf(t, a, name)
		if ip := net.ParseIP(name); ip != nil {
			cert = leaf(t, a, "") // clients name servers by names alone
		} else if len(cert.IPAddresses) > 0 {
			t.Errorf("%s: %v would be too much for some clients", name, cert.IPAddresses)
		}
		_, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: trusting(a), CurrentTime: c.at})
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := leaf(t, a, "localhost").Verify(x509.VerifyOptions{Roots: trusting(a), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the certificate is good for clients")
	}
}

// What is signed with a stolen key is good for nothing but the domain and this host.
func TestAnAuthorityIsForItsDomainOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, _ := open(t, dir, "vm.example", newClock())
	text, err := os.ReadFile(filepath.Join(dir, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template x509.Certificate) *x509.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(7), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, &template, pair.Leaf, key.Public(), pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for name, good := range map[string]bool{"8080-x.vm.example": true, "example": false, "bank.example": false, "vm.example.evil": false, "10.0.0.1": false} {
		template := x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = []net.IP{ip}
		} else {
			template.DNSNames = []string{name}
		}
		if _, err := sign(template).Verify(x509.VerifyOptions{DNSName: name, Roots: trusting(a)}); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	signing := x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, DNSNames: []string{"vm.example"}}
	if _, err := sign(signing).Verify(x509.VerifyOptions{Roots: trusting(a), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err == nil {
		t.Error("it signs code")
	}
}

func TestAnAuthorityIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	c := newClock()
	a, made := open(t, dir, "aeth.localhost", c)
	if !made {
		t.Error("none was made")
	}
	for name, mode := range map[string]os.FileMode{"authority.pem": 0o600, servercert.PublicFile: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, servercert.PublicFile))
	if err != nil || string(public) != string(a.PEM()) {
		t.Errorf("%s, %v", public, err)
	}
	// A certificate that somebody removed or changed comes back.
	if err := os.WriteFile(filepath.Join(dir, servercert.PublicFile), []byte("gone"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, made := open(t, dir, "aeth.localhost", c)
	if made || string(b.PEM()) != string(a.PEM()) {
		t.Error("another was made")
	}
	if public, _ := os.ReadFile(filepath.Join(dir, servercert.PublicFile)); string(public) != string(a.PEM()) {
		t.Error("the public certificate is not there again")
	}
	if _, err := leaf(t, b, "localhost").Verify(x509.VerifyOptions{DNSName: "localhost", Roots: trusting(a)}); err != nil {
		t.Errorf("after a restart: %v", err)
	}

	// Another domain takes another authority, and so does the last year of one.
	other, made := open(t, dir, "vm.example", c)
	if _, err := leaf(t, other, "1-x.vm.example").Verify(x509.VerifyOptions{DNSName: "1-x.vm.example", Roots: trusting(other)}); !made || err != nil {
		t.Errorf("made %t, %v", made, err)
	}
	c.at = c.at.Add(9*365*24*time.Hour - time.Hour)
	if _, made := open(t, dir, "vm.example", c); made {
		t.Error("made anew before its last year")
	}
	c.at = c.at.Add(2 * time.Hour)
	if _, made := open(t, dir, "vm.example", c); !made {
		t.Error("not made anew in its last year")
	}

	file := filepath.Join(dir, "authority.pem")
	if err := os.Chmod(file, 0o640); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	if _, _, err := servercert.Open(dir, "vm.example", "test", nil); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("a key that others can read: %v", err)
	}
	keyAlone, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, keyAlone = pem.Decode(keyAlone)
	for name, text := range map[string][]byte{"nothing": nil, "no PEM": []byte("hello"), "a key alone": keyAlone, "a certificate alone": a.PEM(), "another's certificate": append(a.PEM(), keyAlone...)} {
		_ = os.Remove(file)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := servercert.Open(dir, "vm.example", "test", nil); !errors.HasCode(err, errors.Internal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, _ := open(t, t.TempDir(), "aeth.localhost", c)
	first := leaf(t, a, "localhost")
	c.at = first.NotAfter.Add(-11 * 24 * time.Hour)
	if !leaf(t, a, "api.aeth.localhost").Equal(first) {
		t.Error("renewed too soon")
	}
	c.at = first.NotAfter.Add(-9 * 24 * time.Hour)
	second := leaf(t, a, "localhost")
	if second.Equal(first) || !second.NotAfter.After(c.at.Add(20*24*time.Hour)) {
		t.Error("not renewed")
	}
	if _, err := second.Verify(x509.VerifyOptions{DNSName: "localhost", Roots: trusting(a), CurrentTime: c.at}); err != nil {
		t.Error(err)
	}
}

// keep makes a certificate and writes it into files.
func keep(t *testing.T, cert, key string) *x509.Certificate {
	t.Helper()
	a, _ := open(t, t.TempDir(), "vm.example", newClock())
	c, err := a.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Leaf.Raw}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	return c.Leaf
}

func TestFilesAreTakenUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	log := slog.New(slog.DiscardHandler)
	if _, err := servercert.OpenFiles(cert, key, log); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("no files: %v", err)
	}
	first := keep(t, cert, key)
	f, err := servercert.OpenFiles(cert, key, log)
	if err != nil {
		t.Fatal(err)
	}
	gives := func(what string, want *x509.Certificate) {
		t.Helper()
		if c, err := f.GetCertificate(nil); err != nil || !c.Leaf.Equal(want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	gives("at first", first)
	if !f.Covers("1-x.vm.example") || f.Covers("example.com") {
		t.Error("the names are wrong")
	}
	second := keep(t, cert, key)
	gives("renewed", second)
	// Half of a renewal, no file, and no certificate leave what there was.
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	gives("without a key", second)
	keep(t, cert, key+".other")
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	gives("with the key of the one before", second)
	if _, err := servercert.OpenFiles(cert, key, log); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("another's key: %v", err)
	}
	if err := os.WriteFile(cert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	gives("without a certificate", second)
	gives("after a whole renewal", keep(t, cert, key))
}
