package fleet

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/setting"
)

const (
	// WorkerLifetime is how long a worker's certificate is valid.
	WorkerLifetime = 90 * 24 * time.Hour

	authorityLifetime = 10 * 365 * 24 * time.Hour
	gatewayLifetime   = 24 * time.Hour
	gatewayRenewal    = gatewayLifetime / 2

	// maxFileBytes bounds a file with an authority or its key.
	maxFileBytes = 1 << 20
)

// SettingAuthority holds the built-in authority with its key, sealed.
const SettingAuthority = storage.SealedSettings + "fleet_authority"

// Authority signs who is a worker of an installation, and who a gateway. It is
// safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time

	mu      sync.Mutex
	gateway *tls.Certificate // this process's own
}

// Open gives an installation's own authority, which is made where there is none
// yet and is the same for all its gateways. now is the clock; nil: time.Now.
// Returns Internal where it cannot be read, and what the store and the sealer return.
func Open(ctx context.Context, store storage.Store, sealer seal.Sealer, now func() time.Time) (*Authority, error) {
	if now == nil {
		now = time.Now
	}
	text, err := setting.Once(ctx, store, sealer, SettingAuthority, func() ([]byte, error) { return newAuthority(now()) })
	if err != nil {
		return nil, err
	}
	a, err := parse(text, now)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the authority of gateways and workers cannot be read")
	}
	return a, nil
}

// newAuthority makes an authority that signs for gateways and workers alone.
func newAuthority(at time.Time) ([]byte, error) {
	cert, key, err := certificate.Issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "Aetherium gateways and workers"},
		NotBefore: at.Add(-certificate.ClockSkew), NotAfter: at.Add(authorityLifetime),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{names},
	}, nil, nil)
	if err != nil {
		return nil, failed(err)
	}
	text, err := certificate.KeyPEM(key)
	if err != nil {
		return nil, failed(err)
	}
	return append(certificate.PEM(cert), text...), nil
}

// Load reads an authority that somebody else has made: its certificate and its
// key (PKCS #8), both PEM. Returns InvalidArgument.
func Load(certFile, keyFile string, now func() time.Time) (*Authority, error) {
	if now == nil {
		now = time.Now
	}
	text, err := read(certFile)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, errors.New(errors.InvalidArgument, "the authority's key %s can be read by others", keyFile).WithHint("chmod 600 %s", keyFile)
	}
	key, err := read(keyFile)
	if err != nil {
		return nil, err
	}
	a, err := parse(slices.Concat(text, []byte("\n"), key), now)
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the authority in %s cannot be used with the key in %s", certFile, keyFile).
			WithHint("one certificate that may sign others, and its key in PKCS #8, both PEM")
	}
	return a, nil
}

func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxFileBytes {
		err = errors.Plain("the file is too large")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file) //nolint:gosec // the operator names it
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the file %s cannot be read", file)
	}
	return text, nil
}

func parse(text []byte, now func() time.Time) (*Authority, error) {
	certs, key, err := certificate.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case len(certs) != 1 || key == nil:
		return nil, errors.Plain("it is not one certificate and its key")
	case !certs[0].IsCA || certs[0].KeyUsage != 0 && certs[0].KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.Plain("the certificate may sign no others")
	}
	a := &Authority{cert: certs[0], key: key, now: now}
	// What it is not allowed to sign shows now, not when a worker joins.
	for _, c := range []*x509.Certificate{a.gatewayTemplate(), a.workerTemplate(domain.NewID())} {
		cert, err := certificate.Sign(c, key.Public(), a.cert, key)
		if err == nil {
			_, err = cert.Verify(x509.VerifyOptions{Roots: a.pool(), KeyUsages: c.ExtKeyUsage, CurrentTime: now()})
		}
		if err != nil {
			return nil, err
		}
	}
	return a, nil
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return certificate.PEM(a.cert) }

// Hash is the SHA-256 of the authority's certificate, by which who has a token knows it.
func (a *Authority) Hash() [sha256.Size]byte { return sha256.Sum256(a.cert.Raw) }

func (a *Authority) pool() *x509.CertPool { return pool(a.cert) }

func (a *Authority) template(name string, lifetime time.Duration, usage x509.ExtKeyUsage) *x509.Certificate {
	at := a.now()
	until := at.Add(lifetime)
	if until.After(a.cert.NotAfter) {
		until = a.cert.NotAfter
	}
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: at.Add(-certificate.ClockSkew), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true,
	}
}

func (a *Authority) gatewayTemplate() *x509.Certificate {
	return a.template(GatewayName, gatewayLifetime, x509.ExtKeyUsageClientAuth)
}

func (a *Authority) workerTemplate(id domain.ID) *x509.Certificate {
	return a.template(WorkerName(id), WorkerLifetime, x509.ExtKeyUsageServerAuth)
}

// sign makes a worker's certificate.
func (a *Authority) sign(worker domain.ID, public crypto.PublicKey) ([]byte, error) {
	if !a.now().Before(a.cert.NotAfter) {
		return nil, errors.New(errors.Internal, "the authority of gateways and workers has expired")
	}
	cert, err := certificate.Sign(a.workerTemplate(worker), public, a.cert, a.key)
	if err != nil {
		return nil, failed(err)
	}
	return certificate.PEM(cert), nil
}

// ClientTLS is for a gateway's connections to a worker: it takes nobody else, and
// shows the certificate of a gateway, which is made when it is first asked for,
// anew before it ends, and whose key is nowhere but in memory.
func (a *Authority) ClientTLS(worker domain.ID) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: a.pool(), ServerName: WorkerName(worker), Time: a.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.own() },
	}
}

func (a *Authority) own() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.gateway; c != nil && a.now().Add(gatewayRenewal).Before(c.Leaf.NotAfter) {
		return c, nil
	}
	cert, key, err := certificate.Issue(a.gatewayTemplate(), a.cert, a.key)
	if err != nil {
		return nil, failed(err)
	}
	a.gateway = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return a.gateway, nil
}

func failed(err error) error {
	return errors.Wrap(err, errors.Internal, "a certificate cannot be made")
}
