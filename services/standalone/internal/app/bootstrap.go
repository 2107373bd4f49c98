package app

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

// firstKeyName is the name of the key that is made at the first start.
const firstKeyName = "first key"

// bootstrap makes what there must be from the first start: a project, a key, and the task that makes the base template. It returns the
// project. Doing it again changes nothing.
func (n *node) bootstrap(ctx context.Context) (domain.ID, error) {
	project, err := n.ensureProject(ctx)
	if err != nil {
		return "", err
	}
	if err := n.ensureKey(ctx, project); err != nil {
		return "", err
	}
	return project, nil
}

func (n *node) ensureProject(ctx context.Context) (domain.ID, error) {
	var id domain.ID
	err := n.store.Update(ctx, func(tx storage.Tx) error {
		p, err := tx.Projects().First(ctx)
		if errors.HasCode(err, errors.NotFound) {
			p = &domain.Project{ID: domain.NewID(), Name: domain.DefaultProjectName, CreatedAt: now()}
			err = tx.Projects().Insert(ctx, p)
		}
		if err != nil {
			return err
		}
		id = p.ID
		return nil
	})
	return id, err
}

// ensureKey mints the first key into its file and stores its hash; a file that
// was removed becomes a new key. What an older file holds counts only where no
// key was ever stored: a secret that was rotated away must not come back.
func (n *node) ensureKey(ctx context.Context, project domain.ID) error {
	file := n.settings.KeyFile()
	text, minted, err := auth.EnsureKeyFile(file)
	if err != nil {
		return err
	}
	if err := giveToCaller(file); err != nil {
		return err
	}
	if minted {
		n.log.Info("an API key was made", "file", file)
	}
	return n.store.Update(ctx, func(tx storage.Tx) error {
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
			n.log.Warn("the key file holds a key that is not valid; remove it to have a new one made at the next start", "file", file)
			return nil
		}
		return tx.Keys().Insert(ctx, &domain.APIKey{
			ID: domain.NewID(), ProjectID: project, Name: firstKeyName, Prefix: access.Shown(text),
			Hash: hash, Scopes: domain.Scopes{domain.ScopeAdmin}, CreatedAt: now(),
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

// ensureBase sees to it that the base template exists or is being made, and
// gives the task that makes it; nil when there is none.
func (n *node) ensureBase(ctx context.Context, project domain.ID) (task *domain.Task, err error) {
	if n.settings.Base.Skip {
		return nil, nil
	}
	err = n.store.Update(ctx, func(tx storage.Tx) error {
		tmpl, err := tx.Templates().ByName(ctx, project, image.BaseTemplate)
		if errors.HasCode(err, errors.NotFound) {
			tmpl = &domain.Template{
				ID: domain.NewID(), ProjectID: project, Name: image.BaseTemplate, Tags: map[string]domain.ID{}, Public: true,
				CreatedAt: now(), UpdatedAt: now(),
			}
			err = tx.Templates().Insert(ctx, tmpl)
		}
		if err != nil || tmpl.Tags[domain.DefaultTag] != "" {
			return err
		}
		open, err := tx.Builds().List(ctx, storage.BuildFilter{
			ProjectID: project, TemplateID: tmpl.ID, States: []domain.BuildState{domain.BuildWaiting, domain.BuildBuilding},
		})
		if err != nil || len(open.Items) > 0 {
			return err // the worker takes its task up
		}
		task, err = n.baseTask(ctx, tx, tmpl)
		return err
	})
	if err == nil && task != nil {
		n.worker.RunTask(task.ProjectID, task.ID)
	}
	return task, err
}

// foresee has machines made ready for who asks for a VM and nothing special,
// once there is what they are made from.
func (n *node) foresee(ctx context.Context, project domain.ID, base *domain.Task) {
	by := vmm.Caller{ProjectID: project, Name: "server"}
	if base != nil {
		if _, err := n.service.WaitTask(ctx, by, base.ID); err != nil {
			return // the server ends
		}
	}
	vm, err := n.service.Foresee(ctx, by, vmm.CreateVM{})
	if err != nil {
		n.log.Debug("no machines are made beforehand", "reason", err)
		return
	}
	n.worker.Expect(vm)
}

func (n *node) baseTask(ctx context.Context, tx storage.Tx, tmpl *domain.Template) (*domain.Task, error) {
	args, err := json.Marshal(service.BuildArgs{Template: tmpl.ID, Tags: []string{domain.DefaultTag}, Base: true})
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the base template's build cannot be described")
	}
	at := now()
	build := &domain.Build{
		ID: domain.NewID(), ProjectID: tmpl.ProjectID, TemplateID: tmpl.ID, WorkerID: n.worker.ID(), State: domain.BuildWaiting, Platform: platform(),
		Source: n.images.BaseSource(), CreatedAt: at,
	}
	if err := tx.Builds().Insert(ctx, build); err != nil {
		return nil, err
	}
	task := &domain.Task{
		ID: domain.NewID(), ProjectID: tmpl.ProjectID, Kind: service.TaskBuild, Subject: build.ID, WorkerID: n.worker.ID(), State: domain.TaskPending,
		Args: args, MaxAttempts: 1, CreatedAt: at, UpdatedAt: at, RunAt: at,
	}
	if err := tx.Tasks().Insert(ctx, task); err != nil {
		return nil, err
	}
	return task, tx.Outbox().Append(ctx, events.Task(events.TaskCreated, task, at))
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
