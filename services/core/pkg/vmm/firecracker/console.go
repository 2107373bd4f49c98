package firecracker

import (
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// consoleFile is a pipe that a monitor writes its log and the guest's serial
// console to. The monitor holds both of its ends, so it needs no reader, keeps
// what a pipe holds, 64 KiB, and what does not fit is lost: a guest can fill
// nothing with it, and nobody has to live beside it.
const consoleFile = "console"

func makeConsole(g microvm.Guest) (*os.File, error) {
	path := filepath.Join(g.Dir, consoleFile)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return openConsole(g)
}

func openConsole(g microvm.Guest) (*os.File, error) {
	path := filepath.Join(g.Dir, consoleFile)
	// Not by package os, whose poller would wait for what is not there.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readConsole takes out what is there now.
func readConsole(f *os.File) string {
	raw, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	buf := make([]byte, 64<<10)
	n := 0
	_ = raw.Control(func(fd uintptr) {
		for n < len(buf) {
			k, err := unix.Read(int(fd), buf[n:])
			if k <= 0 || err != nil {
				break
			}
			n += k
		}
	})
	return printable(string(buf[:n]))
}
