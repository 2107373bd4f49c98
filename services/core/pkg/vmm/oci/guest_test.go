package oci_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"golang.org/x/sys/unix"
)

// What a guest's root may and may not.
func TestConfinement(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	status := l.sh("one", "cat /proc/self/status")
	for _, want := range []string{
		"CapEff:\t00000000a80425fb", // Docker's default set
		"CapBnd:\t00000000a80425fb",
		"CapInh:\t0000000000000000",
		"Seccomp:\t2",
		"NoNewPrivs:\t0", // sudo works
	} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("no %q in the status of a guest's process:\n%s", want, status)
		}
	}
	for name, c := range map[string]struct{ script, want string }{
		"mount":            {"mount -t tmpfs none /mnt 2>/dev/null || echo refused", "refused"},
		"device nodes":     {"mknod /root/disk b 254 0 2>/dev/null || echo refused", "refused"},
		"sysctl":           {"echo 1 2>/dev/null >/proc/sys/kernel/panic || echo refused", "refused"},
		"masked file":      {"wc -c </proc/keys", "0"},
		"sysrq":            {"echo b 2>/dev/null >/proc/sysrq-trigger || echo refused", "refused"},
		"agent is sealed":  {"echo x 2>/dev/null >/dev/.aetherium/fc-agent || echo refused", "refused"},
		"first process":    {"cat /proc/1/comm", "fc-agent"},
		"processes seen":   {"set -- /proc/[0-9]*; echo $#", "2"}, // agent and shell
		"low ports":        {"cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
		"set-user-ID":      {"cp=1; cat /usr/bin/id >/tmp/id && chmod 4755 /tmp/id && stat -c %a /tmp/id", "4755"},
		"own devices":      {"echo x >/dev/null && head=$(dd if=/dev/urandom bs=8 count=1 2>/dev/null | wc -c) && echo $head", "8"},
		"mapped IDs":       {"cat /proc/self/uid_map | { read a b c; echo $a $c; }", "0 65536"},
		"template's owner": {"stat -c %u:%g /home/user", "1000:1000"},
		"root directory":   {"stat -c %u:%g:%a /", "0:0:755"},
		"shared memory":    {"stat -f -c %T /dev/shm", "tmpfs"},
		"hostname":         {"hostname", "one-host"},
		"own name in hosts": {
			"grep -c one-host /etc/hosts; cat /etc/hostname", "1\none-host"},
	} {
		if got := l.sh("one", c.script); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := l.as("one", 1000, "/tmp/id -u; : >/root/x"); !strings.HasPrefix(got, "1000\n") && !strings.HasPrefix(got, "0\n") || !strings.Contains(got, "ermission denied") {
		t.Errorf("an ordinary user: %q", got)
	}
	// On the host the guest's root is nobody of importance.
	states, err := l.List(t.Context())
	must(t, err)
	host, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", states[0].PID))
	must(t, err)
	if strings.Contains(string(host), "\nUid:\t0\t") {
		t.Error("the guest's root is the host's")
	}
	// The socket's directory is for the host alone, and its path is short.
	sockets, err := filepath.Glob(l.dir + "/run/s/*")
	must(t, err)
	if st, err := os.Stat(l.dir + "/run/s"); err != nil || st.Mode().Perm() != 0o700 || len(sockets) != 1 {
		t.Errorf("sockets %v, mode %v, %v", sockets, st.Mode(), err)
	}
}

// What the system call filter answers, whoever compiled it.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	const newUser, vsock, never = unix.CLONE_NEWUSER, unix.AF_VSOCK, 5000
	for what, tc := range map[string]struct {
		nr, a, b uintptr
		want     unix.Errno
	}{
		"getpid":                         {unix.SYS_GETPID, 0, 0, 0},
		"a key ring":                     {unix.SYS_KEYCTL, 0, 0, unix.EPERM},
		"a user namespace":               {unix.SYS_UNSHARE, newUser, 0, unix.EPERM},
		"BPF":                            {unix.SYS_BPF, 0, 0, unix.EPERM},
		"clone3, for libc to do without": {unix.SYS_CLONE3, 0, 0, unix.ENOSYS},
		"a call of the future":           {never, 0, 0, unix.ENOSYS},
		"AIO, whose stock is the host's": {unix.SYS_IO_SETUP, 64, 0, unix.ENOSYS},
		"a socket to the host":           {unix.SYS_SOCKET, vsock, unix.SOCK_STREAM, unix.EPERM},
		"a socket":                       {unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0},
		"a personality":                  {unix.SYS_PERSONALITY, 0xffffffff, 0, 0},
		"an executable stack":            {unix.SYS_PERSONALITY, 0x0100000, 0, unix.EPERM},
	} {
		got, err := l.post("one", "/syscall", fmt.Sprint(tc.nr, tc.a, tc.b))
		if err != nil || strings.TrimSpace(got) != strconv.Itoa(int(tc.want)) {
			t.Errorf("%s: error %q, want %d, %v", what, got, tc.want, err)
		}
	}
}

