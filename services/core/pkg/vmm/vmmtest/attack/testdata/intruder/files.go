package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// walk visits what is no directory, links aside.
func walk(root string, visit func(path string)) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // what cannot be listed is closed enough
		case d.IsDir() && root == "/proc" && filepath.Dir(path) == "/proc" && isNumber(d.Name()):
			return fs.SkipDir // processes are looked at apart
		case !d.IsDir() && d.Type()&fs.ModeSymlink == 0:
			visit(path)
		}
		return nil
	})
}

func isNumber(s string) bool { _, err := strconv.Atoi(s); return err == nil }

// procAndSys: which files of the kernel's open for writing, and which that
// tell secrets can be read.
func procAndSys(marker []string) {
	refused := 0
	for _, root := range []string{"/proc", "/sys"} {
		walk(root, func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				refused++
				return
			}
			_ = f.Close()
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
				return // masked by a null device
			}
			breach("writing to the kernel", "%s opens", path)
		})
	}
	check("files of the kernel that were tried", refused > 500, fmt.Sprint(refused))
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/poweroff_cmd",
		"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches", "/proc/sys/fs/file-max", "/proc/sys/kernel/pid_max",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/proc/sysrq-trigger", "/proc/sys/kernel/sysrq",
		"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/bus/pci/rescan",
		"/sys/class/net/eth0/mtu", "/sys/module/overlay/parameters/redirect_dir", "/proc/irq/default_smp_affinity", "/proc/acpi/wakeup",
		"/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/cgroup.procs",
	} {
		attempt("write to "+path, func() error { return os.WriteFile(path, []byte("1"), 0) })
	}
	for _, path := range []string{
		"/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/timer_list", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/sched_debug",
		"/sys/kernel/debug/sched", "/sys/firmware/acpi/tables/DSDT", "/sys/kernel/tracing/trace", "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/port",
	} {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			held("read "+path, err)
			continue
		}
		n, err := f.Read(make([]byte, 16))
		_ = f.Close()
		check("read "+path, n <= 0, fmt.Sprintf("%d bytes, %v", n, err))
	}
	if text, err := os.ReadFile("/proc/kallsyms"); err == nil {
		for line := range strings.Lines(string(text)) {
			if addr, _, _ := strings.Cut(line, " "); strings.Trim(addr, "0") != "" {
				breach("addresses of the kernel", "%s", line)
				break
			}
		}
	}
	// What others run cannot be seen, and the way through a process's root ends here.
	for _, path := range marker {
		for _, way := range []string{"", "/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/1/root/../..", "/proc/1/task/1/root"} {
			if _, err := os.Lstat(way + path); err == nil {
				breach("a file of the host", "%s is there", way+path)
			}
		}
	}
}

// devices: none is there that reaches hardware, and none can be made.
func devices([]string) {
	for what, dev := range map[string]struct {
		mode  uint32
		major uint32
		minor uint32
	}{
		"memory": {unix.S_IFCHR, 1, 1}, "kernel memory": {unix.S_IFCHR, 1, 2}, "ports": {unix.S_IFCHR, 1, 4}, "the kernel's log": {unix.S_IFCHR, 1, 11},
		"a null device": {unix.S_IFCHR, 1, 3}, "a disk": {unix.S_IFBLK, 8, 0}, "a virtual disk": {unix.S_IFBLK, 254, 0}, "a loop device": {unix.S_IFBLK, 7, 0},
		"loop control": {unix.S_IFCHR, 10, 237}, "fuse": {unix.S_IFCHR, 10, 229}, "tun": {unix.S_IFCHR, 10, 200}, "kvm": {unix.S_IFCHR, 10, 232},
		"the console": {unix.S_IFCHR, 5, 1}, "the first terminal": {unix.S_IFCHR, 4, 1}, "device mapper": {unix.S_IFCHR, 10, 236}, "userfaultfd": {unix.S_IFCHR, 10, 126},
		"vhost-net": {unix.S_IFCHR, 10, 238}, "an MSR": {unix.S_IFCHR, 202, 0}, "a whiteout": {unix.S_IFCHR, 0, 0},
	} {
		for _, dir := range []string{"/tmp", "/dev", "/dev/shm", "/root"} {
			path := dir + "/intruder-device"
			if err := unix.Mknod(path, dev.mode|0o666, int(unix.Mkdev(dev.major, dev.minor))); err != nil {
				held("make "+what+" in "+dir, err)
				continue
			}
			// What has no meaning to anybody may be made, if it cannot be opened.
			f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
			if err == nil {
				_ = f.Close()
				breach("open "+what+" in "+dir, "it opens")
			} else {
				held("open "+what+" in "+dir, err)
			}
			_ = os.Remove(path)
		}
	}
	known := map[string]bool{}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "core", ".aetherium", "console"} {
		known[name] = true
	}
	entries, err := os.ReadDir("/dev")
	if err != nil {
		breach("/dev", "%v", err)
	}
	for _, e := range entries {
		check("/dev has "+e.Name(), known[e.Name()], "nobody asked for it")
	}
	for _, path := range []string{"/dev/mem", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/loop0", "/dev/sda", "/dev/vda", "/dev/mapper/control", "/dev/console"} {
		attempt("open "+path, func() error {
			f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
			if err == nil {
				_ = f.Close()
			}
			return err
		})
	}
}

