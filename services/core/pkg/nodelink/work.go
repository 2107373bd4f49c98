package nodelink

import (
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

type (
	keepLogin struct {
		Task               domain.ID
		Username, Password string
	}
	ofUpload struct {
		Project, ID domain.ID
		Want        string // its SHA-256; empty: any
	}
	keptUpload struct {
		Bytes  int64
		SHA256 string
	}
	readLog struct {
		ID     domain.ID
		From   int64
		Follow bool
	}
)

func (s *server) work() {
	answers(s, "tasks.run", func(_ context.Context, in ofProject) (none, error) {
		s.node.RunTask(in.Project, in.ID)
		return none{}, nil
	})
	answers(s, "tasks.cancel", func(_ context.Context, in byID) (none, error) {
		s.node.CancelTask(in.ID)
		return none{}, nil
	})
	answers(s, "tasks.login", func(ctx context.Context, in keepLogin) (none, error) {
		return none{}, s.node.KeepLogin(ctx, in.Task, vmm.RegistryLogin{Username: in.Username, Password: logging.Secret(in.Password)})
	})
	follow := func(open func(context.Context, domain.ID, int64, bool) (io.ReadCloser, error)) func(context.Context, readLog, io.Reader, *answer) error {
		return func(ctx context.Context, in readLog, _ io.Reader, out *answer) error {
			r, err := open(ctx, in.ID, in.From, in.Follow)
			if err != nil {
				return err
			}
			return out.copy(none{}, r)
		}
	}
	streams(s, "builds.log", follow(s.node.BuildLog))
	streams(s, "tools.log", follow(s.node.ToolLog))
	takes(s, "uploads.keep", func(ctx context.Context, in ofUpload, body io.Reader) (kept keptUpload, err error) {
		kept.Bytes, kept.SHA256, err = s.node.KeepUpload(ctx, in.Project, in.ID, in.Want, body)
		return kept, err
	})
	answers(s, "uploads.drop", func(ctx context.Context, in ofUpload) (none, error) {
		return none{}, s.node.DropUpload(ctx, in.Project, in.ID)
	})
	streams(s, "uploads.open", func(ctx context.Context, in ofUpload, _ io.Reader, out *answer) error {
		r, err := s.node.OpenUpload(ctx, in.Project, in.ID)
		if err != nil {
			return err
		}
		return out.copy(none{}, r)
	})
	answers(s, "tools.list", func(ctx context.Context, _ none) ([]vmm.ToolInfo, error) {
		return s.node.Tools(ctx)
	})
	answers(s, "tools.remove", func(ctx context.Context, t domain.Tool) (none, error) {
		return none{}, s.node.RemoveTool(ctx, t)
	})
	answers(s, "templates.changed", func(ctx context.Context, _ none) (none, error) {
		s.node.TemplatesChanged(ctx)
		return none{}, nil
	})
	answers(s, "projects.forget", func(ctx context.Context, in byID) (none, error) {
		return none{}, s.node.ForgetProject(ctx, in.ID)
	})
}

// RunTask implements service.Node. It does not wait: the node finds the task.
func (c *Client) RunTask(project, id domain.ID) {
	c.keepTelling(context.Background(), "tasks.run", ofProject{project, id})
}

// CancelTask implements service.Node. It does not wait: the node finds the task.
func (c *Client) CancelTask(id domain.ID) {
	c.keepTelling(context.Background(), "tasks.cancel", byID{id})
}

// KeepLogin implements service.Node.
func (c *Client) KeepLogin(ctx context.Context, task domain.ID, login vmm.RegistryLogin) error {
	_, err := call[none](ctx, c, "tasks.login", keepLogin{task, login.Username, login.Password.Reveal()})
	return err
}

// BuildLog implements service.Node.
func (c *Client) BuildLog(ctx context.Context, build domain.ID, from int64, follow bool) (io.ReadCloser, error) {
	return c.readLog(ctx, "builds.log", readLog{build, from, follow})
}

// ToolLog implements service.Node.
func (c *Client) ToolLog(ctx context.Context, task domain.ID, from int64, follow bool) (io.ReadCloser, error) {
	return c.readLog(ctx, "tools.log", readLog{task, from, follow})
}

func (c *Client) readLog(ctx context.Context, name string, in readLog) (io.ReadCloser, error) {
	r, err := c.open(ctx, name, in, nil, new(none))
	if err != nil {
		return nil, err
	}
	return r, nil
}

// KeepUpload implements service.Node.
func (c *Client) KeepUpload(ctx context.Context, project, id domain.ID, want string, r io.Reader) (bytes int64, sum string, err error) {
	kept, err := send[keptUpload](ctx, c, "uploads.keep", ofUpload{project, id, want}, r)
	return kept.Bytes, kept.SHA256, err
}

// DropUpload implements service.Node.
func (c *Client) DropUpload(ctx context.Context, project, id domain.ID) error {
	_, err := call[none](ctx, c, "uploads.drop", ofUpload{Project: project, ID: id})
	return err
}

// OpenUpload implements service.Node.
func (c *Client) OpenUpload(ctx context.Context, project, id domain.ID) (io.ReadCloser, error) {
	r, err := c.open(ctx, "uploads.open", ofUpload{Project: project, ID: id}, nil, new(none))
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Tools implements service.Node.
func (c *Client) Tools(ctx context.Context) ([]vmm.ToolInfo, error) {
	return call[[]vmm.ToolInfo](ctx, c, "tools.list", none{})
}

// RemoveTool implements service.Node.
func (c *Client) RemoveTool(ctx context.Context, exact domain.Tool) error {
	_, err := call[none](ctx, c, "tools.remove", exact)
	return err
}

// TemplatesChanged implements service.Node.
func (c *Client) TemplatesChanged(ctx context.Context) {
	const name = "templates.changed"
	if err := c.tell(ctx, name, none{}); err != nil {
		c.untold(name, err)
	}
}

// ForgetProject implements service.Node.
func (c *Client) ForgetProject(ctx context.Context, project domain.ID) error {
	_, err := call[none](ctx, c, "projects.forget", byID{project})
	return err
}
