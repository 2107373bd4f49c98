package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// sigaction is the kernel's struct sigaction on amd64 and arm64 (rt_sigaction(2)).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	signals = 64 // _NSIG
	sigDfl  = 0
	sigIgn  = 1
)

// DefaultSignals gives every signal that this process inherited as ignored its
// default action: being ignored is inherited through fork and exec, and a
// program that counts on SIGHUP or SIGPIPE would never hear of it. It asks the
// kernel, for Go's runtime leaves out the numbers that C libraries use
// themselves (32, 33). Use it once, at the start of a process.
func DefaultSignals() error {
	for s := 1; s <= signals; s++ {
		var now sigaction
		if errno := rtSigaction(s, nil, &now); errno != 0 {
			return errors.Wrap(errno, errors.Internal, "cannot read what signal %d does", s)
		}
		if now.handler != sigIgn {
			continue
		}
		if errno := rtSigaction(s, &sigaction{handler: sigDfl}, nil); errno != 0 {
			return errors.Wrap(errno, errors.Internal, "cannot reset signal %d", s)
		}
	}
	return nil
}

func rtSigaction(signal int, set, get *sigaction) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)), unsafe.Sizeof(sigaction{}.mask), 0, 0)
	return errno
}
