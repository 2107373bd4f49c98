package answers

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// onceMargin is how much longer it is remembered that something has happened: clocks
// of gateways differ by less.
const onceMargin = time.Minute

// Once takes a key of a VM's project for what happens once, until a time. No request
// can have the key, as names are not sent in one line. Returns AlreadyExists where it
// was taken before, and NotFound for the VM.
func (s *Store) Once(ctx context.Context, vm domain.ID, name string, until time.Time) error {
	now := s.now().UTC().Truncate(time.Microsecond)
	err := s.store.Update(ctx, func(tx storage.Tx) error {
		of, err := tx.VMs().Get(ctx, storage.System, vm)
		if err != nil {
			return err
		}
		return tx.Answers().Insert(ctx, &storage.Answer{
			ID: storage.AnswerID("once\n" + vm.String() + "\n" + name), ProjectID: of.ProjectID, RequestDigest: "once",
			CreatedAt: now, ExpiresAt: until.UTC().Truncate(time.Microsecond).Add(onceMargin),
		})
	})
	if errors.HasCode(err, errors.AlreadyExists) {
		return errors.New(errors.AlreadyExists, "this has happened already")
	}
	return err
}
