package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call that must be refused.
func call(nr uintptr, args ...uintptr) func() error {
	var a [6]uintptr
	copy(a[:], args)
	return func() error {
		if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

// buffer is zeroed memory to point system calls at; it lives as long as the program.
var buffers [][]byte

func buffer(text string) uintptr {
	b := append(make([]byte, 0, 4096), text...)[:4096]
	buffers = append(buffers, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// calls are powers over the whole kernel.
func calls([]string) {
	self, now := buffer("/proc/self/exe"), buffer("")
	uring := buffer("")
	perf := buffer("")
	var attr [4096]byte
	binary.LittleEndian.PutUint32(attr[4:], 112) // perf_event_attr.size; type 0 and config 0: cycles
	buffers = append(buffers, attr[:])
	for what, try := range map[string]func() error{
		"load a kernel module from memory":  call(unix.SYS_INIT_MODULE, self, 64, now),
		"load a kernel module from a file":  call(unix.SYS_FINIT_MODULE, 0, now, 0),
		"unload a kernel module":            call(unix.SYS_DELETE_MODULE, buffer("overlay"), unix.O_NONBLOCK),
		"prepare another kernel":            call(unix.SYS_KEXEC_LOAD, 0, 0, now, 0),
		"prepare another kernel from files": call(unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0, now, 0),
		"change what ctrl-alt-del does":     call(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_OFF),
		"swap to a file":                    call(unix.SYS_SWAPON, self, 0),
		"end swapping":                      call(unix.SYS_SWAPOFF, buffer("/dev/vda")),
		"set the clock":                     call(unix.SYS_SETTIMEOFDAY, now, 0),
		"set the clock in another way":      call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, now),
		"bend the clock":                    func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: 10000}); return err },
		"name the host":                     func() error { return unix.Sethostname([]byte("taken")) },
		"name the domain":                   func() error { return unix.Setdomainname([]byte("taken")) },
		"load BPF":                          call(unix.SYS_BPF, 0, now, 48),
		"watch the processor":               call(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr[0])), 0, ^uintptr(0), ^uintptr(0), 0),
		"watch every processor":             call(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr[0])), ^uintptr(0), 0, ^uintptr(0), 0),
		"handle page faults":                call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC),
		"handle its own page faults":        call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1), // UFFD_USER_MODE_ONLY
		"use a key ring":                    call(unix.SYS_KEYCTL, 0, ^uintptr(2), 1),     // KEY_SPEC_SESSION_KEYRING
		"add a key":                         call(unix.SYS_ADD_KEY, buffer("user"), buffer("k"), buffer("v"), 1, ^uintptr(2)),
		"ask for a key":                     call(unix.SYS_REQUEST_KEY, buffer("user"), buffer("k"), 0, ^uintptr(2)),
		"set up an io_uring":                call(unix.SYS_IO_URING_SETUP, 8, uring),
		"set up asynchronous I/O":           call(unix.SYS_IO_SETUP, 64, perf), // its budget is the whole host's
		"watch all files":                   call(unix.SYS_FANOTIFY_INIT, 0, 0),
		"read the kernel's log":             func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 4096)); return err },
		"empty the kernel's log":            func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_CLEAR, nil); return err },
		"account for processes":             func() error { return unix.Acct("/tmp/acct") },
		"set a disk quota":                  call(unix.SYS_QUOTACTL, 0x80000200, buffer("/dev/vda"), 0, 0),
		"hang up the terminal":              call(unix.SYS_VHANGUP),
		"be a user outside of its range":    func() error { return unix.Setresuid(70000, 70000, 70000) },
		"be a group outside of its range":   func() error { return unix.Setgroups([]int{70000}) },
		"give a file away out of its range": func() error {
			if err := os.WriteFile("/tmp/gift", nil, 0o600); err != nil {
				return err
			}
			return os.Chown("/tmp/gift", 70000, 70000)
		},
		"set an attribute of overlayfs": func() error { return unix.Setxattr("/tmp", "trusted.overlay.opaque", []byte("y"), 0) },
		"move pages of others":          call(unix.SYS_MOVE_PAGES, 1, 0, 0, 0, 0, 4),
		"profile by lookup_dcookie":     call(unix.SYS_LOOKUP_DCOOKIE, 1, now, 64),
		"speak to the hypervisor":       call(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"open a file by its handle":     openByHandle,
	} {
		attempt(what, try)
	}
	if runtime.GOARCH == "amd64" {
		const iopl, ioperm = 172, 173
		attempt("open ports of the processor", call(ioperm, 0x70, 1, 1))
		attempt("open all ports of the processor", call(iopl, 3))
	}
}

