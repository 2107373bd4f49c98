package oci

import (
	"context"
	"fmt"
	"os"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/etc"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"golang.org/x/sys/unix"
)

// SetHostname renames a running machine: its kernel's name for itself and its
// /etc. What the machine was named by us last needs nothing. See [vmm.Renamer]. Returns InvalidArgument, NotFound, Conflict.
func (d *Driver) SetHostname(ctx context.Context, id, hostname string) error {
	if !hostnameForm.MatchString(hostname) {
		return errors.New(errors.InvalidArgument, "this is not a hostname").WithField("hostname")
	}
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	r, err := d.running(id)
	if err != nil {
		return err
	}
	if d.hostname(r) == hostname {
		return nil
	}
	att, _, err := d.cfg.Network.Lookup(ctx, id)
	if err != nil {
		return err
	}
	if err := d.renameKernel(r.run.Process, hostname); err != nil {
		return err
	}
	files := etcFiles(hostname, att)
	delete(files, "resolv.conf") // says nothing of the name
	// Through its own root, as that root: the layers below belong to overlayfs now.
	err = onOwnThread(func() error {
		if err := actAs(att.IDBase); err != nil {
			return err
		}
		root, err := os.Open(fmt.Sprintf("/proc/%d/root", r.run.Process.PID))
		if err != nil {
			return err
		}
		defer root.Close()
		if !r.run.Process.Alive(d.boot) { // the ID is another process's by now
			return errors.New(errors.Conflict, "the machine does not run")
		}
		dir, err := openBelow(root, "etc")
		if err != nil {
			return err
		}
		defer dir.Close()
		return etc.Write(dir, files, func(*os.File) error { return nil })
	})
	if err != nil {
		d.log.Warn("cannot write the machine's /etc", "machine", id, "error", err)
	}
	return record.Write(d.identityPath(id), identity{MachineID: id, Hostname: hostname, Address: att.Address, DNS: att.DNS})
}

// renameKernel sets the name in the machine's UTS namespace (uts_namespaces(7)).
func (d *Driver) renameKernel(p *process.Process, hostname string) error {
	uts, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", p.PID))
	if err != nil {
		return errors.Wrap(err, errors.Conflict, "the machine does not run")
	}
	defer uts.Close()
	if !p.Alive(d.boot) { // the ID is another process's by now
		return errors.New(errors.Conflict, "the machine does not run")
	}
	err = onOwnThread(func() error {
		if err := unix.Setns(int(uts.Fd()), unix.CLONE_NEWUTS); err != nil {
			return err
		}
		return unix.Sethostname([]byte(hostname))
	})
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot set the machine's hostname")
	}
	return nil
}
