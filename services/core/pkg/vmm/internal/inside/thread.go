package inside

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OwnThread runs f on a thread that is not used again, whatever f makes of it.
func OwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread does not end, and what it is the process
			// is taken for. While this goroutine holds it, the next gets another.
			defer runtime.UnlockOSThread()
			result <- OwnThread(f)
			return
		}
		result <- f()
	}()
	return <-result
}
