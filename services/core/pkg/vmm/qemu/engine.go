package qemu

import (
	"context"
	"log/slog"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// Accelerator is how guests' processors are made.
type Accelerator string

// The accelerators.
const (
	Auto Accelerator = ""    // KVM where it is seen to work, else TCG
	KVM  Accelerator = "kvm" // the processor's own virtualisation
	TCG  Accelerator = "tcg" // in software
)

// Config is what an engine works with. All may be zero.
type Config struct {
	// Binary is the name or path of QEMU; "": qemu-system-x86_64.
	Binary      string
	Accelerator Accelerator
	// Kernel gives what to prove KVM with; nil: KVM is used only where Accelerator says so.
	Kernel func(context.Context) (microvm.Kernel, error)
	Logger *slog.Logger // nil: discard
}

// Engine runs guests in QEMU. It is safe for concurrent use, as the contract of
// [microvm.Engine] has it.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	tsc    func() uint64 // the rate of the host's time stamp counter, in kHz
	binary func() (string, error)

	passages passages

	looking sync.Mutex
	found   *host // nil until it was found out; of who is looking

	mu       sync.Mutex
	channels map[string]*channel
	closed   bool
}

// New makes an engine. Nothing is looked for yet. Returns InvalidArgument.
func New(cfg Config) (*Engine, error) {
	switch cfg.Accelerator {
	case Auto, KVM, TCG:
	default:
		return nil, errors.New(errors.InvalidArgument, "%q is not an accelerator", cfg.Accelerator).
			WithField("accelerator").WithHint("one of kvm and tcg, or none for whichever works")
	}
	if cfg.Binary == "" {
		cfg.Binary = "qemu-system-x86_64"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{
		cfg: cfg, log: cfg.Logger, channels: map[string]*channel{},
		tsc:    sync.OnceValue(tscRate),
		binary: func() (string, error) { return findBinary(cfg.Binary) },

		passages: passages{available: availableMemory},
	}, nil
}

var _ microvm.Engine = (*Engine)(nil)

// Name is the driver's name.
const Name = "qemu"

// Name is the driver's name.
func (e *Engine) Name() string { return Name }

// findBinary gives the path of QEMU itself, not that of a link to it.
func findBinary(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "QEMU is not installed").
			WithHint("install qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora), 7.2 or newer")
	}
	return path, nil
}

// startPatience bounds how long a monitor may take to come to speak.
const startPatience = 30 * time.Second

// Shutdown does nothing: this machine has no power button. Its agent can be asked.
func (e *Engine) Shutdown(context.Context, microvm.Guest) error { return nil }

// Clean removes nothing: what a run leaves is in its directory. A monitor that a
// saving needs ends with the process that saves.
func (e *Engine) Clean(_ context.Context, g microvm.Guest) error {
	e.forget(g)
	return nil
}

// Close lets go of the channels to guests' agents.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	channels := e.channels
	e.channels = nil
	e.mu.Unlock()
	for _, c := range channels {
		c.close()
	}
	return nil
}
