package proxy

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
)

const (
	leafLifetime = 24 * time.Hour
	leafRenewal  = time.Hour // before its end
	maxLeaves    = 1024
)

// Minter makes certificates for hosts that secrets are bound to.
type Minter struct {
	ca  *x509.Certificate
	key crypto.Signer

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// NewMinter reads an authority. Returns InvalidArgument.
func NewMinter(ca egress.CA) (*Minter, error) {
	bad := func(err error) (*Minter, error) {
		return nil, errors.Wrap(err, errors.InvalidArgument, "this is no certificate authority")
	}
	cert, _ := pem.Decode(ca.Certificate)
	key, _ := pem.Decode(ca.Key)
	if cert == nil || key == nil {
		return bad(errors.Plain("there is no PEM block"))
	}
	m := &Minter{leaves: map[string]*tls.Certificate{}}
	var err error
	if m.ca, err = x509.ParseCertificate(cert.Bytes); err != nil {
		return bad(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		return bad(err)
	}
	var ok bool
	if m.key, ok = private.(crypto.Signer); !ok || !m.ca.IsCA {
		return bad(errors.Plain("it cannot sign"))
	}
	return m, nil
}

// config is how a connection for a name is ended here.
func (m *Minter) config(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.Leaf(name) },
	}
}

// Leaf gives a certificate for a name.
func (m *Minter) Leaf(name string) (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if c := m.leaves[name]; c != nil && now.Before(c.Leaf.NotAfter.Add(-leafRenewal)) {
		return c, nil
	}
	leaf, key, err := certificate.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: cut(name)}, DNSNames: []string{name},
		NotBefore: now.Add(-certificate.ClockSkew), NotAfter: now.Add(leafLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}, m.ca, m.key)
	if err != nil {
		return nil, err
	}
	if len(m.leaves) >= maxLeaves {
		clear(m.leaves)
	}
	c := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	m.leaves[name] = c
	return c, nil
}

// cut keeps a common name within its bound (RFC 5280, ub-common-name).
func cut(name string) string { return name[:min(len(name), 64)] }
