package serve

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// firstKeyName is the name of the key that is made at the first start.
const firstKeyName = "first key"

// FirstKey mints the first key into its file and stores its hash; a file that
// was removed becomes a new key. What an older file holds counts only where no
// key was ever stored: a secret that was rotated away must not come back.
func FirstKey(ctx context.Context, store storage.Store, project domain.ID, file string, log *slog.Logger) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	text, minted, err := auth.EnsureKeyFile(file)
	if err != nil {
		return err
	}
	if err := giveToCaller(file); err != nil {
		return err
	}
	if minted {
		log.Info("an API key was made", "file", file)
	}
	return store.Update(ctx, func(tx storage.Tx) error {
		hash := auth.HashKey(text)
		_, err := tx.Keys().ByHash(ctx, hash)
		if !errors.HasCode(err, errors.NotFound) {
			return err
		}
		stored, err := tx.Keys().List(ctx, storage.System, storage.Page{Limit: 1})
		if err != nil {
			return err
		}
		if !minted && len(stored.Items) > 0 {
			log.Warn("the key file holds a key that is not valid; remove it to have a new one made at the next start", "file", file)
			return nil
		}
		name := firstKeyName
		if host, err := os.Hostname(); err == nil && len(stored.Items) > 0 {
			name = "key file of " + host // one gateway's of several, or one that was lost
		}
		return tx.Keys().Insert(ctx, &domain.APIKey{
			ID: domain.NewID(), ProjectID: project, Name: name, Prefix: access.Shown(text),
			Hash: hash, Scopes: domain.Scopes{domain.ScopeAdmin}, CreatedAt: now,
		})
	})
}

// giveToCaller lets the user who started the server by sudo read a file that
// only root could read otherwise.
func giveToCaller(file string) error {
	uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	if err != nil || os.Geteuid() != 0 {
		return nil //nolint:nilerr // not started by sudo
	}
	if err := os.Chown(file, uid, -1); err != nil {
		return errors.Wrap(err, errors.Internal, "the file %s cannot be given to the user %d", file, uid)
	}
	return nil
}
