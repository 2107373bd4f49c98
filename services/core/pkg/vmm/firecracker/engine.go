package firecracker

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// Backend is how a restored guest gets its memory.
type Backend string

// The backends.
const (
	File Backend = "file" // mapped from the snapshot's file, copied on write
	UFFD Backend = "uffd" // page by page from a page server; what earlier runs touched comes first
)

// Limit bounds a device; zero fields bound nothing.
type Limit struct {
	BytesPerSecond int64 `json:"bytes_per_second"`
	OpsPerSecond   int64 `json:"ops_per_second"`
}

// Config is what an engine works with. All may be zero.
type Config struct {
	// Binary and Jailer are names or paths, of the same version; "": firecracker and jailer.
	Binary string
	Jailer string
	// Pager is the name or path of the page server (cmd/fc-pager), which UFFD needs;
	// "": aetherium-fc-pager.
	Pager string
	// Backend of restored guests; "": File.
	Backend Backend
	// Disk bounds each disk, Network each direction of the network device.
	Disk, Network Limit
	// FullSnapshots has every snapshot written whole. Else a guest's writes are
	// tracked, and a snapshot on a file system with reflinks shares with the one
	// before what was not written since.
	FullSnapshots bool
	// KernelArgs are further parameters of guests' kernels.
	KernelArgs string
	Logger     *slog.Logger // nil: discard
}

// Engine runs guests in Firecracker. It is safe for concurrent use, as the
// contract of [microvm.Engine] has it.
type Engine struct {
	cfg Config
	log *slog.Logger

	looking sync.Mutex
	found   *host // what was found out last; of who is looking

	connections connections

	mu       sync.Mutex
	consoles map[string]*os.File // of guests that were not heard yet, by directory
}

var _ microvm.Engine = (*Engine)(nil)

// New makes an engine. Nothing is looked for yet. Returns InvalidArgument.
func New(cfg Config) (*Engine, error) {
	switch cfg.Backend {
	case "":
		cfg.Backend = File
	case File, UFFD:
	default:
		return nil, errors.New(errors.InvalidArgument, "%q is not a way to restore memory", cfg.Backend).
			WithField("backend").WithHint("one of file and uffd")
	}
	for field, v := range map[string]int64{
		"disk.bytes_per_second": cfg.Disk.BytesPerSecond, "disk.ops_per_second": cfg.Disk.OpsPerSecond,
		"network.bytes_per_second": cfg.Network.BytesPerSecond, "network.ops_per_second": cfg.Network.OpsPerSecond,
	} {
		if v < 0 {
			return nil, errors.New(errors.InvalidArgument, "a rate cannot be negative").WithField(field)
		}
	}
	for name, v := range map[*string]string{&cfg.Binary: "firecracker", &cfg.Jailer: "jailer", &cfg.Pager: "aetherium-fc-pager"} {
		if *name == "" {
			*name = v
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{cfg: cfg, log: cfg.Logger, consoles: map[string]*os.File{}}, nil
}

// Name is the driver's name.
const Name = "firecracker"

// Name is the driver's name.
func (e *Engine) Name() string { return Name }

// Overhead is what a monitor and its page server may take beside their guest's
// memory: a few megabytes each, and the small disk of the jail.
func (e *Engine) Overhead(context.Context) (int64, error) { return 64 << 20, nil }

// MaxDrives is how many drives a guest can have.
func (e *Engine) MaxDrives() int { return maxDrives }

// startPatience bounds how long a monitor may take to come to speak.
const startPatience = time.Minute

// find gives the path of a program itself, not that of a link to it.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "%s is not installed", filepath.Base(name)).
			WithHint("install firecracker and jailer, of one release, 1.12 or newer")
	}
	return path, nil
}

// Freeze stops a guest's processors. Returns Conflict when it does not run.
func (e *Engine) Freeze(ctx context.Context, g microvm.Guest) error {
	c := newClient(g)
	defer c.Close()
	return c.Pause(ctx)
}

// Thaw lets them go on. Returns Conflict when the guest does not run.
func (e *Engine) Thaw(ctx context.Context, g microvm.Guest) error {
	c := newClient(g)
	defer c.Close()
	return c.Resume(ctx)
}

// Shutdown presses Ctrl+Alt+Del, which Linux takes as a wish to reboot, and a
// reboot ends a Firecracker. A guest that does not run is success.
func (e *Engine) Shutdown(ctx context.Context, g microvm.Guest) error {
	c := newClient(g)
	defer c.Close()
	if err := c.PressReset(ctx); err != nil && !errors.HasCode(err, errors.Conflict) {
		return err
	}
	return nil
}

// Clean removes nothing from the host: what a run leaves is in its directory,
// and what was mounted for it ended with it.
func (e *Engine) Clean(_ context.Context, g microvm.Guest) error {
	e.forget(g)
	e.connections.drop(g)
	return nil
}

// Close lets go of what is held in this process.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.consoles {
		_ = f.Close()
	}
	clear(e.consoles)
	return nil
}

// keepConsole keeps what a guest says until it is heard, for a guest that ends
// before takes it along.
func (e *Engine) keepConsole(g microvm.Guest, f *os.File) {
	e.forget(g)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.consoles[g.Dir] = f
}

func (e *Engine) forget(g microvm.Guest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.consoles[g.Dir]; f != nil {
		_ = f.Close()
		delete(e.consoles, g.Dir)
	}
}

// said is what a guest that was not heard yet has said, for logs.
func (e *Engine) said(g microvm.Guest) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.consoles[g.Dir]; f != nil {
		return readConsole(f)
	}
	return ""
}

// Console reads what a guest and its monitor have said since it was last read,
// as much as a pipe holds.
func (e *Engine) Console(_ context.Context, g microvm.Guest) ([]byte, error) {
	f, err := openConsole(g)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return []byte(readConsole(f)), nil
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r != 0x7f {
			return r
		}
		return -1
	}, strings.TrimSpace(s))
}
