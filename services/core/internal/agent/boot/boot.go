package boot

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// modulesDir is where an initramfs has the kernel's modules, see package kernel of
// the drivers. It tells one from other roots.
const modulesDir = "/modules"

// Machine is what was booted.
type Machine struct {
	// Listeners take the host's connections.
	Listeners []net.Listener
	// Phases are how far the boot had come when.
	Phases []Phase

	log      *slog.Logger
	modules  *modules
	later    sync.Once
	complete atomic.Bool // all of the modules are loaded
	disk     *os.File    // the directory that the machine's disk is mounted at
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
	m := &Machine{log: log}
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
	if m.Listeners, err = listen(ctx, line.Channel, events, log); err != nil {
		return nil, err
	}
	t.reach("channel")
	m.Phases = t.phases
	return m, nil
}

// leisure is how long after it was told who it is a machine gets the rest of its
// modules: its first command does not wait for them.
const leisure = 5 * time.Second

// Settle loads what a machine can do without until it is first told who it is:
// its network, if it has one. All is what else it may come to need, which it gets
// at leisure otherwise. It may be called again, and at once.
func (m *Machine) Settle(network, all bool) error {
	if m.complete.Load() {
		return nil
	}
	if all {
		err := m.modules.load(append(hardware(byDevice()), "tcp_diag")...)
		m.complete.Store(err == nil)
		return err
	}
	m.later.Do(func() {
		time.AfterFunc(leisure, func() {
			if err := m.Settle(network, true); err != nil {
				m.log.Warn("not all of the machine's devices can be used", "error", err)
			}
		})
	})
	if !network {
		return nil
	}
	return m.modules.load("virtio_net")
}

func commandLine() (bootline.Line, error) {
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return bootline.Line{}, errors.Wrap(err, errors.Internal, "the kernel's command line cannot be read")
	}
	return bootline.Parse(string(raw))
}

// limits undoes those that a kernel has for its first process, and so for all
// that it starts: what a machine may do is told to it by its host.
func limits() error {
	const files = 1 << 20
	infinite := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	return errors.Join(
		os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})),
		os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NPROC, &infinite)),
	)
}
