package boot

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// orderFile names the modules in the initramfs, in the order to load them in.
const orderFile = "/modules/order"

// Wanted reports whether this process is the first one of a machine, in its initramfs.
func Wanted() bool {
	if os.Getpid() != 1 {
		return false
	}
	_, err := os.Stat(orderFile)
	return err == nil
}

// Phase is a part of the start, and when it ended on the kernel's clock.
type Phase struct {
	Name string
	At   time.Duration // since the kernel started, clock_gettime(CLOCK_BOOTTIME)
}

// Machine is one that has started.
type Machine struct {
	Line   bootline.Line
	Phases []Phase
	late   *late
}

// Start makes the machine. It must be called before anything else is done.
func Start() (*Machine, error) {
	m := &Machine{}
	m.phase("kernel")
	if err := kernelFiles(); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	if m.Line, err = bootline.Parse(string(raw)); err != nil {
		return nil, err
	}
	devices, err := watchDevices()
	if err != nil {
		return nil, err
	}
	defer devices.close()
	if m.late, err = loadModules(); err != nil {
		return nil, err
	}
	m.phase("modules")
	for _, d := range m.Line.Drives {
		if err := devices.wait("/dev/" + d.Device); err != nil {
			return nil, err
		}
	}
	if err := mountDrives(m.Line.Drives); err != nil {
		return nil, err
	}
	m.phase("disks")
	if err := enter(); err != nil {
		return nil, err
	}
	if err := furnish(); err != nil {
		return nil, err
	}
	m.phase("mounts")
	return m, nil
}

// phase ends one.
func (m *Machine) phase(name string) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		m.Phases = append(m.Phases, Phase{Name: name, At: time.Duration(ts.Nano())})
	}
}

// Settle loads what a machine can do without until it is first told who it is:
// its network and what its kernel draws random numbers from. It may be called
// again, and at once.
func (m *Machine) Settle() error { return m.late.load() }

// PowerOff ends the machine. What ran in it has ended, and its file systems were
// written; it does not return.
func PowerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	// No way to power off is known to this kernel: the monitor takes a restart for an end.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for {
		time.Sleep(time.Hour)
	}
}

// kernelFiles mounts what the kernel tells of itself.
func kernelFiles() error {
	for _, m := range []struct {
		kind, at string
		flags    uintptr
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"devtmpfs", "/dev", unix.MS_NOSUID},
	} {
		// EBUSY: the kernel mounted it.
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "mount", Path: m.at, Err: err}
		}
	}
	return nil
}
