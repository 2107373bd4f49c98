package nspair

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNet runs fn on a thread that is in the network namespace pinned at path,
// so that sockets it opens and /proc/sys/net are that namespace's. fn must not
// start goroutines that rely on it. host is a descriptor of the namespace the
// caller is in, for moving links; it is valid during fn only.
func InNet(path string, fn func(host int) error) error {
	done := make(chan error, 1)
	go func() {
		// The thread ends with this goroutine unless it is back home: a thread
		// in the wrong namespace must never be used again.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer func() { _ = home.Close() }()
		target, err := os.Open(path)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer func() { _ = target.Close() }()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- os.NewSyscallError("setns", err)
			return
		}
		err = fn(int(home.Fd()))
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
