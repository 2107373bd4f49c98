package certificate

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// PEM is certificates as text.
func PEM(certs ...*x509.Certificate) (text []byte) {
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})...)
	}
	return text
}

// KeyPEM is a private key as text.
func KeyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// Parse reads what [PEM] and [KeyPEM] write, in any order; other blocks are passed over.
// A key, if there is one, is checked to be the first certificate's, if there is one.
func Parse(text []byte) (certs []*x509.Certificate, key crypto.Signer, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case certificateBlock:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, cert)
		case keyBlock:
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			key, _ = parsed.(crypto.Signer)
		}
	}
	if key != nil && len(certs) > 0 && !Belongs(key.Public(), certs[0]) {
		return nil, nil, errors.Plain("the key is another certificate's")
	}
	return certs, key, nil
}

// Belongs reports whether a public key is a certificate's.
func Belongs(key crypto.PublicKey, cert *x509.Certificate) bool {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key)
}
