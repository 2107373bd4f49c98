package fleet

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// maxHost bounds a host's name (RFC 1035 §2.3.4).
const maxHost = 253

// JoinRequest is what a worker asks that wants to join. [Token.Sign] makes one.
type JoinRequest struct {
	Token     ed25519.PublicKey // that belongs to the token's secret
	Signature []byte            // by that secret, over all the rest
	CSR       []byte            // PKCS #10 (RFC 2986), DER; all that counts of it is its key
	Name      string            // that the worker shall have
	Address   string            // host:port of its node link
}

// RenewRequest is what a worker asks whose certificate ends soon. [Renewal] makes one.
type RenewRequest struct {
	CSR         []byte // PKCS #10, DER, of another key
	Certificate []byte // DER, that the worker has
	Signature   []byte // by the key of that, over the CSR (ECDSA, ASN.1)
}

// Certificate is who a worker is.
type Certificate struct {
	Worker    domain.ID
	PEM       []byte
	Authority []byte // PEM
}

func hashOf(t Token) [sha256.Size]byte {
	public, _ := t.key.Public().(ed25519.PublicKey)
	return sha256.Sum256(public)
}

// Admitted is called once it is known that who asks may, and before anything is
// done: its error ends the request. nil: nothing is.
type Admitted func() error

func (f Admitted) call() error {
	if f == nil {
		return nil
	}
	return f()
}

// Join makes a worker of who has a join token. Whoever has it asks again with
// the same key gets a certificate of the same worker again: the answer may have
// been lost. Nothing that is compared is secret. Returns InvalidArgument,
// Unauthenticated for a token that there is not, Gone for one that has expired or
// whose worker was removed, Conflict for one that somebody else has used,
// AlreadyExists for the name.
func (s *Service) Join(ctx context.Context, r JoinRequest, admitted Admitted) (Certificate, error) {
	public, hash, err := s.checkJoin(r)
	if err != nil {
		return Certificate{}, err
	}
	// Who has no token has no turn among those who write.
	if err = s.Store.View(ctx, func(tx storage.Tx) error { _, err := tokenOf(ctx, tx, r); return err }); err == nil {
		err = admitted.call()
	}
	if err != nil {
		return Certificate{}, err
	}
	var id domain.ID
	err = s.Store.Update(ctx, func(tx storage.Tx) error {
		token, err := tokenOf(ctx, tx, r)
		if err != nil {
			return err
		}
		now := s.time()
		switch {
		case token.UsedAt != nil:
			id = token.WorkerID
			return again(ctx, tx, token, hash)
		case !now.Before(token.ExpiresAt):
			return errors.New(errors.Gone, "the join token expired at %s", token.ExpiresAt.Format(time.RFC3339)).
				WithHint("`aetherium worker token create` makes another")
		}
		w := &domain.Worker{
			ID: domain.NewID(), Name: r.Name, Address: r.Address, Drivers: []domain.DriverInfo{},
			State: domain.WorkerAway, SeenAt: now, JoinedAt: now, // until it says that it is there
		}
		id = w.ID
		err = tx.Workers().Insert(ctx, w)
		if errors.HasCode(err, errors.AlreadyExists) {
			return errors.Public(err).WithField("name").WithHint("give this one another name")
		}
		if err != nil {
			return err
		}
		return tx.JoinTokens().Use(ctx, token.ID, id, hash, now)
	})
	if err != nil {
		return Certificate{}, err
	}
	return s.certify(id, public)
}

// tokenOf finds the token that a request was signed by. Returns Unauthenticated.
func tokenOf(ctx context.Context, tx storage.Tx, r JoinRequest) (*domain.JoinToken, error) {
	token, err := tx.JoinTokens().ByHash(ctx, sha256.Sum256(r.Token))
	if errors.HasCode(err, errors.NotFound) {
		return nil, errors.New(errors.Unauthenticated, "there is no such join token").
			WithHint("it is another installation's, or was revoked; `aetherium worker token create` makes one")
	}
	return token, err
}

// again is for a token that was used: its worker may ask again.
func again(ctx context.Context, tx storage.Tx, token *domain.JoinToken, key [sha256.Size]byte) error {
	if token.KeyHash != key {
		return errors.New(errors.Conflict, "the join token was used at %s, by the worker %s", token.UsedAt.Format(time.RFC3339), token.WorkerID).
			WithHint("each worker needs its own; `aetherium worker token create` makes another")
	}
	_, err := storage.Member(ctx, tx, token.WorkerID)
	return removed(err)
}

// removed tells that a worker is gone, which is not there.
func removed(err error) error {
	if errors.HasCode(err, errors.NotFound) {
		return errors.New(errors.Gone, "the worker was removed from the installation").
			WithHint("to join again it needs a new token, and its old identity out of the way")
	}
	return err
}

// checkJoin checks what needs no look into the store: all that is asked was signed by who has the token.
func (s *Service) checkJoin(r JoinRequest) (public *ecdsa.PublicKey, hash [sha256.Size]byte, err error) {
	switch {
	case len(r.Token) != ed25519.PublicKeySize:
		return nil, hash, errors.New(errors.InvalidArgument, "the token's public key has %d bytes, not %d", len(r.Token), ed25519.PublicKeySize).WithField("token")
	case !ed25519.Verify(r.Token, r.signed(), r.Signature):
		return nil, hash, errors.New(errors.Unauthenticated, "the request was not signed by the join token").WithField("signature")
	case r.Name == "":
		return nil, hash, errors.New(errors.InvalidArgument, "a worker needs a name").WithField("name")
	}
	if err := domain.ValidateName("name", r.Name); err != nil {
		return nil, hash, err
	}
	if err := ValidateAddress("address", r.Address); err != nil {
		return nil, hash, err
	}
	return keyOf(r.CSR)
}

