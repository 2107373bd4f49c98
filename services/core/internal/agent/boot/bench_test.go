package boot_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest"
)

// shellInit does with a shell what the agent does until its host hears of it.
const shellInit = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for m in virtio_ring virtio virtio_mmio virtio_blk virtio_console overlay libcrc32c erofs; do /bin/busybox insmod /modules/$m.ko; done
/bin/busybox mkdir -p /root /disk /new
/bin/busybox mount -t erofs -o ro /dev/vda /root
/bin/busybox mount -t ext4 -o noatime /dev/vdb /disk
/bin/busybox mkdir -p /disk/upper /disk/work
/bin/busybox mount -t overlay -o lowerdir=/root,upperdir=/disk/upper,workdir=/disk/work overlay /new
port=$(/bin/busybox ls -d /sys/class/virtio-ports/*)
echo hello > /dev/${port##*/}
while :; do /bin/busybox sleep 1000; done
`

// BenchmarkFirstOutput measures from nothing to what a command prints, beside
// the same kernel, initramfs, and drives with a shell script in the agent's place.
func BenchmarkFirstOutput(b *testing.B) {
	l := newLab(b)
	rootfs := os.Getenv(rootfsEnv)
	if rootfs == "" {
		b.Skip("no root filesystem is given in " + rootfsEnv)
	}
	root, disk := l.tree(rootfs), l.disk()
	busybox, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		b.Skip("busybox is not installed")
	}
	shell := l.kernel
	shell.Initrd = filepath.Join(l.dir, "shell")
	own, err := os.ReadFile(l.kernel.Initrd)
	must(b, err)
	var more bytes.Buffer
	for i, f := range []struct {
		name    string
		mode    int
		content []byte
	}{
		{"bin", 0o40755, nil},
		{"proc", 0o40755, nil},
		{"sys", 0o40755, nil},
		{"bin/busybox", 0o100755, busybox},
		{"init", 0o100755, []byte(shellInit)},
		{"TRAILER!!!", 0, nil},
	} {
		fmt.Fprintf(&more, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i, f.mode, 0, 0, 1, 0, len(f.content), 0, 0, 0, 0, len(f.name)+1, 0, f.name)
		more.Write(make([]byte, -more.Len()&3))
		more.Write(f.content)
		more.Write(make([]byte, -more.Len()&3))
	}
	must(b, os.WriteFile(shell.Initrd, append(own, more.Bytes()...), 0o644))
	var took, used [2]time.Duration
	agent := l.kernel
	n := 0
	for b.Loop() {
		l.kernel = agent
		n++
		began := time.Now()
		v := l.boot(fmt.Sprintf("agent%d", n), root, disk, nil)
		v.ready()
		must(b, v.Assume(b.Context(), guest.Identity{Hostname: "machine", Limits: guest.Limits{PIDs: 200, MilliCPU: 1000}}))
		if out, _ := v.run("echo hello"); out != "hello\n" {
			b.Fatalf("%q", out)
		}
		took[0] += time.Since(began)
		used[0] += v.kill()
		l.kernel = shell
		began = time.Now()
		v = l.boot(fmt.Sprintf("shell%d", n), root, disk, nil)
		c, err := net.Dial("unix", filepath.Join(v.g.Dir, "agent"))
		must(b, err)
		must(b, c.SetDeadline(time.Now().Add(patience)))
		if _, err := io.ReadFull(c, make([]byte, 6)); err != nil {
			b.Fatalf("%v\n%s", err, v.console())
		}
		took[1] += time.Since(began)
		_ = c.Close()
		used[1] += v.kill()
	}
	b.ReportMetric(took[0].Seconds()/float64(n), "s/agent")
	b.ReportMetric(took[1].Seconds()/float64(n), "s/shell")
	b.ReportMetric(float64(took[0])/float64(took[1]), "agent/shell")
	b.ReportMetric(used[0].Seconds()/float64(n), "cpu-s/agent")
	b.ReportMetric(used[1].Seconds()/float64(n), "cpu-s/shell")
}
