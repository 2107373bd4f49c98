package oci_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
	"golang.org/x/sys/unix"
)

// Extended attributes that hold IDs, as a guest reads and writes them.
var (
	// fileCapability is CAP_NET_RAW, permitted and effective (version 2 of struct vfs_cap_data).
	fileCapability = littleEndian(0x02000001, 1<<13, 0, 0, 0)
	// accessList gives user 1000 and group 1001 rights (linux/posix_acl_xattr.h):
	// version; then tag and permissions, and ID.
	accessList = littleEndian(2,
		0x01|6<<16, 0xffffffff, 0x02|7<<16, 1000, 0x04|4<<16, 0xffffffff, 0x08|5<<16, 1001, 0x10|7<<16, 0xffffffff, 0x20|4<<16, 0xffffffff)
	// privateList lets user 1000 read what is otherwise root's alone.
	privateList = littleEndian(2, 0x01|6<<16, 0xffffffff, 0x02|4<<16, 1000, 0x04, 0xffffffff, 0x10|4<<16, 0xffffffff, 0x20, 0xffffffff)
)

func littleEndian(words ...uint32) string {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return string(b)
}

const survey = `for f in /root/r /home/user/u /home/user/s /root/n /home/user; do stat -c '%n %u:%g %a' $f; done
readlink /home/user/link; stat -c '%u:%g' /home/user/link; cat /home/user/u; stat -c %h /root/n; id -u; cat /var/lib/dir/file; test -e /etc/group || echo gone`

const surveyed = `/root/r 0:0 600
/home/user/u 1000:1000 644
/home/user/s 1000:1000 6755
/root/n 65534:7 644
/home/user 1000:1000 755
/etc/shadow
1000:1000
user's
2
0
template
gone`

// settle gives a machine files of several owners, and everything else that holds IDs.
func (l *lab) furnish(id string) {
	l.t.Helper()
	l.sh(id, "echo r >/root/r; chmod 600 /root/r; echo n >/root/n; chown 65534:7 /root/n; ln /root/n /root/n2; rm /etc/group")
	l.as(id, 1000, "cd /home/user; echo \"user's\" >u; cat /usr/bin/id >s; chmod 6755 s; ln -s /etc/shadow link")
	l.sh(id, "echo listed >/mnt/listed; chmod 600 /mnt/listed")
	for _, x := range []struct{ path, name, value string }{
		{"/root/n", "security.capability", fileCapability},
		{"/home/user", "system.posix_acl_access", accessList},
		{"/mnt/listed", "system.posix_acl_access", privateList},
	} {
		if out, err := l.post(id, fmt.Sprintf("/setxattr?path=%s&name=%s", x.path, x.name), x.value); err != nil || out != "" {
			l.t.Fatalf("%s: %s, %v", x.name, out, err)
		}
	}
	l.sh(id, "chmod 755 /home/user")
}

// inspect checks that a machine has what furnish made.
func (l *lab) inspect(id string) {
	l.t.Helper()
	if got := l.sh(id, survey); got != surveyed {
		l.t.Errorf("%s:\n%s\nwant\n%s", id, got, surveyed)
	}
	capability, err := l.post(id, "/getxattr?path=/root/n&name=security.capability", "")
	must(l.t, err)
	if capability != fileCapability {
		l.t.Errorf("%s: file capability %x, want %x", id, capability, fileCapability)
	}
	for uid, want := range map[int]string{1000: "listed", 1001: "denied"} {
		if got := l.as(id, uid, "cat /mnt/listed 2>/dev/null || echo denied"); got != want {
			l.t.Errorf("%s: by its access list, user %d is %q, want %q", id, uid, got, want)
		}
	}
	if olderThan(6, 2) {
		return // these kernels keep and obey access lists on mapped layers, and show nobody's IDs
	}
	acl, err := l.post(id, "/getxattr?path=/home/user&name=system.posix_acl_access", "")
	must(l.t, err)
	for _, entry := range []string{littleEndian(1000), littleEndian(1001)} {
		if !strings.Contains(acl, entry) {
			l.t.Errorf("%s: access list %x lacks ID %x", id, acl, entry)
		}
	}
}

// olderThan compares this host's kernel.
func olderThan(major, minor int) bool {
	var uts unix.Utsname
	var a, b int
	if err := unix.Uname(&uts); err != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &a, &b)
	return err == nil && (a < major || a == major && b < minor)
}

func (l *lab) idBase(id string) string {
	l.t.Helper()
	states, err := l.List(l.t.Context())
	must(l.t, err)
	for _, s := range states {
		if s.MachineID == id {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", s.PID))
			must(l.t, err)
			return strings.Fields(string(raw))[1]
		}
	}
	l.t.Fatalf("no machine %s", id)
	return ""
}

