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
	files := etcFiles(hostname, att)
	delete(files, "resolv.conf") // says nothing of the name
	var notWritten error
	err = onOwnThread(func() error { // one thread for both: it is a part of what a claim takes
		if err := d.renameKernel(r.run.Process, hostname); err != nil {
			return err
		}
		notWritten = d.rewriteEtc(r.run.Process, att.IDBase, files)
		return nil
	})
	if err != nil {
		return err
	}
	if notWritten != nil {
		d.log.WarnContext(ctx, "cannot write the machine's /etc", "machine", id, "error", notWritten)
	}
	return record.Write(d.identityPath(id), identity{MachineID: id, Hostname: hostname, Address: att.Address, DNS: att.DNS})
}

// renameKernel sets the name in the machine's UTS namespace (uts_namespaces(7)),
// which is the calling thread's then.
func (d *Driver) renameKernel(p *process.Process, hostname string) error {
	uts, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", p.PID))
	if err != nil {
		return errors.Wrap(err, errors.Conflict, "the machine does not run")
	}
	defer uts.Close()
	if !p.Alive(d.boot) { // the ID is another process's by now
		return errors.New(errors.Conflict, "the machine does not run")
	}
	if err = unix.Setns(int(uts.Fd()), unix.CLONE_NEWUTS); err == nil {
		err = unix.Sethostname([]byte(hostname))
	}
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot set the machine's hostname")
	}
	return nil
}

// rewriteEtc writes files of a running machine's /etc through its own root, as
// that root, which the calling thread stays: the layers below belong to
// overlayfs now.
func (d *Driver) rewriteEtc(p *process.Process, root uint32, files map[string]string) error {
	if err := actAs(root); err != nil {
		return err
	}
	top, err := os.Open(fmt.Sprintf("/proc/%d/root", p.PID))
	if err != nil {
		return err
	}
	defer top.Close()
	if !p.Alive(d.boot) { // the ID is another process's by now
		return errors.New(errors.Conflict, "the machine does not run")
	}
	dir, err := openBelow(top, "etc")
	if err != nil {
		return err
	}
	defer dir.Close()
	return etc.Update(dir, files, func(*os.File) error { return nil })
}
