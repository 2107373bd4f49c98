package seal

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxFile bounds a key file; a key has 65 bytes.
const maxFile = 64 << 10

// LoadFile reads keys from a file: one key a line, 64 hexadecimal digits,
// newest first. A file that is absent is made with a new key and mode 0600.
// A file that others can read is refused.
func LoadFile(path string) (*Keys, error) {
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		// A link never replaces: of two starts at once, one key wins.
		if err := writeFile(path, NewKey()+"\n", os.Link); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// AddToFile puts a new key in front of those that a file has, and returns all.
// Whoever calls it sees to it that nobody else changes the file meanwhile.
func AddToFile(path string) (*Keys, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if _, err := Parse(text); err != nil {
		return nil, err
	}
	if err := rewriteFile(path, NewKey()+"\n"+text); err != nil {
		return nil, err
	}
	return LoadFile(path)
}

// RemoveFromFile takes a key out of a file; a file without keys goes. What the
// key has wrapped does not open any more. Returns NotFound.
func RemoveFromFile(path, keyID string) error {
	text, err := readFile(path)
	if err != nil {
		return err
	}
	var left []string
	found := false
	for _, line := range strings.Fields(text) {
		k, err := Parse(line)
		switch {
		case err != nil:
			return err
		case k.Owns(keyID):
			found = true
		default:
			left = append(left, line)
		}
	}
	switch {
	case !found:
		return errors.New(errors.NotFound, "there is no key %q in %s", keyID, path)
	case len(left) == 0:
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return errors.Wrap(err, errors.Internal, "the key file %s cannot be removed", path)
		}
		return errors.Join(os.Remove(target), syncDir(target))
	}
	return rewriteFile(path, strings.Join(left, "\n")+"\n")
}

func readFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "the key file %s cannot be read", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", errors.New(errors.InvalidArgument, "the key file %s can be read by others (mode %o)", path, info.Mode().Perm()).
			WithHint("chmod 0600 %s", path)
	}
	if info.Size() > maxFile {
		return "", errors.New(errors.TooLarge, "the key file %s has more than %d bytes", path, maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", errors.Wrap(err, errors.Internal, "the key file %s cannot be read", path)
	}
	return string(text), nil
}

// rewriteFile changes a key file; where its name is a link, what that leads to.
func rewriteFile(path, text string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the key file %s cannot be written", path)
	}
	return writeFile(target, text, os.Rename)
}

// writeFile gives a key file its content. It is whole or as it was, also after
// a crash: written aside, synced, then put under its name.
func writeFile(path, text string, put func(from, to string) error) error {
	fail := func(err error) error {
		return errors.Wrap(err, errors.Internal, "the key file %s cannot be written", path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, werr := tmp.WriteString(text)
	if err := errors.Join(werr, tmp.Sync(), tmp.Close()); err != nil {
		return fail(err)
	}
	if err := put(tmp.Name(), path); err != nil {
		return fail(err)
	}
	// Records must not become durable before the key that opens them.
	return syncDir(path)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the key file's directory cannot be opened")
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return errors.Wrap(err, errors.Internal, "the key file's directory cannot be made durable")
	}
	return nil
}
