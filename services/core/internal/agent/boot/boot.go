package boot

import (
	"context"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// modulesDir is where an initramfs has the kernel's modules, see package kernel of
// the drivers. It tells one from other roots.
const modulesDir = "/modules"

// Machine is what was booted.
type Machine struct {
	// Listener takes the host's connections.
	Listener net.Listener
	// Phases are how far the boot had come when.
	Phases []Phase

	modules *modules
	disk    *os.File // the directory that the machine's disk is mounted at
}

// Wanted reports whether this process is the first one of a machine, in its initramfs.
func Wanted() bool {
	if os.Getpid() != 1 {
		return false
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil || fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return false
	}
	_, err := os.Stat(modulesDir + "/" + orderFile)
	return err == nil
}

// Start boots the machine as far as its host can be served. Its root is "/" then.
func Start(ctx context.Context, log *slog.Logger) (*Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t := &trace{}
	t.reach("kernel")
	m := &Machine{}
	if err := mountAll("", early()); err != nil {
		return nil, err
	}
	line, err := commandLine()
	if err != nil {
		return nil, err
	}
	if m.modules, err = openModules(modulesDir); err != nil {
		return nil, err
	}
	events, err := listenEvents()
	if err != nil {
		return nil, err
	}
	defer events.close()
	if err := m.modules.load("virtio_mmio", "virtio_blk", channelModule(line.Channel), "overlay"); err != nil {
		return nil, err
	}
	t.reach("modules")
	if err := m.mountRoot(ctx, line, events, t); err != nil {
		return nil, err
	}
	if err := limits(); err != nil {
		log.Warn("limits stay as the kernel has them", "error", err)
	}
	if m.Listener, err = listen(ctx, line.Channel, events, log); err != nil {
		return nil, err
	}
	t.reach("channel")
	m.Phases = t.phases
	return m, nil
}

// Settle loads what a machine can do without until it is first told who it is:
// its network and what its kernel draws random numbers from. It may be called
// again, and at once.
func (m *Machine) Settle() error { return m.modules.load(m.modules.hardware()...) }

func commandLine() (bootline.Line, error) {
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return bootline.Line{}, errors.Wrap(err, errors.Internal, "the kernel's command line cannot be read")
	}
	return bootline.Parse(string(raw))
}

// limits undoes those that a kernel has for its first process, and so for all
// that it starts: what a machine may do is told to it by its host. And they are
// as in a container in what everyone may: listen on any port, send pings.
func limits() error {
	const files = 1 << 20
	infinite := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	return errors.Join(
		os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})),
		os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NPROC, &infinite)),
		os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0),
		raiseLoopback(),
	)
}

// raiseLoopback makes localhost reachable (netdevice(7)).
func raiseLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(s) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("ioctl", unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request))
}
