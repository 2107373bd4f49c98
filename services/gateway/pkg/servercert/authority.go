package servercert

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// authorityLifetime is long: whoever trusts an authority has to be told of the next one.
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// authorityRenewal is how long before its end an authority is replaced.
	authorityRenewal = 365 * 24 * time.Hour
	leafLifetime     = 30 * 24 * time.Hour
	leafRenewal      = leafLifetime / 3
)

// Authority signs certificates for one domain and this host, and nothing else:
// its own certificate says so (RFC 5280 §4.2.1.10), so that whoever trusts it
// trusts it with no other name, even should its key be stolen.
type Authority struct {
	domain string
	cert   *x509.Certificate
	key    crypto.Signer
	now    func() time.Time

	mu     sync.Mutex
	leaves map[bool]*tls.Certificate // for clients that name a server, and for those that don't
}

// newAuthority makes an authority. owner tells it from others in a list.
func newAuthority(domain, owner string, now func() time.Time) (*Authority, error) {
	at := now()
	cert, key, err := certificate.Issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "Aetherium, for " + cut(domain), Organization: []string{"Aetherium " + owner}},
		NotBefore: at.Add(-certificate.ClockSkew), NotAfter: at.Add(authorityLifetime),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{domain, localhost}, PermittedIPRanges: loopback(),
	}, nil, nil)
	if err != nil {
		return nil, failed(err)
	}
	return &Authority{domain: domain, cert: cert, key: key, now: now, leaves: map[bool]*tls.Certificate{}}, nil
}

// parse reads an authority as marshal writes it.
func parse(text []byte, domain string, now func() time.Time) (*Authority, error) {
	a := &Authority{domain: domain, now: now, leaves: map[bool]*tls.Certificate{}}
	certs, key, err := certificate.Parse(text)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 || key == nil || !certs[0].IsCA {
		return nil, errors.Plain("it is not a certificate authority and its key")
	}
	a.cert, a.key = certs[0], key
	return a, nil
}

// marshal writes certificate and key into one text, so that one is never
// found without the other.
func (a *Authority) marshal() ([]byte, error) {
	key, err := certificate.KeyPEM(a.key)
	if err != nil {
		return nil, failed(err)
	}
	return slices.Concat(a.PEM(), key), nil
}

// serves reports whether the authority is good for its domain, and for long enough.
func (a *Authority) serves() bool {
	return slices.Equal(a.cert.PermittedDNSDomains, []string{a.domain, localhost}) && a.now().Add(authorityRenewal).Before(a.cert.NotAfter)
}

// PEM is the authority's certificate, for clients to trust.
func (a *Authority) PEM() []byte {
	return certificate.PEM(a.cert)
}

// GetCertificate gives the server's certificate (tls.Config.GetCertificate):
// made when it is first asked for, and anew before it ends. Its key is nowhere
// but in memory. Only who names no server, as it is with addresses (RFC 6066
// §3), gets one for addresses: BoringSSL, and so Bun and Electron, takes none
// that has any where its authority is constrained to some.
func (a *Authority) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	named := hello != nil && hello.ServerName != ""
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[named]; c != nil && a.now().Add(leafRenewal).Before(c.Leaf.NotAfter) {
		return c, nil
	}
	var ips []net.IP
	if !named {
		ips = addresses()
	}
	c, err := a.issue(ips)
	if err != nil {
		return nil, err
	}
	a.leaves[named] = c
	return c, nil
}

func (a *Authority) issue(ips []net.IP) (*tls.Certificate, error) {
	at := a.now()
	leaf, key, err := certificate.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: cut(a.domain)}, DNSNames: dnsNames(a.domain), IPAddresses: ips,
		NotBefore: at.Add(-certificate.ClockSkew), NotAfter: at.Add(leafLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, a.cert, a.key)
	if err != nil {
		return nil, failed(err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func failed(err error) error {
	return errors.Wrap(err, errors.Internal, "a certificate cannot be made")
}

// cut keeps a common name within its bound of 64 (RFC 5280, ub-common-name).
func cut(name string) string { return name[:min(len(name), 40)] }
