package sdkenv

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	keyFile    = "key"
	extraFile  = "ca.pem"     // the server's authority, beside what was trusted in addition before
	bundleFile = "bundle.pem" // the same, beside all that this host trusts

	maxFileBytes = 16 << 20
)

var keyForm = regexp.MustCompile(`^e2b_[0-9a-f]{40}$`)

// IsKey reports whether a key has the form that E2B's SDKs want.
func IsKey(text string) bool { return keyForm.MatchString(text) }

// Dir is what is kept for one server and user of it: the user's only.
type Dir struct{ path string }

// OpenDir gives the directory below a user's configuration for what the parts
// tell from others. Returns PermissionDenied, Internal.
func OpenDir(config string, parts ...string) (Dir, error) {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	d := Dir{filepath.Join(config, "aetherium", "e2b", hex.EncodeToString(sum[:8]))}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return d, unkept(d.path, err)
	}
	return d, nil
}

// Key is the key that is kept; empty where none is, or nothing of a key's form.
// Returns PermissionDenied where others can read it.
func (d Dir) Key() (string, error) {
	name := filepath.Join(d.path, keyFile)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", unkept(name, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", unkept(name, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", errors.New(errors.PermissionDenied, "the key file %s can be read by others", name).
			WithHint("revoke the key (aetherium key ls), and remove the file")
	}
	raw, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return "", unkept(name, err)
	}
	if text := strings.TrimSpace(string(raw)); IsKey(text) {
		return text, nil
	}
	return "", nil
}

// KeepKey keeps a key in the place of the one before.
func (d Dir) KeepKey(text string) error { return d.write(keyFile, []byte(text+"\n")) }

// write makes a file anew, whole or not at all.
func (d Dir) write(name string, text []byte) error {
	path := filepath.Join(d.path, name)
	tmp, err := os.CreateTemp(d.path, "."+name+"-*") // 0600 by CreateTemp's contract
	if err != nil {
		return unkept(path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return unkept(path, err)
	}
	return nil
}

func unkept(path string, err error) error {
	code := errors.Internal
	if errors.Is(err, fs.ErrPermission) {
		code = errors.PermissionDenied
	}
	return errors.Wrap(err, code, "%s cannot be used", path).WithHint("another directory can be given by XDG_CONFIG_HOME")
}