// openByHandle names the root of the file system that the machine's files are
// on and opens it past all mounts, as the "shocker" of 2014 did.
func openByHandle() error {
	type handle struct {
		size uint32
		kind int32
		id   [128]byte
	}
	last := error(nil)
	for _, of := range []string{"/", "/etc", "/proc/self/exe", "/dev/.aetherium/fc-agent", "/dev"} {
		dir, err := os.Open(of)
		if err != nil {
			continue
		}
		name, _ := unix.BytePtrFromString(of)
		h := handle{size: 128}
		var mount int32
		if _, _, errno := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, ^uintptr(99), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&mount)), 0, 0); errno != 0 {
			// One made up: inode 2 of generation 0, as the root of ext4.
			h = handle{size: 8, kind: 1}
			h.id[0] = 2
		}
		fd, _, errno := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, dir.Fd(), uintptr(unsafe.Pointer(&h)), unix.O_RDONLY)
		_ = dir.Close()
		if errno == 0 {
			_ = unix.Close(int(fd))
			return nil
		}
		last = errno
	}
	return last
}

// limits are what a machine was given and must not raise.
func limits([]string) {
	const fifo, rt = 1, 1 << 13
	for what, try := range map[string]func() error{
		"be scheduled before all others": call(unix.SYS_SCHED_SETSCHEDULER, 0, fifo, buffer("\x01")),
		"be nice to nobody":              func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -10) },
		"read before all others":         call(unix.SYS_IOPRIO_SET, 1, 0, rt),
		"raise its limit of files": func() error {
			var l unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
				return err
			}
			l.Max++
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
		},
		"write cores": func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) },
		"never be killed for memory": func() error {
			return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
		},
		"keep the agent from being killed": func() error {
			return os.WriteFile("/proc/1/oom_score_adj", []byte("-1"), 0)
		},
	} {
		attempt(what, try)
	}
	// No control group can be written to, its own least of all.
	found := 0
	walk("/sys/fs/cgroup", func(path string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			found++
			return
		}
		_ = f.Close()
		breach("control groups", "%s opens for writing", path)
	})
	attempt("make a control group", func() error { return os.Mkdir("/sys/fs/cgroup/mine", 0o755) })
	note("%d files of control groups were refused", found)
}

// capabilities of a program that says it has all are no more than the machine's.
func capabilities([]string) {
	attempt("raise a capability", func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		all := [2]unix.CapUserData{{Effective: ^uint32(0), Permitted: ^uint32(0), Inheritable: ^uint32(0)}, {Effective: 0x1ff, Permitted: 0x1ff, Inheritable: 0x1ff}}
		return unix.Capset(&header, &all[0])
	})
	const copyOf = "/tmp/almighty"
	if err := copyFile("/proc/self/exe", copyOf, 0o4755); err != nil {
		breach("capabilities", "the copy failed: %v", err)
		return
	}
	defer os.Remove(copyOf)
	bounded := capabilityLine("CapBnd")
	// VFS_CAP_REVISION_2 with the effective bit: everything permitted, and of that everything effective.
	vfs := []byte{1, 0, 0, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 255, 1, 0, 0}
	if err := unix.Setxattr(copyOf, "security.capability", vfs, 0); err != nil {
		held("give a file capabilities", err)
	}
	out, err := exec.Command(copyOf, "show-capabilities").CombinedOutput()
	if err != nil {
		held("run a file with every capability", err)
		return
	}
	got := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(out)), "done"))
	check("capabilities of a file that claims all", got == bounded || subset(got, bounded), got+" is more than "+bounded)
}

func showCapabilities([]string) { fmt.Println(capabilityLine("CapEff")) }

func subset(a, b string) bool {
	var x, y uint64
	if _, err := fmt.Sscanf(a, "%x", &x); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(b, "%x", &y); err != nil {
		return false
	}
	return x&^y == 0
}

func capabilityLine(name string) string {
	status, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func copyFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, src); err == nil {
		err = dst.Chmod(mode)
	}
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return unix.Chmod(to, uint32(mode)) // with the set-user-ID bit, in the kernel's numbers
}

// namespaces: none that is new, none of others.
func namespaces([]string) {
	runtime.LockOSThread()
	for name, flag := range map[string]uintptr{
		"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "PID": unix.CLONE_NEWPID, "network": unix.CLONE_NEWNET,
		"IPC": unix.CLONE_NEWIPC, "UTS": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
		"user and mount": unix.CLONE_NEWUSER | unix.CLONE_NEWNS, "user and network": unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
	} {
		attempt("unshare a new "+name+" namespace", call(unix.SYS_UNSHARE, flag))
		if flag != unix.CLONE_NEWTIME { // clone(2) takes that bit for a signal
			attempt("clone into a new "+name+" namespace", func() error { return cloned(flag) })
		}
		var args [11]uint64 // struct clone_args
		args[0], args[4] = uint64(flag), uint64(unix.SIGCHLD)
		attempt("clone3 into a new "+name+" namespace", func() error {
			pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
			if errno != 0 {
				return errno
			}
			if pid == 0 {
				_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
			return nil
		})
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"} {
		f, err := os.Open("/proc/1/ns/" + ns)
		if err != nil {
			held("open the "+ns+" namespace of process 1", err)
			continue
		}
		attempt("enter the "+ns+" namespace of process 1", call(unix.SYS_SETNS, f.Fd(), 0))
		const getUserNS, getParent = 0xb701, 0xb702
		for way, req := range map[string]uintptr{"owner": getUserNS, "parent": getParent} {
			fd, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, 0)
			if errno != 0 {
				held("reach the "+way+" of the "+ns+" namespace", errno)
				continue
			}
			own, _ := os.Readlink("/proc/self/ns/user")
			got, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			_ = unix.Close(int(fd))
			check("the "+way+" of the "+ns+" namespace", got == own, got)
		}
		_ = f.Close()
	}
	pidfd, _, errno := unix.Syscall(unix.SYS_PIDFD_OPEN, 1, 0, 0)
	if errno != 0 {
		held("open process 1", errno)
		return
	}
	attempt("enter all namespaces of process 1", call(unix.SYS_SETNS, pidfd, unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET))
}