func TestTwoMachinesAreApart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	l.boot(spec("two"))
	l.sh("one", "echo secret > /root/f; sleep 1000 >/dev/null 2>&1 &")
	if got := l.sh("two", "test -e /root/f || echo none; cat /proc/[0-9]*/comm | grep -c sleep"); got != "none\n0\n\nexit status 1" {
		t.Errorf("one machine sees another's files or processes: %q", got)
	}
	ranges := map[string]bool{}
	states, err := l.List(t.Context())
	must(t, err)
	for _, s := range states {
		m, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", s.PID))
		must(t, err)
		ranges[string(m)] = true
	}
	if len(ranges) != 2 {
		t.Errorf("machines share an ID range: %v", ranges)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := spec("one")
	s.Resources = domain.Resources{MilliCPU: 500, MemoryBytes: 128 * mib, DiskBytes: 32 * mib, PIDs: 40}
	l.boot(s)
	u, err := l.Usage(t.Context(), "one")
	must(t, err)
	if u.MemoryLimit != 128*mib || u.DiskLimit != 32*mib || u.PIDs == 0 || u.MemoryBytes == 0 || u.OOMKills != 0 {
		t.Errorf("usage %+v", u)
	}

	out := l.sh("one", "dd if=/dev/zero of=/root/big bs=1M count=64 2>&1")
	if !strings.Contains(out, "quota exceeded") && !strings.Contains(out, "No space") {
		t.Errorf("64 MiB on a disk of 32: %s", out)
	}
	l.sh("one", "rm /root/big")

	// A child that takes too much is killed; the agent lives on.
	l.sh("one", "dd if=/dev/zero of=/dev/null bs=300M count=1")
	if u, err = l.Usage(t.Context(), "one"); err != nil || u.OOMKills == 0 {
		t.Errorf("OOM kills after taking 300 MiB of 128: %+v, %v", u, err)
	}
	// Shared memory is memory, too.
	if out := l.sh("one", "dd if=/dev/zero of=/dev/shm/x bs=1M count=200; rm -f /dev/shm/x; echo alive"); !strings.HasSuffix(out, "alive") {
		t.Errorf("filling /dev/shm: %s", out)
	}

	out = l.sh("one", "i=0; while [ $i -lt 60 ]; do sleep 100 >/dev/null 2>&1 & i=$((i+1)); done; echo all")
	if strings.HasSuffix(out, "all") && !strings.Contains(out, "ork") {
		t.Errorf("60 processes of 40: %s", out)
	}
}

