package answers

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// noteID is where a note is. No request can have the key, as names are not sent in
// more than one line.
func noteID(name string) domain.ID { return storage.AnswerID("note\n" + name) }

// Note keeps a value of a project by a name until a time, for later requests to
// whichever gateway. Returns AlreadyExists where there is one.
func (s *Store) Note(ctx context.Context, project domain.ID, name string, value any, until time.Time) error {
	text, err := json.Marshal(value)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "what is to be kept cannot be written")
	}
	id, now := noteID(name), s.now().UTC().Truncate(time.Microsecond)
	sealed, err := s.sealer.Seal(ctx, storage.SealedAnswer(project, id), text)
	if err != nil {
		return err
	}
	until = until.UTC().Truncate(time.Microsecond)
	return s.store.Update(ctx, func(tx storage.Tx) error {
		return tx.Answers().Insert(ctx, &storage.Answer{
			ID: id, ProjectID: project, RequestDigest: "note", AnswerSealed: sealed, CreatedAt: now, ExpiresAt: until,
		})
	})
}

// Noted reads a note into value. Returns NotFound.
func (s *Store) Noted(ctx context.Context, project domain.ID, name string, value any) error {
	var row *storage.Answer
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		row, err = tx.Answers().Get(ctx, project, noteID(name), s.now())
		return err
	})
	if err != nil {
		return err
	}
	text, err := s.sealer.Open(ctx, storage.SealedAnswer(project, row.ID), row.AnswerSealed)
	if err == nil && json.Unmarshal(text, value) != nil {
		err = errors.New(errors.Internal, "what was kept is not readable")
	}
	return err
}
