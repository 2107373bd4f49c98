package microvm

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"golang.org/x/sys/unix"
)

const (
	mib = 1 << 20
	// minMemory is what a kernel, its agent and a shell need.
	minMemory = 64 * mib
	// diskFile is a machine's disk in its volume.
	diskFile = "disk.ext4"
	// diskSlack is what a volume may hold beside its disk.
	diskSlack = 16 * mib
	// endless is the size of disks without a limit: they are sparse.
	endless = 1 << 40
)

// Create prepares a machine. See [vmm.Driver].
func (d *Driver) Create(ctx context.Context, spec vmm.Spec) (vmm.Handle, error) {
	if err := d.checkSpec(spec); err != nil {
		return nil, err
	}
	ctx, done, err := d.turns.Begin(ctx, spec.MachineID, false)
	if err != nil {
		return nil, err
	}
	defer done()
	m, err := d.load(spec.MachineID)
	switch {
	case errors.HasCode(err, errors.NotFound):
		m = &machine{facts: facts{Version: recordVersion, MachineID: spec.MachineID, Spec: spec, CreatedAt: time.Now().UTC()}}
		if err := d.saveFacts(m); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case m.run.Phase == phaseDeleting:
		return nil, errors.New(errors.Conflict, "the machine is being deleted")
	case m.Whole:
		return m.handle(d.engine.Name()), nil
	}
	if err := d.booted.yield(ctx, func() error { return d.furnish(ctx, m) }); err != nil {
		return nil, err
	}
	m.Whole = true
	if err := d.saveFacts(m); err != nil {
		return nil, err
	}
	return m.handle(d.engine.Name()), nil
}

// furnish makes a machine's network, images and disk; each step finds what an
// earlier call left.
func (d *Driver) furnish(ctx context.Context, m *machine) error {
	spec := m.Spec
	if spec.Memory {
		kept, err := d.keptMemory(d.cfg.snapshot(spec.DiskFrom))
		if err != nil {
			return err
		}
		if err := kept.fits(spec); err != nil {
			return err
		}
		m.Kernel, m.Drives = kept.Kernel, kept.Drives
	} else {
		var err error
		if m.Drives, err = d.images.drives(ctx, d.cfg.imagesDir(), spec); err != nil {
			return err
		}
		if err := d.booted.choose(ctx, m); err != nil {
			return err
		}
	}
	if _, err := d.cfg.Network.Acquire(ctx, spec.MachineID, spec.Network, spec.Hostname); err != nil {
		return err
	}
	volume := d.cfg.paths(spec.MachineID).volume
	switch {
	case spec.DiskFrom != "":
		return d.fromStored(ctx, spec, d.cfg.snapshot(spec.DiskFrom), volume)
	case m.Booted != "":
		if err := d.fromStored(ctx, spec, d.cfg.booted(m.Booted), volume); !errors.HasCode(err, errors.NotFound) {
			return err
		}
		m.Booted = "" // it was dropped since it was chosen: the machine boots
	}
	return d.fromBlank(ctx, spec, volume)
}

// fromBlank makes a machine's disk of an empty one.
func (d *Driver) fromBlank(ctx context.Context, spec vmm.Spec, volume string) error {
	size := diskSize(spec.Resources.DiskBytes)
	blank, err := d.blank(ctx, size)
	if err != nil {
		return err
	}
	return d.cfg.Volumes.Clone(ctx, blank, volume, size+diskSlack)
}

// fromStored makes a machine's disk of a snapshot's. It has the size that it
// had; where the machine is to have a larger one, it grows when it boots next.
func (d *Driver) fromStored(ctx context.Context, spec vmm.Spec, from stored, volume string) error {
	info, err := os.Lstat(filepath.Join(d.cfg.Volumes.Path(from.disk), diskFile))
	if err != nil {
		return errors.Wrap(err, errors.NotFound, "there is no such snapshot")
	}
	if !info.Mode().IsRegular() || info.Size() > endless {
		return errors.New(errors.Internal, "the snapshot's disk is not what it was")
	}
	return d.cfg.Volumes.Clone(ctx, from.disk, volume, max(info.Size(), diskSize(spec.Resources.DiskBytes))+diskSlack)
}

