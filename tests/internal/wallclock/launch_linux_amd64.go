package wallclock

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// page is the size of the image in memory.
const page = 4096

// What the kernel tells of (getauxval(3)): where the vDSO is, and nothing more.
const (
	atVDSO = 33
	atEnd  = 0
)

// readyFD is inherited: by it a server in the background says that it is ready.
const readyFD = 3

// start starts a program with another vDSO.
func start(image string, argv []string) error {
	runtime.LockOSThread()                    // it alone is the tracer
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx,gosec // it outlives this process; the test says what
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if _, err := unix.FcntlInt(readyFD, unix.F_GETFD, 0); err == nil {
		cmd.ExtraFiles = []*os.File{os.NewFile(readyFD, "ready")}
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &tracee{pid: cmd.Process.Pid}
	err := p.prepare(image)
	if err == nil {
		err = unix.PtraceDetach(p.pid)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

// tracee is a process that has become another program, of which nothing has run.
type tracee struct {
	pid    int
	memory *os.File
}

func (p *tracee) prepare(image string) (err error) {
	if err := p.stopped(); err != nil {
		return err
	}
	if p.memory, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid), os.O_RDWR, 0); err != nil {
		return err
	}
	defer func() { _ = p.memory.Close() }()
	at, err := p.mapped(image)
	if err != nil {
		return err
	}
	return p.tell(atVDSO, at)
}

func (p *tracee) stopped() error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &status, 0, nil); err != nil {
		return err
	}
	if !status.Stopped() || status.StopSignal() != unix.SIGTRAP {
		return fmt.Errorf("it is not where it was to stop: %#x", status)
	}
	return nil
}

// mapped has the process map a file, and gives its address. The file is shared:
// what is written into it is in the process.
func (p *tracee) mapped(file string) (uint64, error) {
	var before unix.PtraceRegs
	if err := unix.PtraceGetRegs(p.pid, &before); err != nil {
		return 0, err
	}
	// Where the program begins there is a system call for now, and the file's name.
	code := append([]byte{0x0f, 0x05, 0, 0, 0, 0, 0, 0}, append([]byte(file), 0)...)
	name := before.Rip + 8
	was := make([]byte, len(code))
	if _, err := p.memory.ReadAt(was, int64(before.Rip)); err != nil { //nolint:gosec // an address of the lower half
		return 0, err
	}
	if _, err := p.memory.WriteAt(code, int64(before.Rip)); err != nil { //nolint:gosec // the same
		return 0, err
	}
	call := func(number uint64, args ...uint64) (uint64, error) {
		now := before
		now.Rax, now.Orig_rax = number, ^uint64(0)
		for i, to := range []*uint64{&now.Rdi, &now.Rsi, &now.Rdx, &now.R10, &now.R8, &now.R9} {
			*to = 0
			if i < len(args) {
				*to = args[i]
			}
		}
		if err := unix.PtraceSetRegs(p.pid, &now); err != nil {
			return 0, err
		}
		if err := unix.PtraceSingleStep(p.pid); err != nil {
			return 0, err
		}
		if err := p.stopped(); err != nil {
			return 0, err
		}
		if err := unix.PtraceGetRegs(p.pid, &now); err != nil {
			return 0, err
		}
		if failed := int64(now.Rax); failed < 0 && failed > -page { //nolint:gosec // a negative error number
			return 0, unix.Errno(-failed)
		}
		return now.Rax, nil
	}
	fd, err := call(unix.SYS_OPEN, name, unix.O_RDONLY)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", file, err)
	}
	at, err := call(unix.SYS_MMAP, 0, page, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED, fd, 0)
	if err != nil {
		return 0, fmt.Errorf("mmap %s: %w", file, err)
	}
	if _, err := call(unix.SYS_CLOSE, fd); err != nil {
		return 0, err
	}
	if _, err := p.memory.WriteAt(was, int64(before.Rip)); err != nil { //nolint:gosec // the same
		return 0, err
	}
	return at, unix.PtraceSetRegs(p.pid, &before)
}

// tell changes what the kernel tells the program in its auxiliary vector, which
// follows the arguments and the environment on its stack (elf(5), getauxval(3)).
func (p *tracee) tell(tag, value uint64) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(p.pid, &regs); err != nil {
		return err
	}
	at := regs.Rsp
	next := func() (uint64, error) {
		word := make([]byte, 8)
		_, err := p.memory.ReadAt(word, int64(at)) //nolint:gosec // an address of the lower half
		at += 8
		return binary.NativeEndian.Uint64(word), err
	}
	if _, err := next(); err != nil { // how many arguments
		return err
	}
	for range 2 { // of arguments and of variables
		for {
			word, err := next()
			if err != nil {
				return err
			}
			if word == 0 {
				break
			}
		}
	}
	for {
		found, err := next()
		if err != nil {
			return err
		}
		switch found {
		case tag:
			_, err = p.memory.WriteAt(binary.NativeEndian.AppendUint64(nil, value), int64(at)) //nolint:gosec // the same
			return err
		case atEnd:
			return fmt.Errorf("the kernel gives it no vDSO")
		}
		if _, err := next(); err != nil {
			return err
		}
	}
}
