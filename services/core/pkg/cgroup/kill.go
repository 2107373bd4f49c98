package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// Processes lists the process IDs in the group and in those below it.
func (g Group) Processes() ([]int, error) {
	var pids []int
	for _, mount := range g.host.distinct() {
		in, err := processes(filepath.Join(mount, g.path))
		if err != nil {
			return nil, errors.Wrap(err, errors.Internal, "cannot list the control group's processes")
		}
		for _, pid := range in {
			if !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// processes lists those in a group's directory and below it.
func processes(dir string) (pids []int, err error) {
	dirs, err := withBelow(dir)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err := IgnoreGone(err); err != nil {
			return nil, err
		}
		for text := range strings.FieldsSeq(string(raw)) {
			if pid, err := strconv.Atoi(text); err == nil && pid > 0 && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// withBelow lists the directories of a group and of those below it, each before
// its own. A group that is gone has none.
func withBelow(dir string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, IgnoreGone(os.NewSyscallError("stat", err))
	}
	dirs := []string{dir}
	// A directory has a link of its own, one from above and one from each below. Most
	// groups have none below, and dozens of files to look through for that.
	if st.Nlink == 2 {
		return dirs, nil
	}
	entries, err := os.ReadDir(dir)
	if err := IgnoreGone(err); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below, err := withBelow(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, below...)
	}
	return dirs, nil
}

// IgnoreGone is nil for what fails as a group was removed meanwhile.
func IgnoreGone(err error) error {
	if os.IsNotExist(err) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Kill ends every process of the group, frozen or not, and returns when none
// is left. A group that is gone is success.
func (g Group) Kill(ctx context.Context) error {
	for {
		if g.host.unified {
			// Since Linux 5.14 the kernel does it at once, forks under way included.
			_ = os.WriteFile(g.file("", "cgroup.kill"), []byte("1"), 0)
		}
		pids, err := g.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		fds := make([]unix.PollFd, 0, len(pids))
		for _, pid := range pids {
			if fd, ok := g.killOne(pid); ok {
				fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			}
		}
		err = errors.Join(g.Thaw(), waitExits(ctx, fds))
		for _, fd := range fds {
			unix.Close(int(fd.Fd))
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// killOne kills a process that was seen in the group and yields a descriptor
// that tells its end. The descriptor is taken before membership is checked, so
// that a process ID that was used again is never hit.
func (g Group) killOne(pid int) (fd int, ok bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, false
	}
	if g.holds(pid) {
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		if err == nil || err == unix.ESRCH {
			return fd, true
		}
	}
	unix.Close(fd)
	return -1, false
}

// holds reads cgroups(7)'s /proc/PID/cgroup: lines of hierarchy:controllers:path.
func (g Group) holds(pid int) bool {
	membership, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	for line := range strings.Lines(string(membership)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && (fields[2] == g.path || strings.HasPrefix(fields[2], g.path+"/")) {
			return true
		}
	}
	return false
}

// waitExits returns when all processes behind the descriptors have ended.
func waitExits(ctx context.Context, fds []unix.PollFd) error {
	for i := range fds {
		for {
			n, err := unix.Poll(fds[i:i+1], 50) // the timeout is for the context only
			if err != nil && err != unix.EINTR {
				return errors.Wrap(err, errors.Internal, "cannot wait for a process")
			}
			if n > 0 {
				break
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove removes the group and those below it, which hold no processes any
// more. A group that is gone is success.
func (g Group) Remove(ctx context.Context) error {
	for _, mount := range g.host.distinct() {
		dirs, err := withBelow(filepath.Join(mount, g.path))
		if err != nil {
			return errors.Wrap(err, errors.Internal, "cannot list control groups")
		}
		for _, dir := range slices.Backward(dirs) {
			if err := removeDir(ctx, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// shownProcesses bounds how many processes an error names.
const shownProcesses = 5

// inUse says which group cannot be removed, and who is in it or below it.
func inUse(dir string, err error) error {
	e := errors.Wrap(err, errors.Internal, "cannot remove the control group %s", dir)
	pids, perr := processes(dir)
	if perr != nil || len(pids) == 0 {
		return e
	}
	var names []string
	for _, pid := range pids[:min(shownProcesses, len(pids))] {
		comm, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm")) // it may be gone
		names = append(names, strings.TrimSpace(strconv.Itoa(pid)+" "+strings.TrimSpace(string(comm))))
	}
	more := ""
	if n := len(pids) - len(names); n > 0 {
		more = " and " + strconv.Itoa(n) + " more"
	}
	return e.WithHint("end the processes in it: %s%s", strings.Join(names, ", "), more)
}

// removeDir retries for a moment: a group stays busy until the kernel has
// switched away from its last process, which nothing tells.
func removeDir(ctx context.Context, dir string) error {
	deadline := time.Now().Add(2 * time.Second)
	for wait := 100 * time.Microsecond; ; wait = min(wait*2, 20*time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || err == unix.ENOENT:
			return nil
		case err != unix.EBUSY || time.Now().After(deadline):
			return inUse(dir, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