// cloned forks with flags. Where that succeeds the child ends at once.
func cloned(flags uintptr) error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// mounts: nothing is mounted, moved, taken away or mounted anew with other flags.
func mounts([]string) {
	_ = os.MkdirAll("/tmp/m/a", 0o755)
	_ = os.MkdirAll("/tmp/m/b", 0o755)
	for _, kind := range []string{"tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "overlay", "devpts", "mqueue", "ramfs", "debugfs", "tracefs", "securityfs", "bpf", "fuse", "ext4", "btrfs", "nfs", "9p", "devtmpfs", "binfmt_misc", "configfs"} {
		attempt("mount a "+kind, func() error { return unix.Mount("none", "/tmp/m/a", kind, 0, "") })
		fd, _, errno := unix.Syscall(unix.SYS_FSOPEN, buffer(kind), 0, 0)
		if errno == 0 {
			_ = unix.Close(int(fd))
			breach("open a "+kind, "it succeeded")
		}
	}
	for what, try := range map[string]func() error{
		"bind a directory":             func() error { return unix.Mount("/etc", "/tmp/m/b", "", unix.MS_BIND, "") },
		"bind over a masked file":      func() error { return unix.Mount("/etc/passwd", "/proc/kcore", "", unix.MS_BIND, "") },
		"make / writable by all means": func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"make /proc/sys writable":      func() error { return unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"make /sys writable":           func() error { return unix.Mount("", "/sys", "", unix.MS_REMOUNT, "") },
		"make /sys/fs/cgroup writable": func() error { return unix.Mount("", "/sys/fs/cgroup", "", unix.MS_REMOUNT, "") },
		"make the agent writable":      func() error { return unix.Mount("", "/dev/.aetherium/fc-agent", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"share mounts with the host":   func() error { return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "") },
		"move a mount":                 func() error { return unix.Mount("/dev/shm", "/tmp/m/b", "", unix.MS_MOVE, "") },
		"unmask /proc/kcore":           func() error { return unix.Unmount("/proc/kcore", unix.MNT_DETACH) },
		"unmask /proc/keys":            func() error { return unix.Unmount("/proc/keys", unix.MNT_DETACH) },
		"unmask /sys/firmware":         func() error { return unix.Unmount("/sys/firmware", unix.MNT_DETACH) },
		"take the cover off /proc/sys": func() error { return unix.Unmount("/proc/sys", unix.MNT_DETACH) },
		"take /proc away":              func() error { return unix.Unmount("/proc", unix.MNT_DETACH) },
		"take / away":                  func() error { return unix.Unmount("/", unix.MNT_DETACH) },
		"change the root":              func() error { return unix.PivotRoot("/tmp/m", "/tmp/m/a") },
		"clone a mount":                func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err },
		"change the flags of a mount": func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/proc/sys", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		},
		"map the IDs of a mount": func() error {
			return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP})
		},
		"pick a mount":                  call(unix.SYS_FSPICK, ^uintptr(99), buffer("/"), 0),
		"attach a mount somewhere else": call(unix.SYS_MOVE_MOUNT, ^uintptr(99), buffer("/dev/shm"), ^uintptr(99), buffer("/tmp/m/b"), 0),
	} {
		attempt(what, try)
	}
	// chroot(2) is allowed, and the way up from a directory that was left open
	// ends at the machine's own root.
	var own, reached unix.Stat_t
	_ = unix.Stat("/", &own)
	dir, err := os.Open("/")
	if err != nil {
		breach("chroot", "%v", err)
		return
	}
	if err := unix.Chroot("/tmp/m"); err != nil {
		held("change the root directory", err)
		return
	}
	_ = dir.Chdir()
	for range 64 {
		_ = unix.Chdir("..")
	}
	_ = unix.Stat(".", &reached)
	check("climbing out of a changed root directory", own.Dev == reached.Dev && own.Ino == reached.Ino, fmt.Sprintf("it reached %d:%d", reached.Dev, reached.Ino))
}
