package qemu

import (
	"bytes"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A monitor's first steps are supervised: a filter on a thread of ours, which what
// it starts inherits, has the kernel ask this process about two system calls
// (seccomp_unotify(2), Linux 5.9).
//
// The C library's first call, set_tid_address, waits until the monitor is in its
// control group. It cannot be put there before it is a program, and in version 1
// of control groups a thread of this process could not go ahead without this
// process being in there, to be killed with the guest.
//
// QEMU opens the file of a memory for reading and writing whatever it does with
// it (before 8.2 that cannot even be asked otherwise), and one that may be
// written would be every guest's that goes on from it. So this process puts in a
// descriptor of its own choice.
//
// When nobody answers any more such openings fail, and so does a monitor that
// loses this process before it is where it belongs.

// The structures of linux/seccomp.h.
type (
	seccompData struct {
		number int32
		arch   uint32
		ip     uint64
		args   [6]uint64
	}
	seccompNotif struct {
		id    uint64
		pid   uint32
		flags uint32
		data  seccompData
	}
	seccompResponse struct {
		id    uint64
		value int64
		err   int32
		flags uint32
	}
	seccompAddFD struct {
		id         uint64
		flags      uint32
		from       uint32
		to         uint32
		descriptor uint32 // its flags
	}
)

const (
	ioctlReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	ioctlSend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	ioctlAddFD   = 0x40182103 // SECCOMP_IOCTL_NOTIF_ADDFD

	flagNewListener = 1 << 3 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	flagContinue    = 1      // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// checkSizes has the kernel confirm the sizes of the structures above.
func checkSizes() error {
	var sizes [3]uint16 // struct seccomp_notif_sizes
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes[0])))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	ours := [3]uint16{uint16(unsafe.Sizeof(seccompNotif{})), uint16(unsafe.Sizeof(seccompResponse{})), uint16(unsafe.Sizeof(seccompData{}))}
	if sizes != ours {
		return errors.Plain("its notifications have another form")
	}
	return nil
}

// filterCalls puts the filter on the calling thread and gives who listens to it.
func filterCalls() (*os.File, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	// Offsets in struct seccomp_data; the lower half of a flags argument comes
	// first on the little-endian machines that there are guests for.
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_SET_TID_ADDRESS, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_OPENAT, SkipFalse: 4},
		bpf.LoadAbsolute{Off: 16 + 2*8, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: unix.O_ACCMODE},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.O_RDWR, SkipFalse: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]} // a handful
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flagNewListener, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return nil, os.NewSyscallError("seccomp", errno)
	}
	if err := unix.SetNonblock(int(fd), true); err != nil {
		return nil, err
	}
	return os.NewFile(fd, "seccomp listener"), nil
}

// supervisor answers for what one monitor may do.
type supervisor struct {
	listener *os.File
	opened   map[string]*os.File // what it gets when it opens a path
	join     func(pid int) error // puts it where it belongs
	joined   chan error          // what came of that
}

// serve answers until the listener is closed or all who are asked about have ended.
func (s *supervisor) serve() {
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n seccompNotif
		var errno unix.Errno
		err := raw.Read(func(fd uintptr) bool {
			// Receiving waits, nonblocking or not.
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} // a descriptor
			if k, err := unix.Poll(fds, 0); k == 0 || err != nil {
				return false
			}
			if fds[0].Revents&unix.POLLIN == 0 {
				errno = unix.ESRCH // nobody is left to ask
				return true
			}
			n = seccompNotif{}
			errno = ioctl(fd, ioctlReceive, unsafe.Pointer(&n))
			return true
		})
		switch {
		case err != nil:
			return
		case errno == unix.EINTR || errno == unix.ENOENT: // who asked is gone by now
			continue
		case errno != 0:
			return
		}
		_ = raw.Control(func(fd uintptr) { s.answer(fd, &n) })
	}
}

// wait waits until the monitor is where it belongs.
func (s *supervisor) wait(pid int) error {
	const boot = "this" // it is of this boot, as one of ours
	child, err := process.Identify(pid, boot)
	if err != nil {
		return err
	}
	fd, err := child.Open(boot)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = fd.Wait()
	}()
	defer func() {
		fd.Close()
		<-ended
	}()
	select {
	case err := <-s.joined:
		return err
	case <-ended:
		return errors.New(errors.Internal, "the monitor ends as it begins")
	case <-time.After(startPatience):
		return errors.New(errors.Internal, "the monitor does not begin")
	}
}

// answer lets a call go on, or puts a descriptor in its place.
func (s *supervisor) answer(listener uintptr, n *seccompNotif) {
	if n.data.number == unix.SYS_SET_TID_ADDRESS {
		err := s.join(int(n.pid))
		select {
		case s.joined <- err:
		default: // a thread that does the same
		}
		if err != nil {
			return // it is ended, and waits until then
		}
	} else if f := s.opened[pathAt(int(n.pid), n.data.args[1])]; f != nil {
		add := seccompAddFD{id: n.id, from: uint32(f.Fd()), descriptor: unix.O_CLOEXEC} // a descriptor
		if fd, errno := ioctlValue(listener, ioctlAddFD, unsafe.Pointer(&add)); errno == 0 {
			done := seccompResponse{id: n.id, value: int64(fd)} // a descriptor
			_ = ioctl(listener, ioctlSend, unsafe.Pointer(&done))
			return
		}
		no := seccompResponse{id: n.id, err: -int32(unix.EACCES)}
		_ = ioctl(listener, ioctlSend, unsafe.Pointer(&no))
		return
	}
	// What it asks for may change after it was read. It gets no more by that than
	// its own rights allow.
	on := seccompResponse{id: n.id, flags: flagContinue}
	_ = ioctl(listener, ioctlSend, unsafe.Pointer(&on))
}

// pathAt reads a path from a process's memory; empty where that is none.
func pathAt(pid int, address uint64) string {
	buf := make([]byte, 256)
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	remote := []unix.RemoteIovec{{Base: uintptr(address), Len: len(buf)}}
	n, err := unix.ProcessVMReadv(pid, local, remote, 0)
	if err != nil {
		// The path may end at a page's end, and nothing be behind it.
		remote[0].Len = int(4096 - address%4096)
		local[0].Len = uint64(min(remote[0].Len, len(buf)))
		remote[0].Len = int(local[0].Len)
		if n, err = unix.ProcessVMReadv(pid, local, remote, 0); err != nil {
			return ""
		}
	}
	path, _, ok := bytes.Cut(buf[:n], []byte{0})
	if !ok {
		return ""
	}
	return string(path)
}

func ioctl(fd, request uintptr, p unsafe.Pointer) unix.Errno {
	_, errno := ioctlValue(fd, request, p)
	return errno
}

func ioctlValue(fd, request uintptr, p unsafe.Pointer) (uintptr, unix.Errno) {
	v, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(p))
	return v, errno
}
