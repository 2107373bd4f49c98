package certificate_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
)

// An authority signs itself, and what it signs is taken by who trusts it; each
// certificate has a key and a number of its own.
func TestIssue(t *testing.T) {
	t.Parallel()
	now := time.Now()
	times := x509.Certificate{NotBefore: now.Add(-certificate.ClockSkew), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true}
	self := times
	self.IsCA, self.KeyUsage = true, x509.KeyUsageCertSign
	authority, signer, err := certificate.Issue(&self, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	seen := map[string]bool{authority.SerialNumber.String(): true}
	for range 2 {
		leaf := times
		leaf.DNSNames, leaf.ExtKeyUsage = []string{"example.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		cert, key, err := certificate.Issue(&leaf, authority, signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "example.com"}); err != nil {
			t.Error(err)
		}
		if !key.PublicKey.Equal(cert.PublicKey) || seen[cert.SerialNumber.String()] {
			t.Errorf("key or number %s are another's", cert.SerialNumber)
		}
		seen[cert.SerialNumber.String()] = true
	}
}

// What is written of a certificate and its key is read as it was, and a key of
// another is told.
func TestPEM(t *testing.T) {
	t.Parallel()
	issue := func() (*x509.Certificate, *ecdsa.PrivateKey) {
		cert, key, err := certificate.Issue(&x509.Certificate{NotAfter: time.Now().Add(time.Hour)}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	mine, key := issue()
	other, _ := issue()
	text, err := certificate.KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	certs, got, err := certificate.Parse(append(text, certificate.PEM(mine, other)...))
	if err != nil || len(certs) != 2 || !certs[0].Equal(mine) || !certs[1].Equal(other) || !key.Equal(got) {
		t.Errorf("%v, %v, %v", certs, got, err)
	}
	if _, _, err := certificate.Parse(append(text, certificate.PEM(other, mine)...)); err == nil {
		t.Error("another's key")
	}
	for _, damaged := range []string{"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"} {
		if _, _, err := certificate.Parse([]byte(damaged)); err == nil {
			t.Errorf("read %q", damaged)
		}
	}
}
