// Package record keeps a driver's records of machines as JSON files.
package record

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// Read reads a record. An absent one is os.ErrNotExist.
func Read(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// Write replaces a record by way of a new one. Names of new ones begin with
// a dot, which no machine ID does.
func Write(path string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot encode the machine's record")
	}
	tmp := Temporary(path)
	if err = os.WriteFile(tmp, raw, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	return fault.Of(err, "cannot write the machine's record")
}

// Temporary is where a record is written before it is in its place.
func Temporary(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
}

// Remove removes a record and what was begun of one. Absent is success.
func Remove(path string) error {
	for _, f := range []string{Temporary(path), path} {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			return fault.Of(err, "cannot remove the machine's record")
		}
	}
	return nil
}
