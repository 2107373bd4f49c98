package servercert

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/certificate"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// secretFile has the authority with its key, and is its owner's only.
	secretFile = "authority.pem"
	// PublicFile has the authority's certificate alone.
	PublicFile = "ca.pem"
)

// Open gives the authority for a domain that is kept in a directory. One is
// made where there is none, where the one that is kept is for another domain,
// and where it ends within a year; made tells, as clients then have to be given
// the new certificate. One process at a time may open a directory. Returns
// PermissionDenied where others can read the key, Internal where it is damaged.
func Open(dir, domain, owner string, now func() time.Time) (a *Authority, made bool, err error) {
	if now == nil {
		now = time.Now
	}
	file := filepath.Join(dir, secretFile)
	a, err = read(file, domain, now)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !a.serves():
		if a, err = newAuthority(domain, owner, now); err != nil {
			return nil, false, err
		}
		text, err := a.marshal()
		if err != nil {
			return nil, false, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the certificate is for every user of the host
			return nil, false, unwritable(dir, err)
		}
		if err := certificate.WriteFile(file, text, 0o600); err != nil {
			return nil, false, unwritable(file, err)
		}
		made = true
	case err != nil:
		return nil, false, err
	}
	public := filepath.Join(dir, PublicFile)
	if kept, err := os.ReadFile(public); err != nil || !bytes.Equal(kept, a.PEM()) {
		if err := certificate.WriteFile(public, a.PEM(), 0o644); err != nil {
			return nil, false, unwritable(public, err)
		}
	}
	return a, made, nil
}

func read(file, domain string, now func() time.Time) (*Authority, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, errors.New(errors.PermissionDenied, "the certificate authority's key can be read by others").WithHint("chmod 600 %s", file)
	}
	text, err := readBounded(f)
	if err != nil {
		return nil, err
	}
	a, err := parse(text, domain, now)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the certificate authority cannot be read").
			WithHint("remove %s to have a new one made, which clients have to be given", file)
	}
	return a, nil
}

func unwritable(file string, err error) error {
	return errors.Wrap(err, errors.Internal, "the certificate authority cannot be kept in %s", file)
}
