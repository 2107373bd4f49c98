package firecracker

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

const (
	// kernelArgs: a reboot is what ends a Firecracker; there is neither a PCI bus
	// nor a mouse; the console is a pipe that holds little.
	kernelArgs = "console=ttyS0 quiet loglevel=1 reboot=k panic=-1 pci=off " +
		"i8042.noaux i8042.nomux i8042.dumbkbd"
	guestCID  = 3 // every monitor has a vsock of its own
	networkID = "eth0"
	// maxDrives: of the 19 interrupts that there are for devices on x86 (5 to 23), the
	// network, the vsock, the entropy device, the balloon, and the IDs of a VM's
	// generation and of its clock have one each.
	maxDrives = 19 - 6
	maxCPUs   = 32
	refillMS  = 1000
)

// Boot starts a guest from its disks, see [microvm.Engine]. Returns InvalidArgument.
func (e *Engine) Boot(ctx context.Context, g microvm.Guest) (pid int, err error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	if err := check(g); err != nil {
		return 0, err
	}
	if err := bootline.CheckLength(e.bootArgs(g)); err != nil {
		return 0, err
	}
	if as := (run{Disk: e.cfg.Disk, Network: e.cfg.Network}); as != (run{}) {
		if err := as.write(g); err != nil {
			return 0, err
		}
	}
	j := newJail(g, h.binary.path)
	j.files = append(j.files, jailed{jailKernel, g.Kernel.ELF, false}, jailed{jailInitrd, g.Kernel.Initrd, false})
	c, pid, err := e.start(ctx, &launch{guest: g, jail: j, args: h.jailerArgs(g, true)})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := e.configure(ctx, c, h, g); err != nil {
		return 0, e.abandon(g, pid, err)
	}
	return pid, nil
}

// abandon ends a monitor that is of no use.
func (e *Engine) abandon(g microvm.Guest, pid int, err error) error {
	_ = unix.Kill(pid, unix.SIGKILL)
	if said := e.said(g); said != "" {
		e.log.Warn("a guest did not start", "machine", g.ID, "said", said)
	}
	e.forget(g)
	return err
}

// check looks for what Firecracker would refuse, and what would be a path of ours.
func check(g microvm.Guest) error {
	switch {
	case g.CPUs < 1 || g.CPUs > maxCPUs:
		return errors.New(errors.InvalidArgument, "a machine of this driver has 1 to %d processors", maxCPUs).WithField("resources/cpus")
	case g.Memory < 1<<20 || g.Memory%(1<<20) != 0:
		return errors.New(errors.InvalidArgument, "a machine's memory is a multiple of 1 MiB").WithField("resources/memory")
	case len(g.Drives) > maxDrives:
		return errors.New(errors.InvalidArgument, "a machine of this driver has at most %d disks", maxDrives).
			WithField("mounts").WithHint("mount fewer directories")
	case g.UID == 0:
		return errors.New(errors.Internal, "a monitor cannot be root")
	case g.ID == "" || len(g.ID) > 64 || strings.Trim(strings.ToLower(g.ID), "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return errors.New(errors.InvalidArgument, "%q cannot name a monitor", g.ID).WithField("id")
	}
	return nil
}

// configure says what the guest is, and starts it.
func (e *Engine) configure(ctx context.Context, c *api.Client, h *host, g microvm.Guest) error {
	if err := c.SetBoot(ctx, api.BootSource{Kernel: jailKernel, Initrd: jailInitrd, Args: e.bootArgs(g)}); err != nil {
		return err
	}
	if err := c.SetMachine(ctx, api.Machine{CPUs: g.CPUs, MemoryMiB: g.Memory >> 20, TrackDirty: e.tracks(h, g)}); err != nil {
		return err
	}
	for i, d := range g.Drives {
		if err := c.AddDrive(ctx, api.Drive{
			ID: driveID(i), Path: jailDrive(i), ReadOnly: d.ReadOnly, Cache: api.Writeback, Limiter: limiter(e.cfg.Disk),
		}); err != nil {
			return err
		}
	}
	if g.Link != nil {
		if err := c.AddNetwork(ctx, api.Network{
			ID: networkID, Tap: g.Link.Tap, MAC: g.Link.MAC.String(), Rx: limiter(e.cfg.Network), Tx: limiter(e.cfg.Network),
		}); err != nil {
			return err
		}
	}
	if err := c.SetVsock(ctx, api.Vsock{CID: guestCID, Path: jailRun + "/" + vsockSocket}); err != nil {
		return err
	}
	if err := c.SetEntropy(ctx); err != nil {
		return err
	}
	if h.version.atLeast(1, 14) { // before, a balloon gives nothing back by itself
		if err := c.SetBalloon(ctx, api.Balloon{DeflateOnOOM: true, Reporting: true}); err != nil {
			return err
		}
	}
	return c.Start(ctx)
}

func driveID(i int) string { return "drive" + string(rune('a'+i)) } // at most maxDrives

// bootArgs is the kernel's command line. Disks are named in the order of the calls.
func (e *Engine) bootArgs(g microvm.Guest) string {
	line := bootline.Line{Channel: bootline.ChannelVsock}
	for i, d := range g.Drives {
		line.Drives = append(line.Drives, bootline.Drive{Device: "vd" + string(rune('a'+i)), Role: d.Role})
	}
	words := []string{kernelArgs, line.String()}
	if e.cfg.KernelArgs != "" {
		words = append(words, e.cfg.KernelArgs)
	}
	return strings.Join(words, " ")
}

// limiter is a limit as Firecracker takes it; nil: there is none.
func limiter(l Limit) *api.Limiter {
	if l == (Limit{}) {
		return nil
	}
	all := whole(l)
	if l.BytesPerSecond == 0 {
		all.Bandwidth = nil
	}
	if l.OpsPerSecond == 0 {
		all.Ops = nil
	}
	return all
}

// whole is a limiter that takes the place of another. An empty bucket bounds nothing.
func whole(l Limit) *api.Limiter {
	return &api.Limiter{
		Bandwidth: &api.Bucket{Size: l.BytesPerSecond, RefillMS: refillMS}, Ops: &api.Bucket{Size: l.OpsPerSecond, RefillMS: refillMS},
	}
}
