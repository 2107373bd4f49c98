// Package certificate issues X.509 certificates, each for a key of its own.
package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"time"
)

// ClockSkew is how far the clock of who checks a certificate may be behind.
const ClockSkew = time.Hour

// serialBits is within the 20 octets of RFC 5280 §4.1.2.2, and positive.
const serialBits = 127

// Issue makes a key (P-256) and a certificate of it as a template says. An
// authority signs it with its own key; without one it is an authority's own,
// signed with its key. template is changed.
func Issue(template, authority *x509.Certificate, signer crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if authority == nil {
		authority, signer = template, key
	}
	cert, err := Sign(template, key.Public(), authority, signer)
	return cert, key, err
}

// Sign makes a certificate of somebody's public key as a template says, with a
// random serial number, signed by an authority. template is changed.
func Sign(template *x509.Certificate, public crypto.PublicKey, authority *x509.Certificate, signer crypto.Signer) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
