package microvm

import (
	"context"
	"net"
	"time"
)

// Engine runs guests, each in a monitor process of its own that outlives this
// process. A [Driver] calls it for one guest at a time only, but for Dial; a
// call that was interrupted by a crash is made again, or followed by Clean.
type Engine interface {
	// Name is the driver's name.
	Name() string
	// Version is the monitor's, and whatever else a memory snapshot depends on
	// (accelerator, CPU model): one is restored only where this is the same.
	// Returns Unsupported when there is none, or none that works.
	Version(ctx context.Context) (string, error)
	// Overhead is what a monitor may take beside its guest's memory, in bytes.
	Overhead(ctx context.Context) (int64, error)
	// MaxDrives is how many drives a guest can have.
	MaxDrives() int
	// Boot starts a guest from its disks. It returns the monitor's process ID when
	// the guest's kernel is on its way; Dial waits for the agent.
	Boot(ctx context.Context, g Guest) (pid int, err error)
	// Restore makes a guest that stands still, with the saved memory: Thaw lets it
	// go on from there. So its driver can write down that the saved memory is used
	// up before the guest does anything. What the guest's
	// network device and disks are is as the Guest says; the files are the same
	// in number, order and size. Memory is copied on write: nothing writes to the
	// snapshot's files, which many guests may have mapped at once.
	Restore(ctx context.Context, g Guest, from Memory) (pid int, err error)
	// Freeze stops the guest's processors, Thaw lets them go on. Already so is success.
	Freeze(ctx context.Context, g Guest) error
	Thaw(ctx context.Context, g Guest) error
	// Save writes a running or frozen guest's memory and devices to the directory
	// to.Dir, which is empty. At the moment that what is written is of, while the guest
	// stands still and its disks are flushed to their files, it calls disk, which copies them.
	// Afterwards the guest goes on if it ran, unless last is set: then it need not,
	// for its monitor will be killed. It returns how long the guest stood still.
	// On an error the guest goes on as it was.
	Save(ctx context.Context, g Guest, to Memory, last bool, disk func(context.Context) error) (time.Duration, error)
	// Dial connects to the guest's agent. It waits until the agent listens, ctx
	// ends, or the guest has ended.
	Dial(ctx context.Context, g Guest) (net.Conn, error)
	// Shutdown asks the guest to power off and returns at once; where the monitor
	// cannot, it does nothing.
	Shutdown(ctx context.Context, g Guest) error
	// Clean removes what a run of the guest left beside g.Dir, which the driver
	// removes. No process of it lives any more. Nothing there is success.
	Clean(ctx context.Context, g Guest) error
	// Close lets go of what is held in this process. Guests go on.
	Close() error
}

// Guest is what a monitor needs to know of a machine. All paths are absolute.
// UID can reach the files of drives, and read and write them as far as the
// guest may; those of the kernel are for all to read.
type Guest struct {
	ID  string
	Dir string // of this run: sockets and logs; exists, owned by UID, empty before Boot and Restore
	UID uint32 // user and group that the monitor runs as; no other machine's
	// Cgroup holds the monitor: its processes are started in there. On cgroup v1
	// there is one directory per controller.
	Cgroup []string
	// NetNS is a file of the network namespace that the monitor runs in; nothing
	// else is in there but the tap and what it hangs on.
	NetNS string
	// Kernel and what it boots with.
	Kernel Kernel
	// Drives in the order of their devices: the template's root filesystem (read
	// only), the machine's own disk, then further read-only trees.
	Drives []Drive
	CPUs   int
	Memory int64 // bytes, a multiple of 1 MiB
	Link   *Link // nil: no network device
}

// Kernel is what guests of one kind boot.
type Kernel struct {
	Version string // as in `uname -r`
	Image   string // bzImage
	ELF     string // vmlinux, uncompressed, for monitors that load no bzImage
	Initrd  string // modules and the agent, which is /init; uncompressed
}

// Drive is a disk of a guest.
type Drive struct {
	Path     string // a raw image
	ReadOnly bool
	// Role tells the agent what to do with it, see package bootline: "root", "disk",
	// or "mount:" or "file:" and the path that it is mounted at.
	Role string
}

// Link is a guest's network device.
type Link struct {
	Tap string           // the tap's name in the guest's NetNS; owned by its UID
	MAC net.HardwareAddr // the guest's
	MTU int
}

// Memory is a saved memory: files in a directory that are the engine's own.
// The files belong to root, and UID can read them.
type Memory struct {
	Dir string
}
