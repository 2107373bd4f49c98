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
	"syscall"
	"time"

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
// It returns when the monitor has ended, or with an error, upon which the process
// is to end, and the monitor with it.
func Main(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fc-pager", flag.ContinueOnError)
	uid := flags.Int("uid", 0, "user and group `ID` of the monitor, and of this process once it serves")
	root := flags.String("root", "", "empty `directory` that is this process's root once it serves")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *uid <= 0 || *root == "" || flags.NArg() == 0 {
		return fmt.Errorf("usage: fc-pager --uid N --root DIR -- MONITOR [ARGUMENT...]")
	}
	if os.Getpid() != 1 {
		return fmt.Errorf("not the first process of a process namespace")
	}
	for fd := fdListener; fd <= fdTouched; fd++ {
		unix.CloseOnExec(fd)
	}
	monitor := exec.CommandContext(ctx, flags.Arg(0), flags.Args()[1:]...)
	monitor.Stdout, monitor.Stderr, monitor.Env = os.Stdout, os.Stderr, []string{}
	if err := monitor.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		reap()
	}()
	if err := giveUp(*uid, *root); err != nil {
		return err
	}
	memory, err := openMemory(os.NewFile(fdMemory, "memory"), os.NewFile(fdTouched, "touched"))
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		fault, regions, err := receive(os.NewFile(fdListener, "listener"), uint32(*uid), memory.size) // as parsed
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

// giveUp leaves the process with what it holds open, and no way to more. Package
// syscall changes the IDs of all threads.
func giveUp(id int, root string) error {
	none := unix.Rlimit{}
	for _, step := range []struct {
		what string
		err  func() error
	}{
		{"chroot", func() error { return unix.Chroot(root) }},
		{"chdir", func() error { return unix.Chdir("/") }},
		{"setrlimit", func() error { return unix.Setrlimit(unix.RLIMIT_FSIZE, &none) }},
		{"setrlimit", func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &none) }},
		{"setgroups", func() error { return syscall.Setgroups(nil) }},
		{"setresgid", func() error { return syscall.Setresgid(id, id, id) }},
		{"setresuid", func() error { return syscall.Setresuid(id, id, id) }},
		{"prctl", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }}, // the monitor has the same ID
	} {
		if err := step.err(); err != nil {
			return os.NewSyscallError(step.what, err)
		}
	}
	return nil
}
