package servercert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxFileBytes bounds a file of certificates.
const maxFileBytes = 1 << 20

// Files is a certificate that somebody keeps in files. What renews it writes
// there; the server takes it up with the next connection.
type Files struct {
	certFile, keyFile string
	log               *slog.Logger

	mu   sync.Mutex
	seen [2]stamp // what was looked at last, usable or not
	cert *tls.Certificate
}

// stamp tells one content of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// OpenFiles reads a certificate with its chain, and its key, both PEM.
// Returns InvalidArgument.
func OpenFiles(certFile, keyFile string, log *slog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log}
	seen, err := f.stamps()
	if err == nil {
		f.cert, err = f.load()
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the certificate in %s cannot be used with the key in %s", certFile, keyFile)
	}
	f.seen = seen
	return f, nil
}

// GetCertificate gives the server's certificate (tls.Config.GetCertificate).
// Files that cannot be used, such as while they are being written, leave the
// one before in its place.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen, err := f.stamps()
	if err != nil || seen == f.seen {
		return f.cert, nil //nolint:nilerr // the one before is good
	}
	f.seen = seen
	cert, err := f.load()
	if err != nil {
		f.log.Warn("the new certificate cannot be used; the one before stays", "file", f.certFile, "reason", err)
		return f.cert, nil
	}
	f.cert = cert
	f.log.Info("the certificate was renewed", "file", f.certFile, "until", cert.Leaf.NotAfter)
	return cert, nil
}

// Covers reports whether the certificate is for a name.
func (f *Files) Covers(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cert.Leaf.VerifyHostname(name) == nil
}

func (f *Files) stamps() (s [2]stamp, err error) {
	for i, name := range []string{f.certFile, f.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[i] = stamp{info.ModTime(), info.Size(), inode(info)}
	}
	return s, nil
}

func (f *Files) load() (*tls.Certificate, error) {
	var text [2][]byte
	for i, name := range []string{f.certFile, f.keyFile} {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		text[i], err = readBounded(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
	cert, err := tls.X509KeyPair(text[0], text[1])
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &cert, nil
}

func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

func readBounded(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(r, maxFileBytes+1))
	if err == nil && n > maxFileBytes {
		err = errors.Plain("the file is too large")
	}
	return b.Bytes(), err
}
