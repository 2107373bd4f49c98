// Package pager is the page server of one guest that Firecracker restores by
// userfaultfd(2): it hands out the pages of a saved memory as the guest wants
// them, those that earlier runs wanted ahead of that.
//
// It is the first process of a process namespace, starts the guest's monitor in
// there, and gives up its rights. So each ends with the other, by the kernel's
// hand, and nobody has to watch. What the monitor sends is checked like anything
// that a guest could have a hand in.
package pager

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The descriptors that a page server is started with.
const (
	fdListener = 3
	fdMemory   = 4
	fdTouched  = 5
)

// handOver bounds how long a monitor may take to hand over its memory.
const handOver = 2 * time.Minute

// Main runs a page server: `fc-pager --uid N --root DIR -- MONITOR [ARGUMENT...]`.
// It starts the monitor and executes itself anew, as `fc-pager --uid N --serve`,
// without rights. It returns when the monitor has ended, or with an error, upon
// which the process is to end, and the monitor with it.
func Main(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fc-pager", flag.ContinueOnError)
	uid := flags.Int("uid", 0, "user and group `ID` of the monitor, and of this process once it serves")
	root := flags.String("root", "", "empty `directory` that is this process's root once it serves")
	serving := flags.Bool("serve", false, "the monitor is started, and the rights are given up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *uid <= 0 || *serving != (*root == "") || *serving != (flags.NArg() == 0) {
		return fmt.Errorf("usage: fc-pager --uid N --root DIR -- MONITOR [ARGUMENT...]")
	}
	if os.Getpid() != 1 {
		return fmt.Errorf("not the first process of a process namespace")
	}
	if *serving {
		return serve(*uid)
	}
	if err := startMonitor(ctx, flags.Args()); err != nil {
		return err
	}
	return giveUp(*uid, *root)
}

// startMonitor starts the monitor, which has none of the descriptors.
func startMonitor(ctx context.Context, args []string) error {
	for fd := fdListener; fd <= fdTouched; fd++ {
		unix.CloseOnExec(fd)
	}
	monitor := exec.CommandContext(ctx, args[0], args[1:]...)
	monitor.Stdout, monitor.Stderr, monitor.Env = os.Stdout, os.Stderr, []string{}
	return monitor.Start()
}

// giveUp executes the program anew, with what it holds open and no way to more.
// It returns only with an error.
//
// IDs are each thread's own (credentials(7)). This thread alone changes its own,
// and is the only one after that: package syscall would change those of all that
// the runtime has, each in a handler of a signal, and waits until they all have.
func giveUp(id int, root string) error {
	runtime.LockOSThread()
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	args, err := syscall.SlicePtrFromStrings([]string{"fc-pager", "--uid", strconv.Itoa(id), "--serve"})
	if err != nil {
		return err
	}
	none := unix.Rlimit{}
	env := []*byte{nil}
	for _, step := range []struct {
		what string
		err  func() error
	}{
		{"fcntl", func() error { return keepOpen(fdListener, fdMemory, fdTouched) }},
		{"chroot", func() error { return unix.Chroot(root) }},
		{"chdir", func() error { return unix.Chdir("/") }},
		{"setrlimit", func() error { return unix.Setrlimit(unix.RLIMIT_FSIZE, &none) }},
		{"setrlimit", func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &none) }},
		{"setgroups", func() error { return unix.Setgroups(nil) }},
		{"setresgid", func() error { return unix.Setresgid(id, id, id) }},
		{"setresuid", func() error { return unix.Setresuid(id, id, id) }},
		{"execveat", func() error { return execute(self, args, env) }},
	} {
		if err := step.err(); err != nil {
			return os.NewSyscallError(step.what, err)
		}
	}
	return nil
}

func keepOpen(fds ...int) error {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return nil
}

// execute has the process go on as the program that a descriptor is of
// (execveat(2)): there is no path to it any more.
func execute(fd int, args, env []*byte) error {
	var here [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&here[0])),
		uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}

// serve serves the memory of the monitor, which was started before this program
// was executed anew.
func serve(uid int) error {
	// The monitor has the same ID. Nothing of a guest runs in it yet: it has not
	// handed over a memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	for fd := fdListener; fd <= fdTouched; fd++ {
		unix.CloseOnExec(fd)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reap()
	}()
	memory, err := openMemory(os.NewFile(fdMemory, "memory"), os.NewFile(fdTouched, "touched"))
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		fault, regions, err := receive(os.NewFile(fdListener, "listener"), uint32(uid), memory.size) // as parsed
		if err != nil {
			failed <- err
			return
		}
		failed <- newServer(memory, fault, regions).serve()
	}()
	select {
	case <-ended:
		return nil
	case err := <-failed:
		return err
	}
}

// reap waits until no process of the namespace is left but this one.
func reap() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD { //nolint:errorlint // a raw errno
			return
		}
	}
}
