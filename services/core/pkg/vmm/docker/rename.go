package docker

import (
	"context"
	"os"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/inside"
)

// SetHostname renames a running machine: its kernel's name for itself and its
// /etc. What the machine was named by us last needs nothing. See [vmm.Renamer]. Returns
// InvalidArgument, NotFound, Conflict.
func (d *Driver) SetHostname(ctx context.Context, id, hostname string) error {
	if !hostnameForm.MatchString(hostname) {
		return errors.New(errors.InvalidArgument, "this is not a hostname").WithField("hostname")
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	c, err := d.running(ctx, id)
	if err != nil {
		return err
	}
	if now, err := d.hostname(id, c.Config.Hostname); err != nil || now == hostname {
		return err
	}
	if err := d.renameKernel(ctx, id, c, hostname); err != nil {
		return err
	}
	_, err = d.furnish(ctx, id, domain.NetworkMode(c.Config.Labels[labelNetwork]), hostname)
	return err
}

// renameKernel sets the name in the machine's UTS namespace (uts_namespaces(7)).
func (d *Driver) renameKernel(ctx context.Context, id string, c *container.InspectResponse, hostname string) error {
	uts, err := d.namespace(ctx, id, c, "uts")
	if err != nil {
		return err
	}
	defer func() { _ = uts.Close() }()
	err = inside.OwnThread(func() error {
		if err := unix.Setns(int(uts.Fd()), unix.CLONE_NEWUTS); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return os.NewSyscallError("sethostname", unix.Sethostname([]byte(hostname)))
	})
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot set the machine's hostname")
	}
	return nil
}
