package runner

import (
	"bytes"
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Two processes may follow a run at once. Its command is guarded by its ID; its
// files, which a command may change, by a claim: one process writes them, and no
// one does from when it has noted that they are there, which is before the
// command is started. A claim is a key of the store: it ends by itself when its
// process has died, and is in the transaction that looks at the run's row.

// claimFor is how long a claim is good for, by default.
const claimFor = 30 * time.Second

// What a claim's key says.
const (
	filesClaimed = 1
	filesWritten = 2
)

func filesKey(t *domain.Task) string { return "task.files:" + t.ExecutionID.String() }

// claimed says that another process writes a run's files, for so long.
type claimed struct{ wait time.Duration }

func (c claimed) Error() string { return "another process writes the task's files" }

// writeFiles puts the files into a run's VM that its command finds, unless that
// was done. Returns claimed while another process does it.
func (r *Runner) writeFiles(ctx context.Context, by vmm.Caller, t *domain.Task, run vmm.Run) error {
	if len(run.Files) == 0 {
		return nil
	}
	claim, err := r.claimFiles(ctx, t)
	if err != nil || claim == "" {
		return err
	}
	// It has ended for sure before another can claim them.
	limited, cancel := context.WithTimeout(ctx, r.config.ClaimFor*2/3)
	defer cancel()
	for _, f := range run.Files {
		if err == nil {
			_, err = r.Service.WriteFile(limited, by, t.VMID, f.Path, bytes.NewReader(f.Content), vmm.FileOptions{User: run.Command.User, Mode: f.Mode})
		}
	}
	if err == nil {
		return r.keepFiles(ctx, t, claim, r.Service.RunTimeout(run))
	}
	if limited.Err() != nil && ctx.Err() == nil {
		err = errors.Wrap(err, errors.Unavailable, "the task's files are not written in time")
	}
	r.unclaimFiles(ctx, t, claim)
	return err
}

// claimFiles lets this process write a run's files; empty: they are written.
func (r *Runner) claimFiles(ctx context.Context, t *domain.Task) (claim domain.ID, err error) {
	err = r.Store.Update(ctx, func(tx storage.Tx) error {
		claim = ""
		if _, err := r.current(ctx, tx, t); err != nil {
			return err
		}
		now := r.time()
		held, err := tx.Idempotency().Get(ctx, t.ProjectID, filesKey(t), now)
		switch {
		case err == nil && held.Status == filesWritten:
			return nil
		case err == nil:
			return claimed{held.ExpiresAt.Sub(now)}
		case !errors.HasCode(err, errors.NotFound):
			return err
		}
		claim = domain.NewID()
		return tx.Idempotency().Insert(ctx, &storage.Idempotent{
			ProjectID: t.ProjectID, Key: filesKey(t), SubjectID: claim, Status: filesClaimed, CreatedAt: now, ExpiresAt: now.Add(r.config.ClaimFor),
		})
	})
	return claim, err
}

// keepFiles notes for as long as the run's VM lives that its files are written.
func (r *Runner) keepFiles(ctx context.Context, t *domain.Task, claim domain.ID, lives time.Duration) error {
	return r.Store.Update(ctx, func(tx storage.Tx) error {
		if _, err := r.current(ctx, tx, t); err != nil {
			return err
		}
		now := r.time()
		held, err := tx.Idempotency().Get(ctx, t.ProjectID, filesKey(t), now)
		if errors.HasCode(err, errors.NotFound) || err == nil && held.SubjectID != claim {
			return claimed{firstProbe} // it took too long: whoever claims them now writes them again
		}
		if err != nil {
			return err
		}
		if err := tx.Idempotency().Delete(ctx, t.ProjectID, filesKey(t)); err != nil {
			return err
		}
		return tx.Idempotency().Insert(ctx, &storage.Idempotent{
			ProjectID: t.ProjectID, Key: filesKey(t), SubjectID: claim, Status: filesWritten, CreatedAt: now, ExpiresAt: now.Add(lives),
		})
	})
}

// unclaimFiles lets another process write them at once.
func (r *Runner) unclaimFiles(ctx context.Context, t *domain.Task, claim domain.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueLimit)
	defer cancel()
	err := r.Store.Update(ctx, func(tx storage.Tx) error {
		held, err := tx.Idempotency().Get(ctx, t.ProjectID, filesKey(t), r.time())
		if err != nil || held.SubjectID != claim {
			return err
		}
		return tx.Idempotency().Delete(ctx, t.ProjectID, filesKey(t))
	})
	if err != nil && !errors.HasCode(err, errors.NotFound) {
		r.Log.Debug("a claim of a task's files is left to end by itself", "task", t.ID, "error", err)
	}
}