// descriptors: what processes have open leads nowhere out of the machine.
func descriptors([]string) {
	pids, _ := filepath.Glob("/proc/[0-9]*")
	seen := 0
	for _, proc := range pids {
		for _, link := range []string{"root", "cwd"} {
			inside(proc + "/" + link)
		}
		fds, _ := filepath.Glob(proc + "/fd/*")
		for _, fd := range fds {
			seen++
			inside(fd)
		}
	}
	check("descriptors that were looked at", seen > 4, fmt.Sprint(seen))
	for _, path := range []string{"/proc/1/exe", "/dev/.aetherium/fc-agent", "/proc/1/root/dev/.aetherium/fc-agent"} {
		attempt("write to the agent's program by "+path, func() error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err == nil {
				_ = f.Close()
			}
			return err
		})
	}
	attempt("remove the agent's program", func() error { return os.Remove("/dev/.aetherium/fc-agent") })
	attempt("put another program in its place", func() error {
		if err := os.WriteFile("/dev/.aetherium/new", nil, 0o755); err != nil {
			return err
		}
		return os.Rename("/dev/.aetherium/new", "/dev/.aetherium/fc-agent")
	})
}

// inside checks that the way up from an open directory ends at the machine's root.
func inside(path string) {
	target, _ := os.Readlink(path)
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		var st unix.Stat_t
		// A device that an open descriptor leads to is as good as one in /dev.
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			breach("a descriptor", "%s is a block device", path)
		}
		return
	}
	defer unix.Close(dir)
	var root, top unix.Stat_t
	_ = unix.Stat("/", &root)
	up, err := unix.Openat(dir, strings.Repeat("../", 64)+".", unix.O_PATH, 0)
	if err != nil {
		return
	}
	defer unix.Close(up)
	_ = unix.Fstat(up, &top)
	check(path+" leads to "+target, root.Dev == top.Dev && root.Ino == top.Ino, fmt.Sprintf("and up from there to %d:%d, not to the machine's root", top.Dev, top.Ino))
}

// maze keeps swapping what a name leads to until its input ends: a file of its
// own, and a link that leads to a file of the host. It says "ready" first.
func maze(args []string) {
	target := args[0]
	end := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(end) }()
	_ = os.MkdirAll("/maze/real", 0o755)
	_ = os.WriteFile("/maze/real/file", []byte("mine"), 0o644)
	_ = os.Symlink(filepath.Dir(target), "/maze/link")
	_ = os.Symlink("real", "/maze/now")
	fmt.Println("ready")
	for {
		select {
		case <-end:
			return
		default:
		}
		for _, to := range []string{"real", "link", "/proc/1/root" + filepath.Dir(target), "../../../../../.." + filepath.Dir(target)} {
			_ = os.Remove("/maze/next")
			if err := os.Symlink(to, "/maze/next"); err != nil && !errors.Is(err, fs.ErrExist) {
				note("%v", err)
			}
			_ = os.Rename("/maze/next", "/maze/now")
		}
	}
}

// shared is a directory that others have, too, and nobody may change.
func shared(args []string) {
	dir := args[0]
	file, own := dir+"/file", "/tmp/own"
	_ = os.WriteFile(own, []byte("mine"), 0o644)
	open := func(path string, flags int) func() error {
		return func() error {
			f, err := os.OpenFile(path, flags, 0o644)
			if err == nil {
				_ = f.Close()
			}
			return err
		}
	}
	for what, try := range map[string]func() error{
		"write":            open(file, os.O_WRONLY),
		"append":           open(file, os.O_WRONLY|os.O_APPEND),
		"cut short":        func() error { return os.Truncate(file, 0) },
		"make a file":      open(dir+"/new", os.O_CREATE|os.O_WRONLY),
		"make a directory": func() error { return os.Mkdir(dir+"/sub", 0o755) },
		"remove":           func() error { return os.Remove(file) },
		"rename":           func() error { return os.Rename(file, dir+"/other") },
		"replace":          func() error { return os.Rename(own, file) },
		"link":             func() error { return os.Symlink("/etc/passwd", dir+"/link") },
		"hard link in":     func() error { return os.Link(own, dir+"/hard") },
		"hard link out":    func() error { return os.Link(file, "/tmp/hard") },
		"change the mode":  func() error { return os.Chmod(file, 0o4777) },
		"change the owner": func() error { return os.Chown(file, 1000, 1000) },
		"change the time":  func() error { return os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)) },
		"set an attribute": func() error { return unix.Setxattr(file, "user.mark", []byte("x"), 0) },
		"make a device":    func() error { return unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		"make it writable": func() error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"write by a descriptor for reading": func() error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			return open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR)()
		},
		"write to a mapping": func() error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = unix.Mmap(int(f.Fd()), 0, 16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		},
	} {
		attempt(what, try)
	}
	inside(dir)
}

// flood writes output without an end that anybody waits for.
func flood([]string) {
	junk := []byte(strings.Repeat("\x1b]0;junk\a\xff\x00", 4096))
	for range 512 {
		_, _ = os.Stderr.Write(junk)
		_, _ = os.Stdout.Write(junk)
	}
	time.Sleep(0)
	fmt.Println()
}
