package nspair

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// asOwner runs fn on a thread whose effective user ID is id, while it keeps the
// process's capabilities. The thread ends with it.
func asOwner(id uint32, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread does not end, and what it is the process
			// is taken for. While this goroutine holds it, the next gets another.
			defer runtime.UnlockOSThread()
			done <- asOwner(id, fn)
			return
		}
		if err := becomeOwner(id); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// becomeOwner changes the calling thread alone: libc and Go would change all.
func becomeOwner(id uint32) error {
	const noSetUIDFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP: capabilities stay (capabilities(7))
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetUIDFixup, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(id), same); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}