// keyOf reads a certificate signing request, whose sender has its key.
// Returns InvalidArgument.
func keyOf(csr []byte) (public *ecdsa.PublicKey, hash [sha256.Size]byte, err error) {
	refuse := func(err error) (*ecdsa.PublicKey, [sha256.Size]byte, error) {
		return nil, hash, errors.Wrap(err, errors.InvalidArgument, "the certificate signing request cannot be used").
			WithField("csr").WithHint("PKCS #10 of a P-256 key, signed by it")
	}
	parsed, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = parsed.CheckSignature()
	}
	if err != nil {
		return refuse(err)
	}
	public, ok := parsed.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return refuse(errors.Plain("it is of another kind of key"))
	}
	return public, sha256.Sum256(parsed.RawSubjectPublicKeyInfo), nil
}

// ValidateAddress checks where a worker says that it is reached: a host that is
// not every address, and a port. Returns InvalidArgument.
func ValidateAddress(field, address string) error {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	bad := err != nil || perr != nil || n == 0 || host == "" || len(host) > maxHost
	for i := 0; !bad && i < len(host); i++ {
		bad = host[i] <= ' ' || host[i] > '~' || host[i] == '/' || host[i] == '@'
	}
	if a, err := netip.ParseAddr(host); err == nil && (a.IsUnspecified() || a.IsMulticast()) {
		bad = true
	}
	if bad {
		return errors.New(errors.InvalidArgument, "it is not an address at which gateways reach the worker").
			WithField(field).WithHint("host:port, as in node-1.example.com:7400 or [2001:db8::1]:7400")
	}
	return nil
}

// Renewal makes a request for a certificate of another key, by who has the
// certificate that ends and its key.
func Renewal(csr []byte, cert *x509.Certificate, key crypto.Signer) (RenewRequest, error) {
	digest := renewed(csr)
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return RenewRequest{}, failed(err)
	}
	return RenewRequest{CSR: csr, Certificate: cert.Raw, Signature: signature}, nil
}

func renewed(csr []byte) [sha256.Size]byte {
	return sha256.Sum256(message("aetherium: a worker's certificate is renewed", csr))
}

// Renew gives a worker a certificate of another key. Returns InvalidArgument,
// Unauthenticated for who does not have a valid certificate of that worker and
// its key, Gone for a worker that was removed.
func (s *Service) Renew(ctx context.Context, worker domain.ID, r RenewRequest, admitted Admitted) (Certificate, error) {
	public, _, err := keyOf(r.CSR)
	if err != nil {
		return Certificate{}, err
	}
	if err := s.checkRenewal(worker, r); err != nil {
		return Certificate{}, err
	}
	if err := admitted.call(); err != nil {
		return Certificate{}, err
	}
	err = s.Store.View(ctx, func(tx storage.Tx) error {
		_, err := storage.Member(ctx, tx, worker)
		return removed(err)
	})
	if err != nil {
		return Certificate{}, err
	}
	return s.certify(worker, public)
}

func (s *Service) checkRenewal(worker domain.ID, r RenewRequest) error {
	refuse := func(err error) error {
		return errors.Wrap(err, errors.Unauthenticated, "the certificate is not a valid one of this worker, or its key did not sign the request").
			WithHint("a worker whose certificate has expired joins again, by a token and under another name")
	}
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "the certificate cannot be read").WithField("certificate")
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: s.Authority.pool(), DNSName: WorkerName(worker), CurrentTime: s.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return refuse(err)
	}
	digest := renewed(r.CSR)
	if old, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !ecdsa.VerifyASN1(old, digest[:], r.Signature) {
		return refuse(errors.Plain("the signature is not by the certificate's key"))
	}
	return nil
}

func (s *Service) certify(worker domain.ID, public *ecdsa.PublicKey) (Certificate, error) {
	text, err := s.Authority.sign(worker, public)
	return Certificate{Worker: worker, PEM: text, Authority: s.Authority.PEM()}, err
}

// Check reads a certificate that was answered with, by the hash of the authority
// that has to have signed it. It must be of a key. Returns PermissionDenied for
// what somebody else has answered.
func (c Certificate) Check(authority [sha256.Size]byte, public crypto.PublicKey, now time.Time) (leaf, signer *x509.Certificate, err error) {
	refuse := func(err error) (*x509.Certificate, *x509.Certificate, error) {
		return nil, nil, errors.Wrap(err, errors.PermissionDenied, "who answered is not the installation that the worker belongs to").
			WithHint("is the URL that of its gateway, and does nobody sit in between?")
	}
	certs, _, err := certificate.Parse(append(append([]byte{}, c.PEM...), c.Authority...))
	if err != nil || len(certs) != 2 {
		return refuse(err)
	}
	leaf, signer = certs[0], certs[1]
	if sha256.Sum256(signer.Raw) != authority {
		return refuse(errors.Plain("the authority is another"))
	}
	if !certificate.Belongs(public, leaf) {
		return refuse(errors.Plain("the certificate is of another key"))
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: pool(signer), DNSName: WorkerName(c.Worker), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return refuse(err)
	}
	return leaf, signer, nil
}
