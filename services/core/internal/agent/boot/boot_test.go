package boot_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// A machine shows its template with its disk on top, and what programs expect
// of a machine; what it wrote is there when it runs again, also on a disk that
// was made larger meanwhile.
func TestBoot(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	if rootfs == "" {
		t.Skip("no root filesystem is given in " + rootfsEnv)
	}
	l := newLab(t)
	extra := filepath.Join(t.TempDir(), "extra")
	must(t, os.Mkdir(extra, 0o755))
	must(t, os.WriteFile(filepath.Join(extra, "file"), []byte("shared\n"), 0o644))
	tree := l.tree(extra)
	root, disk, trees := l.tree(rootfs), l.disk(), map[string]string{"/opt/new/place": tree}

	v := l.boot("first", root, disk, trees)
	v.ready()
	must(t, v.Assume(t.Context(), guest.Identity{Hostname: "machine", Limits: guest.Limits{PIDs: 200, MilliCPU: 1000}}))
	for _, tc := range []struct{ script, want string }{
		{"cat /opt/new/place/file; touch /opt/new/place/x 2>&1 | grep -o 'Read-only file system'", "shared\nRead-only file system\n"},
		{"stat -c '%a %U %F' / /tmp /dev/shm /dev/ptmx /dev/null", "755 root directory\n1777 root directory\n1777 root directory\n666 root character special file\n666 root character special file\n"},
		{"stat -f -c %T / /proc /sys /dev/pts /dev/shm /sys/fs/cgroup /dev/mqueue", "overlayfs\nproc\nsysfs\ndevpts\ntmpfs\ncgroup2fs\nmqueue\n"},
		{"echo of stdin | cat /dev/stdin; ls -d /init /modules /lower /disk 2>/dev/null", "of stdin\n"},
		{"cat /proc/1/comm; cat /sys/class/net/lo/flags; cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "init\n0x9\n0\n"},
		{"ulimit -n; grep -c 'Max processes *unlimited' /proc/self/limits; cat /proc/self/oom_score_adj; cat /proc/1/oom_score_adj", "1048576\n1\n0\n-999\n"},
		{"mv /usr/share /usr/renamed && ls -d /usr/renamed && mv /usr/renamed /usr/share", "/usr/renamed\n"},
		{"echo kept > /root/kept; sync; cat /root/kept", "kept\n"},
	} {
		if out, end := v.run(tc.script); out != tc.want {
			t.Errorf("%s: %q, not %q (%v)", tc.script, out, tc.want, end)
		}
	}
	// What is loaded later is taken by a kernel that takes signed modules only, too.
	v.run("echo 1 > /sys/module/module/parameters/sig_enforce")
	must(t, v.Quiesce(t.Context()))
	if out, end := v.run("cat /sys/module/module/parameters/sig_enforce; cut -d ' ' -f 1 /proc/modules | grep -x tcp_diag"); out != "Y\ntcp_diag\n" {
		t.Errorf("of a signed module: %q (%v)", out, end)
	}
	a := v.ready()
	if len(a.Phases) < 3 {
		t.Errorf("phases %v", a.Phases)
	}
	must(t, v.Shutdown(t.Context(), time.Second))
	v.ended()

	must(t, os.Truncate(disk, 8<<30))
	v = l.boot("second", root, disk, trees)
	v.ready()
	if out, end := v.run("df -B 1G --output=size / | tail -n 1"); strings.TrimSpace(out) != "8" {
		t.Errorf("the larger disk has %q GiB (%v)", out, end)
	}
	if out, end := v.run("cat /root/kept"); out != "kept\n" {
		t.Errorf("after a restart: %q (%v)", out, end)
	}
	v.end()
}

// A machine that cannot be booted ends.
func TestFailure(t *testing.T) {
	l := newLab(t)
	blank := filepath.Join(l.dir, "blank")
	must(t, os.WriteFile(blank, nil, 0o644))
	must(t, os.Truncate(blank, mib))
	v := l.boot("broken", blank, l.disk(), nil)
	v.ended()
}

// What goes to a place that a template has as a link goes where that leads to,
// within the machine.
func TestLinksInTemplate(t *testing.T) {
	l := newLab(t)
	dir, extra := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "usr/there"), 0o755))
	must(t, os.Symlink("/usr/there", filepath.Join(dir, "link")))
	must(t, os.WriteFile(filepath.Join(dir, "usr/old"), []byte("the template's"), 0o600))
	must(t, os.WriteFile(filepath.Join(extra, "file"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(extra, bootline.FileName), []byte("shown"), 0o644))
	g := l.guest("links", l.tree(dir), l.disk(), map[string]string{"/link/place": l.tree(extra)})
	for _, role := range []string{"/link/further/x.sh", "/usr/old"} {
		g.Drives = append(g.Drives, microvm.Drive{Path: g.Drives[2].Path, ReadOnly: true, Role: bootline.RoleFile + role})
	}
	v := l.start(g)
	v.ready()
	if _, err := v.Stat(t.Context(), "/usr/there/place/file", vmm.FileOptions{User: "0"}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"/usr/there/further/x.sh", "/usr/old"} {
		info, r, err := v.Read(t.Context(), name, vmm.FileOptions{User: "0"})
		must(t, err)
		text, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(text) != "shown" || info.Mode&0o777 != 0o644 {
			t.Errorf("%s is %q, %o, %v", name, text, info.Mode, err)
		}
		if _, err := v.Write(t.Context(), name, strings.NewReader("mine"), vmm.FileOptions{User: "0"}); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if left, err := v.List(t.Context(), "/dev/shm", 1, vmm.FileOptions{User: "0"}); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// When memory runs out a command ends, and not the machine.
func TestOutOfMemory(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	if rootfs == "" {
		t.Skip("no root filesystem is given in " + rootfsEnv)
	}
	l := newLab(t)
	v := l.boot("memory", l.tree(rootfs), l.disk(), nil)
	before := v.ready()
	must(t, v.Assume(t.Context(), guest.Identity{Hostname: "machine"}))
	if _, end := v.run("exec tail /dev/zero"); end.GetSignal() != 9 {
		t.Errorf("ended with %v", end)
	}
	if after := v.ready(); after.BootID != before.BootID {
		t.Error("the agent is another one")
	}
	u, err := v.Usage(t.Context())
	must(t, err)
	if u.OOMKills < 1 {
		t.Errorf("usage %+v", u)
	}
}

// A template may have nothing at all.
func TestEmptyTemplate(t *testing.T) {
	l := newLab(t)
	v := l.boot("empty", l.tree(t.TempDir()), l.disk(), nil)
	a := v.ready()
	if a.BootID == "" {
		t.Error("no boot ID")
	}
	files, err := v.List(t.Context(), "/", 1, vmm.FileOptions{User: "0"})
	must(t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	for _, want := range []string{"dev", "etc", "proc", "root", "run", "sys", "tmp"} {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+want+" ") {
			t.Errorf("there is no /%s: %v", want, names)
		}
	}
}
