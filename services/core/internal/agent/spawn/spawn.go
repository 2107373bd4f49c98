// Package spawn starts programs as an OS user of the machine, on pipes or on a
// terminal, and says precisely why one cannot be started.
package spawn

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/limits"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/reap"
)

// DefaultPath is the PATH of a program whose environment has none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spec is a program to start. It has been validated.
type Spec struct {
	Args []string // Args[0] is looked up in Env's PATH
	Env  []string // the whole environment, "K=V"
	Cwd  string   // absolute
	User *osuser.User
	Size *Size // set: run on a terminal of that size
	// Stdin opens a pipe for input; else it is /dev/null. A terminal always takes input.
	Stdin bool
}

// Process is a started program. Its files belong to the caller, who closes them.
type Process struct {
	*reap.Child
	Stdin    *os.File // nil: none
	Stdout   *os.File // nil on a terminal
	Stderr   *os.File // nil on a terminal
	Terminal *os.File // nil without one
}

// Starter starts programs.
type Starter struct {
	Reaper *reap.Reaper
	OOM    *OOMGuard
	Group  *limits.Group // that programs run in; nil: the agent's own
}

// Start runs a program in a session and process group of its own.
// Returns InvalidArgument when the program or the directory is missing or
// cannot be used, CapacityExhausted when the machine has no processes, files
// or memory left, PermissionDenied when the user cannot be taken on.
func (s *Starter) Start(spec Spec) (*Process, error) {
	path, err := s.prepare(spec)
	if err != nil {
		return nil, err
	}
	var ends *ends
	if spec.Size != nil {
		ends, err = openTerminal(spec.User, *spec.Size)
	} else {
		ends, err = openPipes(spec.User, spec.Stdin)
	}
	if err != nil {
		return nil, resources(err)
	}
	defer ends.closeChild()
	attr := &syscall.ProcAttr{
		Dir:   spec.Cwd,
		Env:   spec.Env,
		Files: []uintptr{uintptr(ends.child[0]), uintptr(ends.child[1]), uintptr(ends.child[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: spec.Size != nil, Ctty: 0},
	}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: spec.User.UID, Gid: spec.User.GID, Groups: spec.User.Groups}
	}
	child, err := s.spawn(func(fd int) (int, error) {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = fd >= 0, fd
		return syscall.ForkExec(path, spec.Args, attr)
	})
	if err != nil {
		ends.closeParent()
		return nil, startError(err, path)
	}
	ends.process.Child = child
	return &ends.process, nil
}

// spawn has fork start a process in the group. Where what runs is held it waits
// for the end of that, with nothing locked that others need.
func (s *Starter) spawn(fork func(fd int) (pid int, err error)) (*reap.Child, error) {
	for {
		if err := s.Group.Await(); err != nil {
			return nil, err
		}
		child, err := s.Reaper.Spawn(func() (int, error) {
			return s.OOM.Fork(func() (int, error) { return s.Group.Start(fork) })
		})
		if !errors.Is(err, limits.ErrHeld) {
			return child, err
		}
	}
}

// prepare checks the directory and finds the program, both with the user's rights.
func (s *Starter) prepare(spec Spec) (path string, err error) {
	err = osuser.Do(spec.User, func() error {
		if err := checkDir(spec.Cwd); err != nil {
			return err
		}
		path, err = lookup(spec.Args[0], spec.Cwd, pathOf(spec.Env))
		return err
	})
	return path, err
}

func checkDir(dir string) error {
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case errors.Is(err, unix.ENOENT):
		return errors.New(errors.InvalidArgument, "the working directory %q does not exist", dir).WithField("cwd")
	case errors.Is(err, unix.EACCES):
		return errors.New(errors.InvalidArgument, "the working directory %q cannot be reached: permission denied", dir).WithField("cwd")
	case err != nil:
		return errors.New(errors.InvalidArgument, "the working directory %q cannot be used: %s", dir, err).WithField("cwd")
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.New(errors.InvalidArgument, "the working directory %q is not a directory", dir).WithField("cwd")
	}
	if err := access(dir); err != nil {
		return errors.New(errors.InvalidArgument, "the working directory %q cannot be entered: permission denied", dir).WithField("cwd")
	}
	return nil
}