// ways are those in which a driver maps IDs.
var ways = map[string]func(*oci.Config){
	"mount": func(c *oci.Config) { c.IDMapping = oci.IDMapMount },
	"mount on an older kernel": func(c *oci.Config) {
		c.IDMapping = oci.IDMapMount
		oci.AttachLayers(c)
	},
	"copy": func(c *oci.Config) { c.IDMapping = oci.IDMapCopy },
}

// A fork has another ID range than its origin, and the same files with the same owners.
func TestFork(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, way)
			l.boot(spec("origin"))
			l.furnish("origin")
			l.inspect("origin")
			info, err := l.Snapshot(t.Context(), "origin", "snap", domain.SnapshotDisk)
			must(t, err)
			if info.Bytes <= 0 || info.Frozen <= 0 {
				t.Errorf("snapshot %+v", info)
			}
			if _, err := l.Snapshot(t.Context(), "origin", "snap", domain.SnapshotDisk); err != nil {
				t.Errorf("the same snapshot again: %v", err)
			}
			l.sh("origin", "echo later >/root/r") // not in the snapshot
			for _, id := range []string{"fork1", "fork2"} {
				s := spec(id)
				s.DiskFrom = "snap"
				l.boot(s)
				l.inspect(id)
				if got := l.sh(id, "hostname; cat /etc/hostname /root/r"); got != id+"-host\n"+id+"-host\nr" {
					t.Errorf("%s: %q", id, got)
				}
			}
			if a, b := l.idBase("origin"), l.idBase("fork1"); a == b {
				t.Fatalf("origin and fork share the range of %s", a)
			}
			l.sh("fork1", "echo fork >/root/r; rm -rf /home/user/u")
			if got := l.sh("fork2", "cat /root/r /home/user/u"); got != "r\nuser's" {
				t.Errorf("one fork changed another: %q", got)
			}
			if got := l.sh("origin", "cat /root/r /home/user/u"); got != "later\nuser's" {
				t.Errorf("a fork changed its origin: %q", got)
			}
			ids, err := l.ListSnapshots(t.Context())
			must(t, err)
			if len(ids) != 1 || ids[0] != "snap" {
				t.Errorf("snapshots %v", ids)
			}
			for range 2 {
				must(t, l.DeleteSnapshot(t.Context(), "snap"))
			}
			must(t, l.Delete(t.Context(), "origin"))
			l.inspect("fork2")
		})
	}
}

// A volume moves between hosts that map IDs and hosts that cannot: a kernel is
// updated, or exchanged for an old one.
func TestMappingChanges(t *testing.T) {
	t.Parallel()
	for _, way := range [][2]string{{"mount", "copy"}, {"copy", "mount"}} {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			t.Parallel()
			l := newLab(t, ways[way[0]])
			l.boot(spec("one"))
			l.furnish("one")
			must(t, l.Stop(t.Context(), "one", 0))
			l.options = []func(*oci.Config){ways[way[1]]}
			l.reopen()
			must(t, l.Start(t.Context(), "one"))
			l.inspect("one")
		})
	}
}

func TestSnapshotOfAStoppedMachine(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	l.furnish("one")
	must(t, l.Stop(t.Context(), "one", 0))
	info, err := l.Snapshot(t.Context(), "one", "snap", domain.SnapshotDisk)
	must(t, err)
	if info.Frozen != 0 {
		t.Errorf("nothing ran, yet it was frozen for %v", info.Frozen)
	}
	if got := l.status("one"); got != vmm.StatusCreated {
		t.Errorf("status %q", got)
	}
	s := spec("fork")
	s.DiskFrom = "snap"
	l.boot(s)
	l.inspect("fork")
}

// A snapshot of a machine that writes all the time is of one moment: what was
// written in order is there in order.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.boot(spec("one"))
	l.sh("one", "(i=0; while :; do i=$((i+1)); echo $i >/root/first; echo $i >/root/second; done) >/dev/null 2>&1 &"+
		" until [ -s /root/second ]; do sleep 0.01; done")
	for i := range 5 {
		snap := fmt.Sprintf("s%d", i)
		_, err := l.Snapshot(t.Context(), "one", snap, domain.SnapshotDisk)
		must(t, err)
		s := spec(fmt.Sprintf("fork%d", i))
		s.DiskFrom = snap
		l.boot(s)
		var first, second int
		out := l.sh(s.MachineID, "echo 0$(cat /root/first) 0$(cat /root/second 2>/dev/null)")
		if _, err := fmt.Sscanf(out, "%d %d", &first, &second); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		// A file is empty for a moment while it is written anew, and may be still to come.
		if first != 0 && second != 0 && first-second != 0 && first-second != 1 {
			t.Errorf("first %d, second %d", first, second)
		}
	}
	if got := l.sh("one", "echo goes on"); got != "goes on" {
		t.Errorf("after snapshots: %q", got)
	}
}
