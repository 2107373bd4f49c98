package spawn

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// Size is a terminal's size in character cells.
type Size struct{ Cols, Rows uint16 }

// OrDefault is the size with 80×24 for what is zero: programs divide by it.
func (s Size) OrDefault() Size {
	if s.Cols == 0 {
		s.Cols = 80
	}
	if s.Rows == 0 {
		s.Rows = 24
	}
	return s
}

// ends are both ends of a process's input and output: descriptors for the
// child, files for the agent.
type ends struct {
	child   [3]int
	process Process
}

func (e *ends) closeChild() {
	for i, fd := range e.child {
		if fd >= 0 && (i == 0 || fd != e.child[0]) {
			_ = unix.Close(fd)
		}
	}
}

func (e *ends) closeParent() {
	for _, f := range []*os.File{e.process.Stdin, e.process.Stdout, e.process.Stderr, e.process.Terminal} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func openPipes(u *osuser.User, stdin bool) (_ *ends, err error) {
	e := &ends{child: [3]int{-1, -1, -1}}
	defer func() {
		if err != nil {
			e.closeChild()
			e.closeParent()
		}
	}()
	if stdin {
		if e.child[0], e.process.Stdin, err = pipe(u, true); err != nil {
			return nil, err
		}
	} else if e.child[0], err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if e.child[1], e.process.Stdout, err = pipe(u, false); err != nil {
		return nil, err
	}
	if e.child[2], e.process.Stderr, err = pipe(u, false); err != nil {
		return nil, err
	}
	return e, nil
}

// pipe makes a pipe whose child end blocks, as programs expect, and whose
// agent end does not, so that the runtime's poller serves it. The child's end
// is given to the user, or opening /dev/stdout anew would be refused to it.
func pipe(u *osuser.User, input bool) (child int, agent *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, nil, err
	}
	child, own, name := fds[1], fds[0], "output"
	if input {
		child, own, name = fds[0], fds[1], "input"
	}
	if err := unix.SetNonblock(own, true); err != nil {
		_ = unix.Close(child)
		_ = unix.Close(own)
		return -1, nil, err
	}
	if os.Geteuid() == 0 && u.UID != 0 {
		_ = unix.Fchown(child, int(u.UID), int(u.GID))
	}
	return child, os.NewFile(uintptr(own), name), nil
}

func openTerminal(u *osuser.User, size Size) (_ *ends, err error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	e := &ends{child: [3]int{-1, -1, -1}, process: Process{Terminal: os.NewFile(uintptr(master), "terminal")}}
	defer func() {
		if err != nil {
			e.closeParent()
		}
	}()
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	slave, err := openSlave(master)
	if err != nil {
		return nil, err
	}
	e.child = [3]int{slave, slave, slave}
	if err := setSize(master, size); err != nil {
		e.closeChild()
		return nil, err
	}
	if os.Geteuid() == 0 && u.UID != 0 {
		// As login(1) does: the user may open the terminal by its path. The
		// group stays: devpts made it tty, for write(1).
		_ = unix.Fchown(slave, int(u.UID), -1)
	}
	return e, nil
}

// openSlave opens the terminal's other end. TIOCGPTPEER (Linux 4.13) needs no
// path, so it works whatever is mounted on /dev/pts; not every kernel has it.
func openSlave(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno == 0 {
		return int(fd), nil
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return -1, err
	}
	return unix.Open("/dev/pts/"+strconv.Itoa(number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

func setSize(master int, size Size) error {
	return unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Col: size.Cols, Row: size.Rows})
}

// Resize tells the terminal a new size; its foreground group gets SIGWINCH.
// Returns InvalidArgument when the process has no terminal.
func (p *Process) Resize(size Size) error {
	if p.Terminal == nil {
		return errors.New(errors.InvalidArgument, "the process does not run on a terminal")
	}
	raw, err := p.Terminal.SyscallConn()
	if err != nil {
		return errors.Wrap(err, errors.Gone, "the terminal is closed")
	}
	var sizeErr error
	if err := raw.Control(func(fd uintptr) { sizeErr = setSize(int(fd), size) }); err != nil {
		return errors.Wrap(err, errors.Gone, "the terminal is closed")
	}
	return sizeErr
}