// lookup finds a program as execvp(3) does, in the PATH of the child's own environment.
func lookup(program, cwd, path string) (string, error) {
	if strings.Contains(program, "/") {
		full := program
		if !filepath.IsAbs(full) {
			full = filepath.Join(cwd, full)
		}
		err := executable(full)
		if errors.Is(err, errAbsent) {
			err = errors.New(errors.InvalidArgument, "the program %q does not exist", full).WithField("args")
		}
		return full, err
	}
	denied := ""
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" || !filepath.IsAbs(dir) {
			dir = filepath.Join(cwd, dir) // POSIX: an empty entry is the working directory
		}
		full := filepath.Join(dir, program)
		switch err := executable(full); {
		case err == nil:
			return full, nil
		case !errors.Is(err, errAbsent) && denied == "":
			denied = full
		}
	}
	if denied != "" {
		return "", errors.New(errors.InvalidArgument, "%q cannot be executed: permission denied", denied).WithField("args")
	}
	return "", errors.New(errors.InvalidArgument, "the program %q was not found in PATH", program).
		WithField("args").WithHint("PATH is %s", path)
}

// errAbsent is for a file that there is not. Nobody is told it: in most of the
// directories in a PATH a program is not.
var errAbsent = errors.Plain("it does not exist")

// executable tells why a file cannot be executed. Returns errAbsent, InvalidArgument.
func executable(full string) error {
	var st unix.Stat_t
	switch err := unix.Stat(full, &st); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return errAbsent
	case errors.Is(err, unix.EACCES):
		return errors.New(errors.InvalidArgument, "the program %q cannot be reached: permission denied", full).WithField("args")
	case err != nil:
		return errors.New(errors.InvalidArgument, "the program %q cannot be used: %s", full, err).WithField("args")
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errors.New(errors.InvalidArgument, "%q is a directory, not a program", full).WithField("args")
	case st.Mode&0o111 == 0:
		// access(2) lets root execute only what someone may; others are told by it.
		return errors.New(errors.InvalidArgument, "%q cannot be executed: permission denied", full).WithField("args")
	}
	if err := access(full); err != nil {
		return errors.New(errors.InvalidArgument, "%q cannot be executed: permission denied", full).WithField("args")
	}
	return nil
}

// access asks for the right to execute or enter. It is the raw faccessat2(2):
// the C-like wrapper looks at user IDs, and the identity here is the thread's fsuid.
func access(path string) error {
	err := unix.Faccessat2(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil // kernels before 5.8: exec itself will tell
	}
	return err
}

func pathOf(env []string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if path, ok := strings.CutPrefix(env[i], "PATH="); ok {
			return path
		}
	}
	return DefaultPath
}

// startError words what fork or exec answered. What prepare could see is ruled out.
func startError(err error, path string) error {
	switch {
	case errors.HasCode(err, errors.Unavailable): // of the group
		return err
	case errors.Is(err, unix.ENOENT):
		return errors.New(errors.InvalidArgument, "%q cannot be executed: its interpreter does not exist", path).WithField("args")
	case errors.Is(err, unix.ENOEXEC):
		return errors.New(errors.InvalidArgument, "%q cannot be executed: not a program for this machine", path).
			WithField("args").WithHint("a script needs a first line such as #!/bin/sh")
	case errors.Is(err, unix.EACCES):
		return errors.New(errors.InvalidArgument, "%q cannot be executed: permission denied", path).WithField("args")
	case errors.Is(err, unix.E2BIG):
		return errors.New(errors.InvalidArgument, "arguments and environment are too long").WithField("args")
	case errors.Is(err, unix.EPERM):
		return errors.Wrap(err, errors.PermissionDenied, "the agent may not take on the user")
	}
	return resources(err)
}

// resources words a shortage in the machine.
func resources(err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return errors.Wrap(err, errors.CapacityExhausted, "the machine has no room for another process")
	case errors.Is(err, unix.ENOMEM):
		return errors.Wrap(err, errors.CapacityExhausted, "the machine has no memory for another process")
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return errors.Wrap(err, errors.CapacityExhausted, "the machine has no room for more open files")
	case errors.Is(err, unix.ENOSPC):
		return errors.Wrap(err, errors.CapacityExhausted, "the machine has no terminal left")
	}
	return errors.Wrap(err, errors.Internal, "the process could not be started: %s", err)
}
