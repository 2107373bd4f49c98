package egress

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// caLifetime is how long an authority's certificate is valid: longer than an
// installation is likely to live, as VMs' disks keep it.
const caLifetime = 10 * 365 * 24 * time.Hour

// NewCA makes an authority for one installation. Its certificates are for
// servers only, and it makes no further authorities (RFC 5280 §4.2.1.9).
func NewCA(installation string, now time.Time) (*CA, error) {
	failed := func(err error) (*CA, error) {
		return nil, errors.Wrap(err, errors.Internal, "a certificate authority cannot be made")
	}
	cert, key, err := certificate.Issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "Aetherium egress proxy", Organization: []string{"Aetherium " + installation}},
		NotBefore: now.Add(-certificate.ClockSkew), NotAfter: now.Add(caLifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, nil, nil)
	if err != nil {
		return failed(err)
	}
	text, err := certificate.KeyPEM(key)
	if err != nil {
		return failed(err)
	}
	return &CA{Certificate: certificate.PEM(cert), Key: text}, nil
}
