// Package daemon runs a server in the background: one per data directory,
// found again by a lock that the kernel drops when the server dies, however
// it dies.
package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Lock takes the data directory for this process until it ends or Close is
// called. Returns Conflict while another server has it.
func Lock(path, pidFile string) (io.Closer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the data directory %s cannot be made", filepath.Dir(path))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the data directory cannot be locked")
	}
	for end := time.Now().Add(lockPatience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if pid := holder(pidFile); pid != 0 || time.Now().After(end) {
			_ = f.Close()
			used := errors.Wrap(err, errors.Conflict, "another server uses this data directory")
			if pid != 0 {
				used = used.WithHint("end it first: it is the process %d", pid)
			}
			return nil, used
		}
		// Its server is dead; a process that it was just starting still holds
		// the lock, until it has become another program. flock(2) has no time limit.
		time.Sleep(time.Millisecond)
	}
}

// lockPatience is how long what a dead server was just starting may hold its lock.
const lockPatience = 10 * time.Second

// holder is the process that the pid file names, 0 unless it lives.
func holder(pidFile string) int {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The state follows the name, which may hold anything (proc_pid_stat(5)).
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	if strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X") {
		return 0
	}
	return pid
}

// Running tells the process ID of the server that holds the lock; 0 when none
// does, also when only what a dead server was starting still holds it.
func Running(lock, pidFile string) (int, error) {
	f, err := os.OpenFile(lock, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, errors.Wrap(err, errors.Internal, "the lock cannot be looked at")
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, nil
	}
	return holder(pidFile), nil
}

// ReadyFD is the descriptor on which a server in the background says that it is ready.
const ReadyFD = 3

// Ready tells whoever started this process in the background that it serves.
// In a process that was started otherwise it does nothing.
func Ready(env string) error {
	if os.Getenv(env) == "" {
		return nil
	}
	f := os.NewFile(ReadyFD, "ready")
	_, err := f.WriteString("ready\n")
	return errors.Join(err, f.Close())
}

// Start runs the command in the background with its output appended to
// logFile, and waits until it says that it is ready, ends, or ctx does.
// The readiness variable named env is set for it.
// Returns Unavailable with the end of the log when it ends before it is ready.
func Start(ctx context.Context, logFile, env string, argv []string) error {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o711); err != nil {
		return errors.Wrap(err, errors.Internal, "the directory of the log cannot be made")
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the log cannot be opened")
	}
	defer func() { _ = log.Close() }()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the log cannot be opened")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return errors.Wrap(err, errors.Internal, "no pipe to the server")
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // it outlives this process
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.ExtraFiles = []*os.File{w} // becomes ReadyFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the server cannot be started")
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err == nil && line == "ready\n" {
		return cmd.Process.Release()
	}
	if ctx.Err() != nil {
		return errors.Wrap(ctx.Err(), errors.DeadlineExceeded, "the server is not ready yet").WithHint("see %s", logFile)
	}
	_ = cmd.Wait()
	return errors.New(errors.Unavailable, "the server ended before it was ready:\n%s", tail(logFile, from)).WithHint("see %s", logFile)
}

// tail gives the last lines that were logged since an offset.
func tail(path string, from int64) string {
	const most = 4 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil {
		from = max(from, info.Size()-most)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Stop asks the process to end and waits until it has.
func Stop(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return errors.Wrap(err, errors.Internal, "the server (pid %d) cannot be stopped", pid)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return errors.Wrap(err, errors.PermissionDenied, "the server (pid %d) cannot be stopped", pid)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for ctx.Err() == nil {
			// A second at most, so that the goroutine ends with ctx.
			if n, err := unix.Poll(fds, 1000); n > 0 || err != nil && err != unix.EINTR {
				return
			}
		}
	}()
	<-ended
	if err := ctx.Err(); err != nil {
		return errors.Wrap(err, errors.DeadlineExceeded, "the server (pid %d) has not ended yet", pid)
	}
	return nil
}
