package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
)

const (
	// A certificate is renewed when a third of its time is left.
	renewal = fleet.WorkerLifetime / 3
	// How soon a renewal that failed is tried again, and how rarely.
	firstPause = time.Minute
	longPause  = time.Hour

	connectLimit = 5 * time.Second
)

// Gateway is what a worker asks of any gateway of its installation. [NewGateway]
// makes one.
type Gateway interface {
	JoinWorker(ctx context.Context, req api.JoinWorker) (api.WorkerCertificate, error)
	RenewWorker(ctx context.Context, id string, req api.RenewWorker) (api.WorkerCertificate, error)
}

// NewGateway reaches a gateway at the URL of its API. Whose certificate it shows
// does not matter: nothing that is sent is secret, all of it is signed, and what
// is answered is known by the installation's authority. Returns InvalidArgument.
func NewGateway(url string) (Gateway, error) {
	c, err := client.New(client.Options{URL: url, UserAgent: "aetherium-worker", Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: connectLimit}).DialContext,
		TLSHandshakeTimeout: connectLimit,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, //nolint:gosec // see above
		ForceAttemptHTTP2:   true,
		DisableKeepAlives:   true, // one request now, and the next in weeks
	}})
	if err != nil {
		return nil, err // and no interface around a nil pointer
	}
	return c, nil
}

// Joining is what a worker needs to join.
type Joining struct {
	Dir     string // where its identity is kept; it is made
	Gateway Gateway
	Token   string // text of a join token; not needed once the worker has joined
	Name    string // that the worker shall have
	Address string // host:port at which gateways reach it
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Join gives the worker's identity, and joins where it has none. It can be
// broken off at any point and done again with the same token: the key is on disk
// before it is asked for a certificate of, and whoever has it gets that again.
// Returns InvalidArgument, NotFound without token and identity, Gone for an
// identity that has expired, Conflict for one of another installation than the
// token's, PermissionDenied for an answer of another, and what
// [fleet.Service.Join] returns.
func Join(ctx context.Context, j Joining) (*Identity, error) {
	if j.Now == nil {
		j.Now = time.Now
	}
	id, err := Open(j.Dir, j.Now)
	if errors.HasCode(err, errors.NotFound) && j.Token != "" {
		return j.join(ctx)
	}
	if err != nil {
		return nil, err
	}
	if !j.Now().Before(id.Until()) {
		return nil, errors.New(errors.Gone, "the worker's certificate expired at %s", id.Until().Format(time.RFC3339)).
			WithHint("remove %s, and join by a token under another name", filepath.Join(j.Dir, File))
	}
	if j.Token == "" {
		return id, nil
	}
	token, err := fleet.ParseToken(j.Token)
	if err != nil {
		return nil, err
	}
	if token.Authority != id.AuthorityHash() {
		return nil, errors.New(errors.Conflict, "the worker belongs to another installation than the join token").
			WithHint("leave the token out, or give the worker another data directory")
	}
	return id, forget(j.Dir)
}

func (j Joining) join(ctx context.Context) (*Identity, error) {
	token, err := fleet.ParseToken(j.Token)
	if err != nil {
		return nil, err
	}
	key, err := pending(j.Dir)
	if err != nil {
		return nil, err
	}
	csr, err := request(key)
	if err != nil {
		return nil, err
	}
	r := token.Sign(csr, j.Name, j.Address)
	answer, err := j.Gateway.JoinWorker(ctx, api.JoinWorker{Token: r.Token, Signature: r.Signature, CSR: r.CSR, Name: r.Name, Address: r.Address})
	if err != nil {
		return nil, err
	}
	m, worker, err := accept(answer, token.Authority, key, j.Now())
	if err != nil {
		return nil, err
	}
	id := &Identity{dir: j.Dir, now: j.Now, worker: worker}
	if err := id.save(m); err != nil {
		return nil, err
	}
	return id, forget(j.Dir)
}

// accept checks what a gateway has answered.
func accept(answer api.WorkerCertificate, authority [sha256.Size]byte, key *ecdsa.PrivateKey, now time.Time) (*material, domain.ID, error) {
	worker, err := domain.ParseID(answer.WorkerID)
	if err != nil {
		return nil, "", err
	}
	c := fleet.Certificate{Worker: worker, PEM: []byte(answer.Certificate), Authority: []byte(answer.Authority)}
	leaf, signer, err := c.Check(authority, key.Public(), now)
	if err != nil {
		return nil, "", err
	}
	return newMaterial(leaf, signer, key), worker, nil
}

// pending gives the key to join with, which stays the same until that has succeeded.
func pending(dir string) (*ecdsa.PrivateKey, error) {
	file := filepath.Join(dir, pendingFile)
	text, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		if text, err = certificate.KeyPEM(key); err != nil {
			return nil, errors.Wrap(err, errors.Internal, "the worker's key cannot be written")
		}
		return key, write(dir, pendingFile, text)
	}
	if err != nil {
		return nil, err
	}
	_, signer, err := certificate.Parse(text)
	key, ok := signer.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.Wrap(err, errors.Internal, "the worker's key %s is damaged", file).WithHint("remove it, and join by another token")
	}
	return key, nil
}

// forget removes the key of who was about to join.
func forget(dir string) error {
	if err := os.Remove(filepath.Join(dir, pendingFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Wrap(err, errors.Internal, "what is left of joining cannot be removed")
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "a key cannot be made")
	}
	return key, nil
}

// request is what a certificate of a key is asked for with.
func request(key *ecdsa.PrivateKey) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "a certificate cannot be asked for")
	}
	return csr, nil
}

// Renew gets the worker a certificate of a new key, which its server shows from
// the next connection on. Returns what [fleet.Service.Renew] returns, and
// PermissionDenied for an answer of another installation.
func (id *Identity) Renew(ctx context.Context, g Gateway) error {
	old := id.current.Load()
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	r, err := fleet.Renewal(csr, old.leaf, old.key)
	if err != nil {
		return err
	}
	answer, err := g.RenewWorker(ctx, id.worker.String(), api.RenewWorker{CSR: r.CSR, Certificate: r.Certificate, Signature: r.Signature})
	if err != nil {
		return err
	}
	m, worker, err := accept(answer, id.AuthorityHash(), key, id.now())
	if err != nil {
		return err
	}
	if worker != id.worker {
		return errors.New(errors.PermissionDenied, "the certificate is another worker's")
	}
	return id.save(m)
}

// Keep renews the worker's certificate whenever a third of its time is left,
// until ctx ends. What fails is told, and tried again.
func (id *Identity) Keep(ctx context.Context, g Gateway, log *slog.Logger) {
	for pause := firstPause; ; {
		wait := min(id.Until().Add(-renewal).Sub(id.now()), longPause) // clocks are set
		if wait <= 0 {
			err := id.Renew(ctx, g)
			switch {
			case err == nil:
				log.Info("the worker's certificate was renewed", "until", id.Until())
				wait, pause = longPause, firstPause // also where the authority itself ends soon
			case ctx.Err() == nil:
				log.Error("the worker's certificate cannot be renewed", "until", id.Until(), "again_in", pause, "error", err)
				fallthrough
			default:
				wait, pause = pause, min(2*pause, longPause)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
