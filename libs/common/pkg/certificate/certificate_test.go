package certificate_test

import (
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