func TestCPULimit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := spec("one")
	s.Resources.MilliCPU = 100
	l.boot(s)
	l.sh("one", "(while :; do :; done) >/dev/null 2>&1 &")
	// That the quota holds is in the kernel's own account.
	instance, err := os.ReadFile(l.dir + "/instance")
	must(t, err)
	var files []string
	for _, pattern := range []string{"/sys/fs/cgroup/cpu*/aetherium-%s/one/cpu.stat", "/sys/fs/cgroup/aetherium-%s/one/cpu.stat"} {
		found, err := filepath.Glob(fmt.Sprintf(pattern, instance))
		must(t, err)
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Fatal("the machine's CPU account was not found")
	}
	for n := 0; n == 0; { // a busy machine with a tenth of a core; the test's limit ends it
		raw, err := os.ReadFile(files[0])
		must(t, err)
		_, after, _ := strings.Cut(string(raw), "nr_throttled ")
		line, _, _ := strings.Cut(after, "\n")
		n, err = strconv.Atoi(line)
		must(t, err)
	}
}

func TestAgentOutOfMemory(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	_, _ = l.post("one", "/eat", "")
	exit, err := l.Wait(t.Context(), "one")
	must(t, err)
	if !exit.OOM || exit.Known && exit.Signal != 9 {
		t.Errorf("exit %+v, want OOM", exit)
	}
	l.reopen()
	if again, err := l.Wait(t.Context(), "one"); err != nil || !again.At.Equal(exit.At) || again.Known != exit.Known || !again.OOM {
		t.Errorf("another driver says %+v, %v", again, err)
	}
}

func TestDialPorts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	for port, on := range map[uint32]string{8080: "127.0.0.1:8080", 8081: "0.0.0.0:8081", 8082: "[::1]:8082", 80: "127.0.0.1:80"} {
		if out, err := l.post("one", "/serve?on="+on, ""); err != nil || out != "" {
			t.Fatalf("serve on %s: %q, %v", on, out, err)
		}
		conn, err := l.Dial(t.Context(), "one", port)
		if err != nil {
			t.Errorf("%s: %v", on, err)
			continue
		}
		if greeting, err := io.ReadAll(conn); err != nil || string(greeting) != "hello from the machine" {
			t.Errorf("%s: %q, %v", on, greeting, err)
		}
		must(t, conn.Close())
	}
	if _, err := l.Dial(t.Context(), "one", 9); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a closed port: %v", err)
	}
	for _, port := range []uint32{0, 65536} {
		if _, err := l.Dial(t.Context(), "one", port); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("port %d: %v", port, err)
		}
	}
}

func TestResizeAndRename(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	l.boot(spec("one"))
	must(t, l.Resize(ctx, "one", domain.Resources{MilliCPU: 2000, MemoryBytes: 512 * mib, DiskBytes: 256 * mib, PIDs: 512}))
	must(t, l.Resize(ctx, "one", domain.Resources{MemoryBytes: 384 * mib})) // the rest stays
	u, err := l.Usage(ctx, "one")
	must(t, err)
	if u.MemoryLimit != 384*mib || u.DiskLimit != 256*mib {
		t.Errorf("usage %+v", u)
	}
	if out := l.sh("one", "dd if=/dev/zero of=/root/big bs=1M count=160 2>&1 && echo fits"); !strings.HasSuffix(out, "fits") {
		t.Errorf("160 MiB on a disk of 256: %s", out)
	}
	if err := l.Resize(ctx, "one", domain.Resources{PIDs: -1}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("negative: %v", err)
	}

	must(t, l.SetHostname(ctx, "one", "claimed"))
	check := "hostname; cat /etc/hostname; grep -c claimed /etc/hosts; stat -c %u:%a /etc/hosts"
	want := "claimed\nclaimed\n1\n0:644"
	if got := l.sh("one", check); got != want {
		t.Errorf("renamed: %q", got)
	}
	l.sh("one", "echo 10.1.2.3 mine >> /etc/hosts")
	must(t, l.Stop(ctx, "one", 0))
	must(t, l.Start(ctx, "one"))
	if got := l.sh("one", check+"; grep -c mine /etc/hosts"); got != want+"\n1" {
		t.Errorf("after a restart: %q", got)
	}
	if u, err := l.Usage(ctx, "one"); err != nil || u.MemoryLimit != 384*mib {
		t.Errorf("after a restart the memory limit is %d, %v", u.MemoryLimit, err)
	}
	for _, bad := range []string{"", "a b", "-x", strings.Repeat("a", 64), "a\n127.0.0.1 bank"} {
		if err := l.SetHostname(ctx, "one", bad); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("hostname %q: %v", bad, err)
		}
	}
}

