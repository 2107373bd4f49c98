// Package wallclock gives processes a time of day of their own, which can be set
// while they run, as an administrator or a time server sets a host's. A program
// asks the vDSO for the time, an image that the kernel puts into every process;
// one that is started through a [Clock] has another in its place. Its other
// clocks, which measure time, are the host's, as are those of what it starts.
package wallclock

import (
	"debug/elf"
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// Supported reports whether a process can have a clock of its own here: the
// image is one processor's.
const Supported = runtime.GOARCH == "amd64"

var (
	//go:embed testdata/vdso.c
	source []byte
	//go:embed testdata/vdso.lds
	layout []byte
)

// Clock is a time of day.
type Clock struct {
	image string
	at    int64 // in the image, of what it is ahead of the host's
}

// New makes a clock that is the host's as yet, from files in a directory.
// It needs a C compiler.
func New(dir string) (*Clock, error) {
	c := &Clock{image: filepath.Join(dir, "vdso")}
	for name, text := range map[string][]byte{".c": source, ".lds": layout} {
		if err := os.WriteFile(c.image+name, text, 0o600); err != nil {
			return nil, err
		}
	}
	out, err := exec.Command("cc", "-Os", "-fPIC", "-shared", "-nostdlib", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", //nolint:noctx,gosec // at once
		"-Wl,--hash-style=sysv,--build-id=none", "-Wl,-T,"+c.image+".lds", "-o", c.image, c.image+".c").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cc: %w: %s", err, out)
	}
	file, err := elf.Open(c.image)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	symbols, err := file.Symbols()
	for _, s := range symbols {
		if s.Name == "ahead" {
			c.at = int64(s.Value) //nolint:gosec // a small file, whose addresses are offsets
		}
	}
	if err == nil && c.at == 0 {
		err = fmt.Errorf("%s has no offset in it", c.image)
	}
	return c, err
}

// Set makes the clock ahead of the host's, by whole seconds, at once for all
// processes that have it; negative: behind.
func (c *Clock) Set(ahead time.Duration) error {
	file, err := os.OpenFile(c.image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(ahead/time.Second)), c.at) //nolint:gosec // as it is in memory
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}

// launch is the first argument of this program as a launcher.
const launch = "under-the-wall-clock"

// Through is what a program is started by that is to have the clock, before its
// own path and arguments. It is this program again, whose main calls [Main].
func (c *Clock) Through() ([]string, error) {
	self, err := os.Executable()
	return []string{self, launch, c.image}, err
}

// Main starts a program where this one was called as [Clock.Through] says, and
// does not return then. The program is a child, and outlives this process.
func Main() {
	if len(os.Args) < 4 || os.Args[1] != launch {
		return
	}
	if err := start(os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "wallclock:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
