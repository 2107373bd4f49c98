package oci

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"golang.org/x/sys/unix"
)

// Start runs a machine. See [vmm.Driver].
func (d *Driver) Start(ctx context.Context, id string) error {
	ctx, done, err := d.turns.Begin(ctx, id, false)
	if err != nil {
		return err
	}
	defer done()
	r, err := d.load(id)
	if err != nil {
		return err
	}
	switch {
	case !r.Whole:
		return errors.New(errors.Conflict, "the machine was never made wholly")
	case r.run.Phase == phaseDeleting:
		return errors.New(errors.Conflict, "the machine is being deleted")
	case r.run.Phase == phaseRunning && r.run.Process.Alive(d.boot):
		return nil
	case r.run.Phase != phaseIdle:
		// It ran and ended by itself, or a start was cut short.
		if err := d.clear(ctx, id); err != nil {
			return err
		}
	}
	r.run = runState{Phase: phaseStarting}
	if err := d.saveRun(r); err != nil {
		return err
	}
	if err := d.launch(ctx, r); err != nil {
		// What was begun is undone; if that fails, the next start or Delete does it.
		if clearErr := d.clear(context.WithoutCancel(ctx), id); clearErr == nil {
			r.run = runState{}
			err = errors.Join(err, d.saveRun(r))
		}
		return err
	}
	return nil
}

// launch takes a machine that has nothing but its volume and network to one that runs.
func (d *Driver) launch(ctx context.Context, r *machineRecord) error {
	if d.moves == nil {
		go d.cgroups.ExpectMoves() // the runtime's, some 10 ms from now
	}
	p := d.cfg.paths(r.MachineID)
	// Also after a reboot: the pair is another one then.
	att, err := d.cfg.Network.Acquire(ctx, r.MachineID, r.Spec.Network, r.Spec.Hostname)
	if err != nil {
		return err
	}
	if err := makeMachineDirs(p, att.IDBase); err != nil {
		return err
	}
	hostname := d.hostname(r)
	d.writeIdentity(r, hostname, att)
	set, err := d.setScene(ctx, r, p, att)
	if err != nil {
		return err
	}
	defer set.close()
	agent, err := d.agentBinary()
	if err != nil {
		return err
	}
	err = d.writeBundle(bundleInput{
		spec: r.Spec, hostname: hostname, paths: p, agent: agent, mounts: set.targets,
		net: att, userNS: set.userNS.Name(), netNS: set.netNS.Name(),
	})
	if err != nil {
		return err
	}
	listener, err := listen(p.socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := d.runtime.run(ctx, p, listener, func() error {
		if err := d.stage.enter(); err != nil {
			return err
		}
		return set.attach(p.root)
	}); err != nil {
		return err
	}
	return d.settle(r, p)
}

// settle finds the process that the runtime started, and books it.
func (d *Driver) settle(r *machineRecord, p paths) error {
	raw, err := os.ReadFile(p.pidFile)
	if err != nil {
		return fail(err, "the OCI runtime did not say what it started")
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(raw)))
	if err != nil {
		return fail(err, "the OCI runtime did not say what it started")
	}
	proc, err := process.Identify(pid, d.boot)
	if err != nil {
		return errors.Wrap(err, errors.GuestFault, "the guest agent ended as soon as it was started")
	}
	// An older end is of no interest any more.
	if err := os.Remove(p.exit); err != nil && !os.IsNotExist(err) {
		return fail(err, "cannot write the machine's record")
	}
	r.run = runState{Phase: phaseRunning, Process: proc}
	if err := d.saveRun(r); err != nil {
		return err
	}
	_, err = d.follow(r.MachineID, proc) // from now on its end is seen
	return err
}

// makeMachineDirs makes the machine's mount point and bundle directory. The mount point
// can be reached by the machine's root and nobody else.
func makeMachineDirs(p paths, base uint32) error {
	for _, dir := range []string{p.dir, p.root, p.bundle} {
		if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
			return fail(err, "cannot make the machine's directories")
		}
	}
	err := errors.Join(os.Chown(p.dir, 0, int(base)), os.Chmod(p.dir, 0o710))
	return fail(err, "cannot make the machine's directories")
}

// listen binds the agent's socket. It outlives this process: the machine holds it.
func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fail(err, "cannot bind the agent's socket")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fail(err, "cannot bind the agent's socket")
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return nil, fail(err, "cannot bind the agent's socket")
	}
	// The guest takes it as it is: a blocking descriptor suits every program.
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		f.Close()
		return nil, fail(err, "cannot bind the agent's socket")
	}
	return f, nil
}

// clear removes what a run of a machine left: processes, container, cgroup,
// mounts, socket, bundle. Volume and network stay. Nothing there is success.
func (d *Driver) clear(ctx context.Context, id string) error {
	p := d.cfg.paths(id)
	w := d.turns.Watched(id)
	if w != nil {
		w.Ordered()
	}
	if err := d.group(id).Kill(ctx); err != nil {
		return err
	}
	if w != nil {
		select { // its end is written before the record changes
		case <-w.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := d.runtime.remove(ctx, p); err != nil {
		return err
	}
	if err := d.group(id).Remove(ctx); err != nil {
		return err
	}
	if err := detachMounts(p.mounts); err != nil {
		return err
	}
	if err := unmountAll(p.root); err != nil { // by a driver of before the stage
		return err
	}
	// Not RemoveAll: should something still be mounted there, it is not deleted.
	for _, dir := range []string{p.root, p.mounts, p.dir} {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			return fail(err, "cannot remove the machine's mount point")
		}
	}
	if err := os.Remove(p.socket); err != nil && !os.IsNotExist(err) {
		return fail(err, "cannot remove the agent's socket")
	}
	return fail(os.RemoveAll(p.bundle), "cannot remove the machine's bundle")
}

// detachMounts removes the mount points of extra mounts, and what drivers of
// before the stage mounted there.
func detachMounts(dir string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return fail(err, "cannot read the machine's mounts")
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := unmountAll(path); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return fail(err, "cannot remove the machine's mounts")
		}
	}
	return nil
}
