package app

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/services/core/pkg/installation"
	"github.com/aetherium/aetherium/services/core/pkg/rekey"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

// SealKey is a key that data at rest is or was under.
type SealKey struct {
	ID     string         `json:"id"`
	From   string         `json:"from"` // where it is: "file", "settings", "kms"; empty: nowhere at hand
	Newest bool           `json:"newest"`
	Values map[string]int `json:"values"` // under it, by column
}

// Count is how many values are under the key.
func (k SealKey) Count() (n int) {
	for _, c := range k.Values {
		n += c
	}
	return n
}

// SealKeys is the keys of an installation.
type SealKeys struct {
	Keys    []SealKey      `json:"keys"`
	Damaged map[string]int `json:"damaged,omitempty"` // values that are no sealed records, by column
}

// vault is an installation's database and keys while no server runs.
type vault struct {
	settings settings.Settings
	store    storage.Store
	ring     *installation.Keyring
	newest   string
	usage    *rekey.Usage
}

func (v *vault) close() error { return v.store.Close() }

// openVault opens and surveys. The caller holds the data directory.
func openVault(ctx context.Context, s settings.Settings, log *slog.Logger) (_ *vault, err error) {
	v := &vault{settings: s}
	if !installation.Made(s.Common) {
		return nil, errors.New(errors.NotFound, "there is no installation in %s", s.DataDir).WithHint("AETHERIUM_DATA_DIR or data_dir names another directory")
	}
	if v.store, err = installation.OpenStore(ctx, s.Common, true, log); err != nil {
		return nil, err
	}
	if err := v.look(ctx); err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

// look finds out which keys there are and which are used.
func (v *vault) look(ctx context.Context) (err error) {
	if v.ring, err = installation.OpenKeyring(v.settings.Common, false); err != nil {
		return err
	}
	if v.newest, err = seal.NewestKey(ctx, v.ring); err != nil {
		return err
	}
	v.usage, err = rekey.Survey(ctx, v.store)
	return err
}

// keys lists the keys at hand and those in use.
func (v *vault) keys() SealKeys {
	out := SealKeys{Damaged: v.usage.Damaged}
	add := func(from string, ids ...string) {
		for _, id := range ids {
			if !slices.ContainsFunc(out.Keys, func(k SealKey) bool { return k.ID == id }) {
				out.Keys = append(out.Keys, SealKey{ID: id, From: from, Newest: id == v.newest, Values: v.usage.Columns(id)})
			}
		}
	}
	if v.ring.Remote != nil {
		if v.ring.Remote.Owns(v.newest) {
			add("kms", v.newest)
		}
		for _, id := range v.usage.Keys() {
			if v.ring.Remote.Owns(id) {
				add("kms", id)
			}
		}
	}
	if v.ring.Given != nil {
		add("settings", v.ring.Given.IDs()...)
	}
	if v.ring.Filed != nil {
		add("file", v.ring.Filed.IDs()...)
	}
	add("", v.usage.Keys()...)
	return out
}

// ListKeys tells which keys there are and what is under each.
func ListKeys(ctx context.Context, s settings.Settings, log *slog.Logger) (SealKeys, error) {
	v, err := openVault(ctx, s, log)
	if err != nil {
		return SealKeys{}, err
	}
	return v.keys(), v.close()
}

// Rotation is what RotateKeys does, for whoever watches.
type Rotation struct {
	Added    string // a new key in the key file; empty: none was made
	Finished bool   // something is under older keys already
	Done     int    // values that are under the newest key now and were not
}

// RotateKeys makes a new key, where keys are in a file, and brings every sealed
// value under the newest key. One that was interrupted before is finished
// instead, without another key. tell is called as it goes on.
// Returns Conflict when the newest key is everywhere and no new one can be made
// here, or when keys that are in use are not at hand; then nothing was changed.
func RotateKeys(ctx context.Context, s settings.Settings, log *slog.Logger, tell func(Rotation)) (_ SealKeys, err error) {
	v, err := openVault(ctx, s, log)
	if err != nil {
		return SealKeys{}, err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	var rot Rotation
	for _, id := range v.usage.Keys() {
		if !v.ring.Owns(id) {
			return v.keys(), errors.New(errors.Conflict, "%d values are under the key %s, which is not at hand", v.usage.Count(id), id).
				WithHint("bring the key back first")
		}
		rot.Finished = rot.Finished || id != v.newest
	}
	if !rot.Finished {
		if v.ring.Remote != nil || v.ring.Given != nil {
			where := "in the key management service"
			if v.ring.Remote == nil {
				where = "by putting one in front of the others (`keys new` makes one)"
			}
			return v.keys(), errors.New(errors.Conflict, "everything is under the newest key already, and keys are not made here").
				WithHint("make a new key %s, then run it again", where)
		}
		ring, err := seal.AddToFile(s.SealKeyFile())
		if err != nil {
			return v.keys(), err
		}
		rot.Added = ring.IDs()[0]
		if err := v.look(ctx); err != nil {
			return SealKeys{}, err
		}
	}
	tell(rot)
	res, err := rekey.Rewrap(ctx, v.store, v.ring, func(r rekey.Result) {
		rot.Done = r.Done
		tell(rot)
	})
	if err != nil {
		return v.keys(), err
	}
	if err := v.look(ctx); err != nil {
		return SealKeys{}, err
	}
	if res.Failed > 0 {
		return v.keys(), errors.New(errors.Internal, "%d values could not be brought under the newest key: they are damaged, and stay as they are", res.Failed)
	}
	return v.keys(), nil
}

// RemoveKey takes a key out of the key file.
// Returns NotFound, and Conflict for a key that is in use or the newest.
func RemoveKey(ctx context.Context, s settings.Settings, log *slog.Logger, id string) error {
	v, err := openVault(ctx, s, log)
	if err != nil {
		return err
	}
	n := v.usage.Count(id)
	filed := v.ring.Filed != nil && v.ring.Filed.Owns(id)
	newest := id == v.newest
	// What was rewrapped is durable once the database is closed, and its log is
	// gone with it: a power failure must not bring back what needs the key.
	if err := v.close(); err != nil {
		return err
	}
	switch {
	case installation.Unwritten(s.Common):
		return errors.New(errors.Conflict, "somebody else has the database open").WithHint("stop what uses %s", s.DatabaseFile())
	case newest:
		return errors.New(errors.Conflict, "the key %s is the newest: it is what new values are sealed with", id).WithHint("`keys rotate` makes a newer one")
	case n > 0:
		return errors.New(errors.Conflict, "%d values are under the key %s", n, id).WithHint("`keys rotate` brings them under the newest key")
	case !filed:
		return errors.New(errors.NotFound, "the key %q is not in %s", strings.ToValidUTF8(id, ""), s.SealKeyFile()).WithHint("`keys ls` lists the keys")
	}
	return seal.RemoveFromFile(s.SealKeyFile(), id)
}
