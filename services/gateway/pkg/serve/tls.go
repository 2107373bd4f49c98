package serve

import (
	"crypto/tls"
	"log/slog"

	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/gateway/pkg/servercert"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// openTLS gives what TLS is served with, and the certificates (PEM) that clients
// have to trust for it: none where the certificate is somebody's own.
func openTLS(s settings.Front, dir string, in *installation.Installation, log *slog.Logger) (*tls.Config, []byte, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if s.TLS.CertFile != "" {
		files, err := servercert.OpenFiles(s.TLS.CertFile, s.TLS.KeyFile, log)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range []string{"preview." + s.Listen.PreviewDomain, "api." + s.Listen.PreviewDomain} {
			if !files.Covers(name) {
				log.Warn("the certificate is not for every name that is served", "file", s.TLS.CertFile, "name", name)
			}
		}
		c.GetCertificate = files.GetCertificate
		return c, nil, nil
	}
	authority, made, err := servercert.Open(dir, s.Listen.PreviewDomain, in.ID, in.Now)
	if err != nil {
		return nil, nil, err
	}
	if made {
		log.Info("a certificate authority was made; clients have to be given its certificate", "dir", dir, "domain", s.Listen.PreviewDomain)
	}
	c.GetCertificate = authority.GetCertificate
	return c, authority.PEM(), nil
}
