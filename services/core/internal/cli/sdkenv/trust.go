package sdkenv

import (
	"bytes"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// The variables by which programs are told what to trust.
const (
	// NodeExtra names certificates beside those that Node.js brings.
	NodeExtra = "NODE_EXTRA_CA_CERTS"
	// CertFile names all that OpenSSL, Python's httpx, Go and others trust, in
	// the place of the host's own.
	CertFile = "SSL_CERT_FILE"
)

// SystemFiles are where hosts keep the certificates that they trust: Debian and
// Alpine, Fedora, SUSE, macOS and the BSDs.
func SystemFiles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
	}
}

// Trust writes the files that have programs trust a server's authority (PEM)
// beside all they trusted before: what their variables name now, else the first
// of the host's files that is there. alone tells that there was none.
func (d Dir) Trust(authority string, getenv func(string) string, system []string) (set []Variable, alone bool, err error) {
	own := certificates([]byte(authority))
	if len(own) == 0 {
		return nil, false, errors.New(errors.Internal, "the server has given no certificate to trust")
	}
	extra, _ := trusted(getenv(NodeExtra))
	if err := d.write(extraFile, bundle(extra, own)); err != nil {
		return nil, false, err
	}
	all, found := trusted(append([]string{getenv(CertFile)}, system...)...)
	if err := d.write(bundleFile, bundle(all, own)); err != nil {
		return nil, false, err
	}
	return []Variable{
		{NodeExtra, filepath.Join(d.path, extraFile)},
		{CertFile, filepath.Join(d.path, bundleFile)},
	}, !found, nil
}

// trusted gives the certificates of the first file that has any. Our own file,
// named by a variable that was set before, has what it was made from.
func trusted(files ...string) (certs [][]byte, found bool) {
	for _, name := range files {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
		_ = f.Close()
		if certs := certificates(text); err == nil && len(certs) > 0 {
			return certs, true
		}
	}
	return nil, false
}

// certificates gives the certificates in a text, and nothing else of it, such
// as a key.
func certificates(text []byte) (out [][]byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
	return out
}

func bundle(groups ...[][]byte) []byte {
	var b bytes.Buffer
	seen := map[string]bool{}
	for _, group := range groups {
		for _, der := range group {
			if !seen[string(der)] {
				seen[string(der)] = true
				b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
			}
		}
	}
	return b.Bytes()
}
