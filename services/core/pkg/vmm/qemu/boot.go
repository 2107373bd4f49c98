package qemu

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
)

// first is the first descriptor of a process that is not a standard one.
const first = 3

// The sockets in a guest's directory.
const (
	monitorSocket = "qmp"
	agentSocket   = "agent"
)

// Boot starts a guest from its disks. The monitor is a child of this process:
// whoever follows it to its end takes its remains. Returns InvalidArgument,
// Unsupported, and Internal when QEMU does not start.
func (e *Engine) Boot(ctx context.Context, g microvm.Guest) (int, error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	line := e.commandLine(h, g)
	if err := bootline.CheckLength(line); err != nil {
		return 0, err
	}
	m := machine{kernel: &bootable{image: imageName, initrd: initrdName, line: line}}
	l := &launch{shown: []shown{
		{name: imageName, path: bootImage(g.Kernel)},
		{name: initrdName, path: g.Kernel.Initrd},
	}}
	p, err := e.run(ctx, h, g, m, l, func(context.Context, *qmp.Client) error { return nil })
	if err != nil {
		return 0, err
	}
	return p, nil
}

// run starts the monitor of a guest; ready is called when it speaks, and if it
// fails there is no guest.
func (e *Engine) run(ctx context.Context, h *host, g microvm.Guest, m machine, l *launch,
	ready func(context.Context, *qmp.Client) error,
) (int, error) {
	if err := check(g); err != nil {
		return 0, err
	}
	e.forget(g) // an earlier run of it
	drives, files, err := drivesOf(g)
	if err != nil {
		return 0, fault.Of(err, "a machine's disk is not there")
	}
	control, err := listen(g, monitorSocket)
	if err != nil {
		return 0, err
	}
	defer control.Close()
	agent, err := listen(g, agentSocket)
	if err != nil {
		return 0, err
	}
	defer agent.Close()

	m.host, m.cpus, m.memory, m.drives = h, g.CPUs, g.Memory, drives
	m.control, m.agent = first, first+1
	l.dir, l.uid = g.Dir, g.UID
	l.files = []*os.File{control, agent}
	l.shown = append(l.shown, files...)
	l.cgroup, l.netNS = g.Cgroup, g.NetNS
	for _, d := range drives {
		if !d.readOnly {
			l.limit = max(l.limit, d.size)
		}
	}
	if g.Link != nil {
		m.net = &netDevice{tap: first + len(l.files), mac: g.Link.MAC.String(), mtu: g.Link.MTU}
		l.tap = &g.Link.Tap
	}
	l.args = m.args()
	p, err := l.start(h)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	// Its end of the sockets is the only one left, so that its end is told by them.
	control.Close()
	agent.Close()
	if err := e.with(ctx, g, func(c *qmp.Client) error { return ready(ctx, c) }); err != nil {
		return 0, p.failed(err)
	}
	p.release()
	return p.pid, nil
}

// with speaks with a guest's monitor.
func (e *Engine) with(ctx context.Context, g microvm.Guest, do func(*qmp.Client) error) error {
	c, err := qmp.Dial(ctx, filepath.Join(g.Dir, monitorSocket))
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// listen makes a socket for a monitor to serve.
func listen(g microvm.Guest, name string) (*os.File, error) {
	path := filepath.Join(g.Dir, name)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fault.Of(err, "cannot make a monitor's socket")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fault.Of(err, "cannot make a monitor's socket")
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fault.Of(err, "cannot make a monitor's socket")
	}
	f, err := l.File()
	return f, fault.Of(err, "cannot make a monitor's socket")
}

// check refuses what no monitor could be given.
func check(g microvm.Guest) error {
	switch {
	case g.UID == 0:
		return errors.New(errors.InvalidArgument, "a monitor does not run as root").WithField("uid")
	case g.CPUs < 1:
		return errors.New(errors.InvalidArgument, "a machine has a processor").WithField("cpus")
	case g.Memory <= 0 || g.Memory%(1<<20) != 0:
		return errors.New(errors.InvalidArgument, "a machine's memory is a number of MiB").WithField("memory")
	case len(g.Drives) > maxDrives:
		return errors.New(errors.InvalidArgument, "a machine of this driver has at most %d disks", maxDrives).WithField("mounts")
	case g.NetNS == "":
		return errors.New(errors.InvalidArgument, "a machine has a network namespace").WithField("net_ns")
	case len(g.Cgroup) == 0:
		return errors.New(errors.InvalidArgument, "a machine has a control group").WithField("cgroup")
	}
	return nil
}
