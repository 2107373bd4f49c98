package app

import (
	"crypto/tls"

	"github.com/aetherium/aetherium/services/gateway/pkg/servercert"
)

// openTLS gives what TLS is served with, and the certificates (PEM) that clients
// have to trust for it: none where the certificate is somebody's own.
func (n *node) openTLS() (*tls.Config, []byte, error) {
	s := n.settings
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if s.TLS.CertFile != "" {
		files, err := servercert.OpenFiles(s.TLS.CertFile, s.TLS.KeyFile, n.log)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range []string{"preview." + s.Listen.PreviewDomain, "api." + s.Listen.PreviewDomain} {
			if !files.Covers(name) {
				n.log.Warn("the certificate is not for every name that is served", "file", s.TLS.CertFile, "name", name)
			}
		}
		c.GetCertificate = files.GetCertificate
		return c, nil, nil
	}
	authority, made, err := servercert.Open(s.TLSDir(), s.Listen.PreviewDomain, n.instance, now)
	if err != nil {
		return nil, nil, err
	}
	if made {
		n.log.Info("a certificate authority was made; clients have to be given its certificate", "dir", s.TLSDir(), "domain", s.Listen.PreviewDomain)
	}
	c.GetCertificate = authority.GetCertificate
	return c, authority.PEM(), nil
}
