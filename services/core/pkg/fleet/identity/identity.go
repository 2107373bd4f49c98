// Package identity is a worker's side of joining an installation: who it is, in
// its data directory, and how that stays valid.
package identity

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/fleet"
)

const (
	// File has a worker's certificate, its authority's and its key in one, so that
	// none is ever found without the others.
	File = "worker.pem"
	// pendingFile has the key of who has asked to join and does not know yet.
	pendingFile = "worker-joining.pem"

	maxFileBytes = 64 << 10
)

// Identity is who a worker is. It is safe for concurrent use.
type Identity struct {
	dir     string
	now     func() time.Time
	worker  domain.ID
	current atomic.Pointer[material]
}

// material is what is renewed together.
type material struct {
	leaf, authority *x509.Certificate
	key             *ecdsa.PrivateKey
	tls             *tls.Certificate
}

func newMaterial(leaf, authority *x509.Certificate, key *ecdsa.PrivateKey) *material {
	return &material{leaf, authority, key, &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}}
}

// Open gives the identity that is kept in a directory. now is the clock; nil:
// time.Now. Returns NotFound where there is none, PermissionDenied where others
// can read it, Internal where it is damaged.
func Open(dir string, now func() time.Time) (*Identity, error) {
	if now == nil {
		now = time.Now
	}
	file := filepath.Join(dir, File)
	text, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New(errors.NotFound, "this worker has not joined an installation").WithHint("give it a join token")
	}
	if err != nil {
		return nil, err
	}
	damaged := func(err error) (*Identity, error) {
		return nil, errors.Wrap(err, errors.Internal, "the worker's identity %s is damaged", file).WithHint("remove it and join again by a token")
	}
	certs, signer, err := certificate.Parse(text)
	if err != nil {
		return damaged(err)
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || len(certs) != 2 {
		return damaged(errors.Plain("it is not two certificates and a key"))
	}
	worker, err := fleet.WorkerOf(certs[0])
	if err != nil {
		return damaged(err)
	}
	id := &Identity{dir: dir, now: now, worker: worker}
	id.current.Store(newMaterial(certs[0], certs[1], key))
	return id, nil
}

// read gives a file that nobody else can read.
func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err == nil && info.Mode().Perm()&0o077 != 0:
		return nil, errors.New(errors.PermissionDenied, "the worker's key can be read by others").WithHint("chmod 600 %s", file)
	case err == nil && info.Size() > maxFileBytes:
		err = errors.Plain("the file is too large")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file) //nolint:gosec // in the worker's own directory
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the worker's identity cannot be read from %s", file)
	}
	return text, nil
}

// save makes what there is the worker's identity, on disk and then in memory.
func (id *Identity) save(m *material) error {
	text, err := certificate.KeyPEM(m.key)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the worker's key cannot be written")
	}
	if err := write(id.dir, File, append(certificate.PEM(m.leaf, m.authority), text...)); err != nil {
		return err
	}
	id.current.Store(m)
	return nil
}

func write(dir, name string, text []byte) error {
	file := filepath.Join(dir, name)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = certificate.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the worker's identity cannot be kept in %s", file)
	}
	return nil
}

// WorkerID is the worker's ID in the installation.
func (id *Identity) WorkerID() domain.ID { return id.worker }

// Until is when the worker's certificate ends.
func (id *Identity) Until() time.Time { return id.current.Load().leaf.NotAfter }

// AuthorityHash is the SHA-256 of the certificate of who signs for the installation.
func (id *Identity) AuthorityHash() [sha256.Size]byte {
	return sha256.Sum256(id.current.Load().authority.Raw)
}

// ServerTLS is for the worker's server: only gateways of its installation may
// speak to it. It shows the certificate that there is at the time.
func (id *Identity) ServerTLS() *tls.Config {
	return fleet.ServerTLS(id.current.Load().authority, func() *tls.Certificate { return id.current.Load().tls }, id.now)
}
