package firecracker

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	insidens "github.com/aetherium/aetherium/services/core/pkg/vmm/internal/inside"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// launch is a monitor to be started.
type launch struct {
	guest   microvm.Guest
	jail    *jail
	args    []string // program and arguments: the jailer, or a page server that starts it
	files   []*os.File
	newPIDs bool // it is the first process of a process namespace
}

// monitor is a process that was started and does not go on by itself yet.
type monitor struct {
	process *os.Process
	console *os.File
	ended   chan struct{} // closed when the process has ended: the jailer does, when Firecracker goes on in a child of it
	failed  error         // valid then: it ended badly
	release func()        // from then on it lives without this process
}

// jailerArgs start Firecracker in the guest's surroundings.
func (h *host) jailerArgs(g microvm.Guest, newPIDs bool) []string {
	id := strconv.FormatUint(uint64(g.UID), 10)
	args := []string{
		h.jailer.path, "--id", g.ID, "--exec-file", h.binary.path, "--uid", id, "--gid", id,
		"--chroot-base-dir", filepath.Join(g.Dir, "jail"), "--resource-limit", "no-file=1024",
	}
	if g.NetNS != "" {
		args = append(args, "--netns", g.NetNS)
	}
	if newPIDs {
		args = append(args, "--new-pid-ns")
	}
	return append(args, "--", "--api-sock", filepath.Join(jailRun, apiSocket), "--level", "Warn")
}

// start starts a monitor and waits until it can be talked to. A monitor that is
// not there yet ends with this process.
func (e *Engine) start(ctx context.Context, l *launch) (_ *api.Client, pid int, err error) {
	if err := l.jail.makeDirs(l.guest.UID); err != nil {
		return nil, 0, fault.Of(err, "cannot make a monitor's root")
	}
	m := &monitor{ended: make(chan struct{})}
	if m.console, err = makeConsole(l.guest); err != nil {
		return nil, 0, fault.Of(err, "cannot start a monitor")
	}
	started, done := make(chan error, 1), make(chan struct{})
	m.release = func() { close(done) }
	go func() {
		_ = insidens.OwnThread(func() error {
			err := l.startHere(m)
			started <- err
			if err == nil {
				<-done // until then the monitor ends with the thread that started it
			}
			return nil
		})
	}()
	if err := <-started; err != nil {
		m.console.Close()
		return nil, 0, fault.Of(err, "cannot start a monitor")
	}
	go func() {
		defer close(m.ended)
		state, err := m.process.Wait()
		if err == nil && !state.Success() {
			err = errors.Plain(state.String())
		}
		m.failed = err
	}()
	defer m.release()
	if pid, err = m.wait(ctx, l); err != nil {
		said := readConsole(m.console)
		m.console.Close()
		_ = m.process.Kill()
		if said != "" {
			err = errors.Join(err, errors.Plain(said))
		}
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		return nil, 0, errors.Wrap(err, errors.Internal, "the monitor does not start")
	}
	e.keepConsole(l.guest, m.console)
	return newClient(l.guest), pid, nil
}

// wait waits until the monitor's API can be reached, and what was started no
// longer ends with the thread that started it: a page server may be slower to give
// up its rights than the monitor is to come to speak.
func (m *monitor) wait(ctx context.Context, l *launch) (int, error) {
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	ended := m.ended
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		pid, err := monitorPID(ctx, l.guest)
		if err == nil && l.newPIDs {
			err = isOf(m.process.Pid, l.guest.UID)
		}
		if err == nil {
			return pid, nil
		}
		select {
		case <-ended:
			if m.failed != nil {
				return 0, m.failed
			}
			ended = nil // its child goes on
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-patience.C:
			return 0, err
		case <-time.After(pause):
		}
	}
}

// isOf checks that a process has taken on a user's ID.
func isOf(pid int, uid uint32) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	// Real, effective, saved, and that for files (proc_pid_status(5)).
	if !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", uid)) {
		return errors.New(errors.Internal, "the page server does not give up its rights")
	}
	return nil
}

// startHere makes the calling thread what the monitor is to be, and starts it.
func (l *launch) startHere(m *monitor) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := l.jail.build(); err != nil {
		return err
	}
	attr := &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL, // until it takes on the guest's ID, which ends that (prctl(2))
		Ptrace:     true,         // it stops before its first step
	}
	if l.newPIDs {
		attr.Cloneflags |= unix.CLONE_NEWPID
	}
	m.process, err = os.StartProcess(l.args[0], l.args, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: append([]*os.File{null, m.console, m.console}, l.files...), Sys: attr,
	})
	if err != nil {
		return err
	}
	if err := l.place(m); err != nil {
		_ = m.process.Kill()
		_, _ = m.process.Wait()
		return err
	}
	return nil
}

// place puts a monitor that stands before its first step into its control
// groups, and lets it go. This thread traces it: no process of this one's could
// go ahead into the groups without this one being killed with the guest.
func (l *launch) place(m *monitor) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(m.process.Pid, &status, unix.WALL, nil)
		if err == unix.EINTR { //nolint:errorlint // a raw errno
			continue
		}
		if err != nil {
			return os.NewSyscallError("wait4", err)
		}
		break
	}
	if !status.Stopped() {
		return errors.Plain("the monitor ends as it begins")
	}
	for _, dir := range l.guest.Cgroup {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(m.process.Pid)), 0)
		if err != nil {
			return err
		}
	}
	// Handing it over made it wait for readers (os.File.Fd).
	raw, err := m.console.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	if err := raw.Control(func(fd uintptr) { setErr = unix.SetNonblock(int(fd), true) }); err != nil || setErr != nil {
		return errors.Join(err, setErr)
	}
	return os.NewSyscallError("ptrace", unix.PtraceDetach(m.process.Pid))
}

// within calls f on a thread in another mount namespace.
func within(ns *os.File, f func() error) error {
	return insidens.OwnThread(func() error {
		// A thread that shares its root and working directory cannot change namespaces.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// listenUffd binds the socket on which a monitor hands over its memory. It is
// the page server's afterwards.
func listenUffd(g microvm.Guest) (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, err := os.Open(runDir(g))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// By descriptor: a socket's path is short (unix(7)).
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), uffdSocket), Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Lchown(filepath.Join(runDir(g), uffdSocket), int(g.UID), int(g.UID)); err != nil {
		return nil, err
	}
	return l.File()
}
