package qemu

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// host is what was found out about QEMU here.
type host struct {
	binary       string
	file         os.FileInfo // the binary, to see that another was installed
	version      string      // as it calls itself
	major, minor int
	accelerator  Accelerator
	model        string // of the guests' processor
}

// String is what a saved memory depends on.
func (h *host) String() string { return fmt.Sprintf("%s %s %s", h.version, h.accelerator, h.model) }

// atLeast reports a version.
func (h *host) atLeast(major, minor int) bool {
	return h.major > major || h.major == major && h.minor >= minor
}

// countsWrites reports whether QEMU sees all that a running guest writes. In
// software it misses some (before 9.0 it is known where, "physmem: Fix migration
// dirty bitmap coherency with TCG memory access", and that was not all): what
// was sent ahead would be of different moments, and a guest that goes on from
// it would sooner or later fall over.
func (h *host) countsWrites() bool { return h.accelerator == KVM }

// Version is QEMU's, its accelerator and the model of its guests' processor. The
// first call finds out, and may take a while. Returns Unsupported.
func (e *Engine) Version(ctx context.Context) (string, error) {
	h, err := e.host(ctx)
	if err != nil {
		return "", err
	}
	return h.String(), nil
}

// MaxDrives is how many drives a guest can have.
func (e *Engine) MaxDrives() int { return maxDrives }

// Overhead is what a monitor may take beside its guest's memory, for who limits
// both together. Returns Unsupported as Version does.
func (e *Engine) Overhead(ctx context.Context) (int64, error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	const itself = 64 << 20
	if h.accelerator == TCG {
		return itself + translations, nil
	}
	return itself, nil
}

// host finds out what there is, once. What fails is tried again.
func (e *Engine) host(ctx context.Context) (*host, error) {
	e.looking.Lock()
	defer e.looking.Unlock()
	if e.found != nil && e.found.stands() {
		return e.found, nil
	}
	h, err := e.look(ctx)
	if err == nil {
		e.found = h
	}
	return h, err
}

// stands reports whether QEMU is still the one that was looked at.
func (h *host) stands() bool {
	now, err := os.Stat(h.binary)
	return err == nil && os.SameFile(now, h.file) && now.ModTime().Equal(h.file.ModTime()) && now.Size() == h.file.Size()
}

var versionForm = regexp.MustCompile(`^QEMU emulator version (([0-9]+)\.([0-9]+)[0-9.]*)`)

func (e *Engine) look(ctx context.Context) (*host, error) {
	binary, err := e.binary()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "-version").Output()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "QEMU does not run here")
	}
	parts := versionForm.FindStringSubmatch(string(out))
	if parts == nil {
		return nil, errors.New(errors.Unsupported, "QEMU does not say its version")
	}
	h := &host{binary: binary, version: parts[1]}
	if h.file, err = os.Stat(binary); err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "QEMU does not run here")
	}
	h.major, _ = strconv.Atoi(parts[2])
	h.minor, _ = strconv.Atoi(parts[3])
	if !h.atLeast(7, 2) {
		return nil, errors.New(errors.Unsupported, "QEMU %s is too old", h.version).WithHint("7.2 or newer is needed")
	}
	if err := catchable(); err != nil {
		return nil, err
	}
	return h, e.choose(ctx, h)
}

// catchable checks that the kernel can ask about system calls, see supervisor.
func catchable() error {
	err := checkSizes()
	if err == nil {
		return nil
	}
	return errors.Wrap(err, errors.Unsupported, "this kernel cannot hand files to monitors").
		WithHint("Linux 5.9 or newer is needed, and its seccomp in containers")
}

// choose finds the accelerator.
func (e *Engine) choose(ctx context.Context, h *host) error {
	if e.cfg.Accelerator == TCG {
		h.useTCG()
		return nil
	}
	err := e.proveKVM(ctx, h)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case e.cfg.Accelerator == KVM:
		return errors.Wrap(err, errors.Unsupported, "guests do not boot with KVM here")
	}
	e.log.Info("guests are emulated", "reason", err)
	h.useTCG()
	return nil
}

func (h *host) useTCG() { h.accelerator, h.model = TCG, emulated }

func (h *host) useKVM() error {
	name, err := processorName()
	if err != nil {
		return err
	}
	h.accelerator, h.model = KVM, "host ("+name+")"
	return nil
}

// processorName is what the host's processor calls itself: a guest with a
// processor just like it goes on only on the same.
func processorName() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return "", errors.Plain("the processor has no name")
}

// proofPatience is how long a kernel may take with KVM until it looks for its
// root: it takes less than a second, or for ever where KVM does not work.
const proofPatience = 8 * time.Second