// grow makes a machine's disk as large as it is to be; its agent does the same
// with the file system. A disk never shrinks.
func (d *Driver) grow(m *machine) error {
	f, err := os.OpenFile(filepath.Join(d.cfg.Volumes.Path(d.cfg.paths(m.MachineID).volume), diskFile), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fault.Of(err, "the machine's disk is not there")
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Size() < diskSize(m.Spec.Resources.DiskBytes) {
		err = f.Truncate(diskSize(m.Spec.Resources.DiskBytes))
	}
	return fault.Of(err, "cannot make the machine's disk larger")
}

// diskSize is the size of a disk with a limit.
func diskSize(limit int64) int64 {
	if limit == 0 {
		return endless
	}
	const least, unit = 8 * mib, 1 << 20
	return max(least, (limit+unit-1)/unit*unit)
}

// own gives a machine's disk to the user that its monitor runs as: the file, but
// not its directory, where a monitor could put another file in its place.
func (d *Driver) own(volume string, uid uint32) error {
	f, err := os.OpenFile(filepath.Join(d.cfg.Volumes.Path(volume), diskFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fault.Of(err, "cannot give the machine its disk")
	}
	defer f.Close()
	return fault.Of(errors.Join(f.Chown(int(uid), int(uid)), f.Chmod(0o600)), "cannot give the machine its disk")
}

func (d *Driver) checkSpec(s vmm.Spec) error {
	bad := func(field, message string) error {
		return errors.New(errors.InvalidArgument, "%s", message).WithField(field)
	}
	switch {
	case !idForm.MatchString(s.MachineID):
		return bad("machine_id", "this is not a machine ID")
	case s.DiskFrom != "" && !idForm.MatchString(s.DiskFrom):
		return bad("disk_from", "this is not a snapshot ID")
	case s.Memory && s.DiskFrom == "":
		return bad("memory", "memory is a snapshot's")
	case !idForm.MatchString(s.BuildID):
		return bad("build_id", "this is not a build ID")
	case !filepath.IsAbs(s.RootFS):
		return bad("rootfs", "the root filesystem must be an absolute path")
	case !hostnameForm.MatchString(s.Hostname):
		return bad("hostname", "this is not a hostname")
	case s.Resources.MilliCPU <= 0 || s.Resources.MemoryBytes <= 0 || s.Resources.PIDs <= 0 || s.Resources.DiskBytes < 0:
		return bad("resources", "a machine needs CPU, memory and process limits")
	case s.Resources.MemoryBytes < minMemory:
		return errors.New(errors.InvalidArgument, "%d bytes are too little for a kernel of its own", s.Resources.MemoryBytes).
			WithField("memory_bytes").WithHint("at least %d MiB", minMemory/mib)
	case s.Network != domain.NetworkNone && s.Network != domain.NetworkNAT:
		return bad("network", "the network mode is none or nat")
	case s.Platform != "" && s.Platform != "linux/"+runtime.GOARCH:
		return errors.New(errors.Unsupported, "this node runs linux/%s only", runtime.GOARCH).WithField("platform")
	}
	// Two are its own: the template and its disk.
	if most := d.engine.MaxDrives() - 2; len(s.Mounts) > most {
		return bad("mounts", fmt.Sprintf("at most %d directories and files can be mounted in a machine of the driver %s, and this one is to have %d: "+
			"one for each tool, and one that all tools have in common", most, d.engine.Name(), len(s.Mounts)))
	}
	for _, mount := range s.Mounts {
		switch {
		case !filepath.IsAbs(mount.Source):
			return bad("mounts", "a mount's source must be an absolute path")
		case !path.IsAbs(mount.Target) || path.Clean(mount.Target) != mount.Target || mount.Target == "/":
			return bad("mounts", "a mount's target must be an absolute path below /")
		case !mount.ReadOnly:
			return errors.New(errors.Unsupported, "a machine with a kernel of its own shares no files with its host to write to").WithField("mounts")
		}
	}
	return nil
}
