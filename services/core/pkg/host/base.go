package host

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/settings"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// EnsureBase sees to it that the base template exists or is being made, and
// gives the task that makes it; nil when there is none.
func (h *Host) EnsureBase(ctx context.Context, project domain.ID) (task *domain.Task, err error) {
	if h.settings.Base.Skip {
		return nil, nil
	}
	err = h.in.Store.Update(ctx, func(tx storage.Tx) error {
		tmpl, err := tx.Templates().ByName(ctx, project, image.BaseTemplate)
		if errors.HasCode(err, errors.NotFound) {
			tmpl = &domain.Template{
				ID: domain.NewID(), ProjectID: project, Name: image.BaseTemplate, Tags: map[string]domain.ID{}, Public: true,
				CreatedAt: h.moment(), UpdatedAt: h.moment(),
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
		task, err = h.baseTask(ctx, tx, tmpl)
		return err
	})
	if err == nil && task != nil {
		h.Worker.RunTask(task.ProjectID, task.ID)
	}
	return task, err
}

// Foresee has machines made ready for who asks for a VM and nothing special,
// once there is what they are made from.
func (h *Host) Foresee(ctx context.Context, by *service.Service, project domain.ID, base *domain.Task) {
	as := vmm.Caller{ProjectID: project, Name: "server"}
	if base != nil {
		if _, err := by.WaitTask(ctx, as, base.ID); err != nil {
			return // the server ends
		}
	}
	vm, err := by.Foresee(ctx, as, vmm.CreateVM{})
	if err != nil {
		h.log.Debug("no machines are made beforehand", "reason", err)
		return
	}
	if vm.WorkerID == h.Worker.ID() { // else it has what they are made from
		h.Worker.Expect(vm)
	}
}

func (h *Host) baseTask(ctx context.Context, tx storage.Tx, tmpl *domain.Template) (*domain.Task, error) {
	args, err := json.Marshal(service.BuildArgs{Template: tmpl.ID, Tags: []string{domain.DefaultTag}, Base: true})
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the base template's build cannot be described")
	}
	at := h.moment()
	build := &domain.Build{
		ID: domain.NewID(), ProjectID: tmpl.ProjectID, TemplateID: tmpl.ID, WorkerID: h.Worker.ID(), State: domain.BuildWaiting, Platform: settings.Platform(),
		Source: h.Images.BaseSource(), CreatedAt: at,
	}
	if err := tx.Builds().Insert(ctx, build); err != nil {
		return nil, err
	}
	task := &domain.Task{
		ID: domain.NewID(), ProjectID: tmpl.ProjectID, Kind: service.TaskBuild, Subject: build.ID, WorkerID: h.Worker.ID(), State: domain.TaskPending,
		Args: args, MaxAttempts: 1, CreatedAt: at, UpdatedAt: at, RunAt: at,
	}
	if err := tx.Tasks().Insert(ctx, task); err != nil {
		return nil, err
	}
	return task, tx.Outbox().Append(ctx, events.Task(events.TaskCreated, task, at))
}

// moment is now as the store keeps it.
func (h *Host) moment() time.Time { return h.in.Now().UTC().Truncate(time.Microsecond) }
