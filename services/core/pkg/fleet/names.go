package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// names is what all names in certificates are below. Nobody can have it in the
// DNS (ICANN keeps internal for private use).
const names = "aetherium.internal"

// GatewayName is in the certificates of gateways.
const GatewayName = "gateway." + names

const ofWorkers = ".worker." + names

// WorkerName is in the certificate of a worker.
func WorkerName(id domain.ID) string { return id.String() + ofWorkers }

// WorkerOf tells whose certificate one is. Returns InvalidArgument.
func WorkerOf(cert *x509.Certificate) (domain.ID, error) {
	if len(cert.DNSNames) == 1 {
		if id, ok := strings.CutSuffix(cert.DNSNames[0], ofWorkers); ok && domain.IsID(id) {
			return domain.ID(id), nil
		}
	}
	return "", errors.New(errors.InvalidArgument, "it is not the certificate of a worker")
}

// ServerTLS is for a worker's server: only gateways may speak to it, those that
// an authority has signed. own gives the worker's certificate; now is the clock.
func ServerTLS(authority *x509.Certificate, own func() *tls.Certificate, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: now, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool(authority),
		// Who comes again is looked at again.
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own(), nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			// An authority that was given may sign for others' clients as well.
			if err := s.PeerCertificates[0].VerifyHostname(GatewayName); err != nil {
				return errors.Wrap(err, errors.PermissionDenied, "it is not a gateway")
			}
			return nil
		},
	}
}

func pool(cert *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(cert)
	return p
}
