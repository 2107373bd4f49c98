package qemu

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"golang.org/x/sys/unix"
)

// launch is a monitor to be started.
type launch struct {
	dir   string // an empty place to mount its root at
	uid   uint32
	args  []string
	files []*os.File // its descriptors from 3 on
	shown []shown    // what its root shows beside QEMU
	// opened is what it gets instead, whatever the rights of its own, when it opens
	// a path of its root for reading and writing.
	opened map[string]*os.File
	// cgroup holds it; nil: where this process is.
	cgroup []string
	// netNS is the network namespace that it runs in; empty: one of its own, with
	// nothing in it.
	netNS string
	// tap is the network device to open in there, and hand over as the next
	// descriptor after files: nil: none. An unnamed one is made.
	tap *string
	// limit bounds the length of files that it writes.
	limit int64
	// tied makes it end with this process.
	tied bool
}

// monitor is a process that was started.
type monitor struct {
	pid        int
	errors     *os.File // what it says when it cannot go on
	supervisor *supervisor
	opened     map[string]*os.File
	kvm        *os.File      // nil: it has none
	served     chan struct{} // closed when no more files are opened for it
	stop       func()        // ends that
	untie      func()        // lets its thread end; nil unless tied
}

// start starts a monitor on a host, in its surroundings. They are put on by a
// thread of this process that ends afterwards, so there is no moment at which it
// is outside of them.
func (l *launch) start(h *host) (*monitor, error) {
	said, say, err := os.Pipe()
	if err != nil {
		return nil, fault.Of(err, "cannot start a monitor")
	}
	defer say.Close()
	m := &monitor{errors: said, served: make(chan struct{}), opened: maps.Clone(l.opened)}
	if h.accelerator == KVM {
		if err := m.allowKVM(); err != nil {
			said.Close()
			return nil, err
		}
	}
	started := make(chan error, 1)
	end := make(chan struct{})
	if l.tied {
		m.untie = func() { close(end) }
	}
	onOwnThread(func() {
		err := l.startHere(h.binary, say, m)
		started <- err
		if err == nil && l.tied {
			<-end // the monitor ends with the thread that started it
		}
	})
	if err := <-started; err != nil {
		said.Close()
		if m.kvm != nil {
			m.kvm.Close()
		}
		return nil, fault.Of(err, "cannot start a monitor")
	}
	say.Close()
	if err = m.supervisor.wait(m.pid); err == nil {
		err = l.limits(m.pid)
	}
	if err != nil {
		return nil, fault.Of(m.failed(err), "cannot start a monitor")
	}
	return m, nil
}

// allowKVM lets it use KVM by this process's rights; it needs none of its own.
func (m *monitor) allowKVM() (err error) {
	if m.kvm, err = os.OpenFile(kvmDevice, os.O_RDWR, 0); err != nil {
		return errors.Wrap(err, errors.Unsupported, "KVM cannot be used here")
	}
	if m.opened == nil {
		m.opened = map[string]*os.File{}
	}
	m.opened[kvmDevice] = m.kvm
	return nil
}

// supervise begins to answer for a monitor that is about to be started.
func (m *monitor) supervise(s *supervisor) {
	m.supervisor = s
	go func() {
		defer close(m.served)
		s.serve()
	}()
	m.stop = func() { s.listener.Close() }
}

// onOwnThread runs f in a goroutine on a thread whose namespaces it may change:
// the thread ends with it.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// The process's first thread does not end, and what it is the process is
		// taken for. While this goroutine holds it, the next gets another.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		onOwnThread(func() {
			defer close(done)
			f()
		})
		<-done
	}()
}

// startHere makes the calling thread what the monitor is to be, and starts it.
func (l *launch) startHere(binary string, say *os.File, m *monitor) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: l.uid, Gid: l.uid},
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if l.tied {
		attr.Pdeathsig = unix.SIGKILL
	}
	files := append([]*os.File{null, say, say}, l.files...)
	if err := l.enterNet(); err != nil {
		return err
	}
	if l.tap != nil {
		tap, err := openTap(*l.tap)
		if err != nil {
			return err
		}
		defer tap.Close()
		files = append(files, tap)
	}
	if err := buildRoot(l.dir, binary, l.shown); err != nil {
		return err
	}
	listener, err := filterCalls()
	if err != nil {
		return err
	}
	m.supervise(&supervisor{listener: listener, opened: m.opened, join: l.join, joined: make(chan error, 1)})
	process, err := os.StartProcess(binary, append([]string{binary}, l.args...), &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin"}, Files: files, Sys: attr,
	})
	if err != nil {
		listener.Close()
		return err
	}
	m.pid = process.Pid
	_ = process.Release()
	return nil
}

func (l *launch) enterNet() error {
	if l.netNS == "" {
		return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
	}
	ns, err := os.Open(l.netNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
}

// limits bounds what a monitor can take that its control group does not. They are
// set with its own rights: those of another need a capability that root in a
// container lacks.
func (l *launch) limits(pid int) error {
	done := make(chan error, 1)
	onOwnThread(func() {
		id := uintptr(l.uid)
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of this thread alone
			if _, _, errno := unix.RawSyscall(call, id, id, id); errno != 0 {
				done <- os.NewSyscallError("setresuid", errno)
				return
			}
		}
		for what, most := range map[int]uint64{
			unix.RLIMIT_CORE:   0,
			unix.RLIMIT_NOFILE: 256,
			unix.RLIMIT_FSIZE:  uint64(l.limit), // a length
		} {
			if err := unix.Prlimit(pid, what, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
				done <- os.NewSyscallError("prlimit", err)
				return
			}
		}
		done <- nil
	})
	return <-done
}

// openTap opens a network device of the calling thread's namespace.
func openTap(name string) (*os.File, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// join puts a process into the control group.
func (l *launch) join(pid int) error {
	for _, dir := range l.cgroup {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// kill ends a monitor that is not to be used, and takes its remains.
func (m *monitor) kill() {
	_ = unix.Kill(m.pid, unix.SIGKILL)
	m.wait()
}

// wait waits for a monitor that ends.
func (m *monitor) wait() {
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(m.pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	m.release()
}

// release lets go of a monitor that goes on by itself.
func (m *monitor) release() {
	m.stop()
	<-m.served
	m.errors.Close()
	if m.kvm != nil {
		m.kvm.Close()
	}
	if m.untie != nil {
		m.untie()
		m.untie = nil
	}
}

// failed is the error of a monitor that did not come to speak: with what it
// said, for logs, if that is why.
func (m *monitor) failed(err error) error {
	_ = unix.Kill(m.pid, unix.SIGKILL)
	said := m.complaint()
	m.wait()
	if said == "" || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Wrap(errors.Join(err, errors.Plain(said)), errors.Internal, "the monitor does not start")
}

func (m *monitor) complaint() string {
	_ = m.errors.SetReadDeadline(time.Now().Add(time.Second))
	text, _ := io.ReadAll(io.LimitReader(m.errors, 4<<10))
	return strings.TrimSpace(string(text))
}

// everything reads what the monitor says until it ends, or says too much.
func (m *monitor) everything() string {
	text, _ := io.ReadAll(io.LimitReader(m.errors, 64<<10))
	return string(text)
}
