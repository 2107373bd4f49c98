// Package process names processes of the host so that none is ever taken for
// another, and follows them to their end without being their parent.
package process

import (
	"os"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// Process names a process so that no other is ever taken for it: its ID may be
// used again after it ended, and everything after a reboot.
type Process struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"` // field 22 of proc_pid_stat(5)
	BootID     string `json:"boot_id"`
}

// BootID tells apart the host's boots (random(4)).
func BootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw)), err
}

// stat is what is read of /proc/PID/stat.
type stat struct {
	state  byte
	parent int
	ticks  uint64
	exit   unix.WaitStatus // of one that has ended, field 52; needs the right to trace it
}

func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	// The command name in parentheses may hold anything; fields count from its end.
	text := string(raw)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 50 {
		return stat{}, errors.Plain("short stat line")
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, err
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, err
	}
	exit, err := strconv.ParseUint(fields[49], 10, 32)
	return stat{state: fields[0][0], parent: parent, ticks: ticks, exit: unix.WaitStatus(exit)}, err
}

func (s stat) ended() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// Identify names the living process with an ID. Returns unix.ESRCH when it has ended.
func Identify(pid int, bootID string) (*Process, error) {
	st, err := readStat(pid)
	if err != nil {
		return nil, err
	}
	if st.ended() {
		return nil, unix.ESRCH
	}
	return &Process{PID: pid, StartTicks: st.ticks, BootID: bootID}, nil
}

// Alive reports whether the process still runs; nil does not.
func (p *Process) Alive(bootID string) bool {
	if p == nil || p.BootID != bootID {
		return false
	}
	st, err := readStat(p.PID)
	return err == nil && st.ticks == p.StartTicks && !st.ended()
}

// FD is a descriptor of a process that becomes readable when it ends.
type FD struct {
	file  *os.File
	pid   int
	ticks uint64
}

// Open opens a living process. Returns unix.ESRCH when it has ended.
func (p *Process) Open(bootID string) (*FD, error) {
	if p == nil || p.BootID != bootID {
		return nil, unix.ESRCH
	}
	const nonblock = unix.O_NONBLOCK // PIDFD_NONBLOCK, so that the runtime's poller takes it
	fd, err := unix.PidfdOpen(p.PID, nonblock)
	if err == unix.EINVAL { // before Linux 5.10
		if fd, err = unix.PidfdOpen(p.PID, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		return nil, err
	}
	f := &FD{file: os.NewFile(uintptr(fd), "pidfd"), pid: p.PID, ticks: p.StartTicks}
	// Only now: the descriptor holds the ID, so what is read is of the same process.
	if st, err := readStat(p.PID); err != nil || st.ticks != p.StartTicks {
		f.Close()
		return nil, unix.ESRCH
	}
	return f, nil
}

// Close lets go of the process and ends Wait.
func (f *FD) Close() { f.file.Close() }

// Signal sends a signal; a process that has ended is success.
func (f *FD) Signal(sig unix.Signal) error {
	var result error
	if err := f.control(func(fd int) { result = unix.PidfdSendSignal(fd, sig, nil, 0) }); err != nil {
		return err
	}
	if result == unix.ESRCH {
		return nil
	}
	return result
}

func (f *FD) control(use func(fd int)) error {
	c, err := f.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { use(int(fd)) })
}

// Wait blocks without holding a thread until the process has ended. It ends
// early with an error when the descriptor is closed.
func (f *FD) Wait() error {
	c, err := f.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 && err == nil
	})
}

// Status learns how an ended process ended: as its parent when that is us (the
// first process of a host, or of a container, inherits machines, and reaps
// them here); from its remains while the parent has not taken them; else from
// the kernel's memory of it (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
func (f *FD) Status() (ws unix.WaitStatus, known bool) {
	st, err := readStat(f.pid)
	remains := err == nil && st.ticks == f.ticks && st.ended()
	if remains && st.parent == os.Getpid() {
		if n, err := unix.Wait4(f.pid, &ws, unix.WNOHANG, nil); err == nil && n == f.pid {
			return ws, true
		}
	}
	if remains {
		return st.exit, true
	}
	err = f.control(func(fd int) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if unix.IoctlPidfdInfo(fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			ws, known = unix.WaitStatus(uint32(info.Exit_code)), true
		}
	})
	return ws, known && err == nil
}
