package service

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// ToolArgs are the arguments of a TaskTools.
type ToolArgs struct {
	Tools []string `json:"tools"`
}

// ListTools implements vmm.Tools.
func (s *Service) ListTools(ctx context.Context, _ vmm.Caller) ([]vmm.ToolInfo, error) {
	type exact struct{ name, version string }
	var mu sync.Mutex
	known := map[exact]vmm.ToolInfo{}
	err := s.everywhere(ctx, func(n Node) error {
		tools, err := n.Tools(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, t := range tools {
			at := exact{t.Name, t.Version}
			if other, twice := known[at]; twice {
				t.VMs += other.VMs
				if other.InstalledAt.Before(t.InstalledAt) {
					t.InstalledAt = other.InstalledAt
				}
			}
			known[at] = t
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(known), func(a, b vmm.ToolInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	}), nil
}

// InstallTools implements vmm.Tools.
func (s *Service) InstallTools(ctx context.Context, by vmm.Caller, tools []string) (*domain.Task, error) {
	if err := domain.ValidateTools("tools", tools); err != nil {
		return nil, err
	}
	if len(tools) == 0 {
		return nil, errors.New(errors.InvalidArgument, "no tool is named").WithField("tools")
	}
	args, err := json.Marshal(ToolArgs{Tools: tools})
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the task could not be stored")
	}
	now := s.time()
	task := &domain.Task{
		ID: domain.NewID(), ProjectID: by.ProjectID, Kind: TaskTools, State: domain.TaskPending, Args: args,
		MaxAttempts: 1, CreatedAt: now, UpdatedAt: now, RunAt: now,
	}
	err = s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if task.WorkerID, err = s.worker(ctx, tx, ""); err != nil {
			return err
		}
		if err := tx.Tasks().Insert(ctx, task); err != nil {
			return err
		}
		return tx.Outbox().Append(ctx, events.Task(events.TaskCreated, task, now))
	})
	if err != nil {
		return nil, err
	}
	s.tell(task.WorkerID, func(n Node) { n.RunTask(task.ProjectID, task.ID) })
	return task, nil
}

// ToolLog implements vmm.Tools.
func (s *Service) ToolLog(ctx context.Context, by vmm.Caller, task domain.ID, from int64, follow bool) (io.ReadCloser, error) {
	t, err := s.GetTask(ctx, by, task)
	if err != nil {
		return nil, err
	}
	if t.Kind != TaskTools {
		return nil, notFound("installation", string(task))
	}
	node, err := s.reach(ctx, t.WorkerID)
	if err != nil {
		return nil, err
	}
	return node.ToolLog(ctx, task, max(0, from), follow)
}

// RemoveTool implements vmm.Tools.
func (s *Service) RemoveTool(ctx context.Context, by vmm.Caller, dir, version string) error {
	if !by.Admin {
		return errors.New(errors.PermissionDenied, "tools are removed by administrators")
	}
	var found atomic.Bool
	err := s.everywhere(ctx, func(n Node) error {
		all, err := n.Tools(ctx)
		if err != nil {
			return err
		}
		for _, t := range all {
			exact := domain.Tool{Name: t.Name, Version: t.Version}
			if exact.Dir() != dir || version != "" && version != t.Version {
				continue
			}
			found.Store(true)
			if err := n.RemoveTool(ctx, exact); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !found.Load() {
		name := dir
		if version != "" {
			name += "@" + version
		}
		return notFound("installed tool", name)
	}
	return nil
}
