package docker

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// engineTimeout bounds what the engine is asked to do and must not be
// interrupted in: it goes on with what nobody waits for any more, and what that
// makes would be found too late.
const engineTimeout = 2 * time.Minute

// wholly makes a context for that.
func wholly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), engineTimeout)
}

// said gives an error of the engine its code.
func said(err error, message string) error {
	var coded *errors.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case client.IsErrConnectionFailed(err):
		return errors.Wrap(err, errors.Unavailable, "the Docker engine does not answer").
			WithHint("start it: systemctl start docker")
	case errdefs.IsNotFound(err):
		return errors.Wrap(err, errors.NotFound, "%s: the Docker engine does not have it", message)
	case errdefs.IsConflict(err):
		return errors.Wrap(err, errors.Conflict, "%s", message)
	case strings.Contains(err.Error(), "no space left on device"), strings.Contains(err.Error(), "disk quota exceeded"):
		return errors.Wrap(err, errors.NoSpace, "%s: no space is left for the Docker engine", message)
	}
	return errors.Wrap(err, errors.Internal, "%s", message)
}

// inspect reads a machine's container. Returns NotFound when there is none.
func (d *Driver) inspect(ctx context.Context, id string) (*container.InspectResponse, error) {
	if !idForm.MatchString(id) {
		return nil, errors.New(errors.NotFound, "there is no such machine")
	}
	r, err := d.engine.ContainerInspect(ctx, d.cfg.container(id), client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, errors.New(errors.NotFound, "there is no such machine")
	}
	if err != nil {
		return nil, said(err, "cannot look at the machine's container")
	}
	c := &r.Container
	if c.State == nil || c.Config == nil || c.HostConfig == nil {
		return nil, errors.New(errors.Internal, "the Docker engine tells nothing of the machine's container")
	}
	if c.Config.Labels[labelInstance] != d.cfg.Instance || c.Config.Labels[labelMachine] != id {
		return nil, errors.New(errors.Conflict, "a container named %s exists that is no machine", d.cfg.container(id))
	}
	return c, nil
}

// running inspects a machine that runs, paused or not. Returns NotFound, Conflict.
func (d *Driver) running(ctx context.Context, id string) (*container.InspectResponse, error) {
	c, err := d.inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	if !c.State.Running {
		return nil, errors.New(errors.Conflict, "the machine does not run")
	}
	return c, nil
}

// mine filters for what is the instance's.
func (d *Driver) mine() client.Filters {
	return make(client.Filters).Add("label", labelInstance+"="+d.cfg.Instance)
}