// A guest that turns its /etc into a trap must not lead the host astray.
func TestHostileEtc(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	l.boot(spec("one"))
	target := l.dir + "/victim"
	must(t, os.Mkdir(target, 0o777))
	must(t, os.Chmod(target, 0o777))
	l.sh("one", "mv /etc /etc.old; ln -s "+target+" /etc; hostname")
	must(t, l.SetHostname(ctx, "one", "other"))
	must(t, l.Stop(ctx, "one", 0))
	must(t, l.Start(ctx, "one"))
	l.sh("one", "rm /etc; mkdir /etc; ln -s "+target+"/hosts /etc/hosts; ln -s "+target+"/x /etc/.aetherium-new; ln -s "+target+"/hostname /etc/hostname")
	must(t, l.SetHostname(ctx, "one", "third"))
	if got := l.sh("one", "hostname; cat /etc/hostname"); got != "third\nthird" {
		t.Errorf("renamed: %q", got)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
		t.Errorf("the host wrote through a guest's link: %v, %v", entries, err)
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	must(t, errors.Join(os.Mkdir(l.dir+"/rw", 0o755), os.Mkdir(l.dir+"/ro", 0o755),
		os.WriteFile(l.dir+"/ro/f", []byte("given"), 0o644), os.WriteFile(l.dir+"/single", []byte("single"), 0o644)))
	s := spec("one")
	s.Mounts = []vmm.HostMount{
		{Source: l.dir + "/rw", Target: "/data/rw"},
		{Source: l.dir + "/ro", Target: "/data/ro", ReadOnly: true},
		{Source: l.dir + "/single", Target: "/data/single", ReadOnly: true},
	}
	l.boot(s)
	got := l.sh("one", "echo mine >/data/rw/f; stat -c %u /data/rw/f; cat /data/ro/f; echo x 2>/dev/null >/data/ro/f || echo refused; cat /data/single")
	if got != "0\ngivenrefused\nsingle" {
		t.Errorf("mounts: %q", got)
	}
	if raw, err := os.ReadFile(l.dir + "/rw/f"); err != nil || string(raw) != "mine\n" {
		t.Errorf("written through the mount: %q, %v", raw, err)
	}
	must(t, l.Delete(t.Context(), "one"))
	if raw, err := os.ReadFile(l.dir + "/ro/f"); err != nil || string(raw) != "given" {
		t.Errorf("after Delete the source is %q, %v", raw, err)
	}
}

// Some runtimes give the streams that they are handed to the machine's root.
// With the host's /dev/null that one could close it to everybody.
func TestHostsNullDeviceStaysTheHosts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var before, after, stream unix.Stat_t
	must(t, unix.Stat("/dev/null", &before))
	l.boot(spec("one"))
	l.sh("one", "chmod 600 /dev/null; chmod 600 /proc/1/fd/*")
	must(t, unix.Stat("/dev/null", &after))
	if after.Uid != before.Uid || after.Gid != before.Gid || after.Mode != before.Mode {
		t.Errorf("the host's /dev/null is %d:%d %o, was %d:%d %o", after.Uid, after.Gid, after.Mode, before.Uid, before.Gid, before.Mode)
	}
	states, err := l.List(t.Context())
	must(t, err)
	for fd := range 3 {
		must(t, unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", states[0].PID, fd), &stream))
		if stream.Rdev != before.Rdev {
			t.Errorf("descriptor %d is not a null device: mode %o, device %x", fd, stream.Mode, stream.Rdev)
		}
	}
}
