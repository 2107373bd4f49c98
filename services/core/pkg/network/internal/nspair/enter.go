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
	go func() { done <- inNet(path, fn) }()
	return <-done
}

// inNet runs on a goroutine of its own: where the thread does not come home,
// it stays locked and ends with the goroutine. A thread in the wrong
// namespace must never be used again.
func inNet(path string, fn func(host int) error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = home.Close() }()
	target, err := os.Open(path)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = unix.Setns(int(target.Fd()), unix.CLONE_NEWNET)
	_ = target.Close()
	if err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("setns", err)
	}
	err = fn(int(home.Fd()))
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
