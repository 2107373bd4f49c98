package auth

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// EnsureKeyFile gives the key kept in a file, minting it where there is no
// file yet. The file is written whole or not at all, readable by its owner
// only. The caller stores the key's hash and logs the path, never the key.
// Returns PermissionDenied when others can read the file.
func EnsureKeyFile(path string) (text string, minted bool, err error) {
	text, err = readKeyFile(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return text, false, err
	}
	text, _ = MintKey()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // 0600 by CreateTemp's contract
	if err != nil {
		return "", false, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(text + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", false, err
	}
	// A link, unlike a rename, does not replace a key that another process made meanwhile.
	if err = os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		text, err = readKeyFile(path)
		return text, false, err
	}
	return text, err == nil, err
}

func readKeyFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", errors.New(errors.PermissionDenied, "the key file can be read by others").WithHint("chmod 600 %s", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(raw))
	if !LooksLikeKey(text) {
		return "", errors.New(errors.InvalidArgument, "the key file holds no key").WithHint("remove %s to have a new key made", path)
	}
	return text, nil
}
