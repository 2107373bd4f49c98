// Package statefile writes and reads the small JSON files that a node's state
// is kept in. A reader sees the old or the new content, never a part. Nothing
// is synced to disk: the state describes kernel objects that a power loss ends too.
package statefile

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Write replaces the file at path. Returns NoSpace or Unavailable.
func Write(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot encode state")
	}
	// One writer per file holds a lock, so a fixed temporary name is enough and
	// what a crash leaves is overwritten by the next write.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o600); err != nil {
		return wrap(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return wrap(err)
	}
	return nil
}

func wrap(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errors.Wrap(err, errors.NoSpace, "the runtime directory is full")
	}
	return errors.Wrap(err, errors.Unavailable, "cannot write to the runtime directory")
}

// Read decodes the file at path into v. Returns NotFound when it is absent,
// Internal when it is not what Write wrote.
func Read(path string, v any) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Wrap(err, errors.NotFound, "no such state")
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot read the runtime directory")
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return errors.Wrap(err, errors.Internal, "damaged state in the runtime directory")
	}
	return nil
}
