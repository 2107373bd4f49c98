package firecracker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// One boot serves many checks: it takes some 10 s where Firecracker is emulated.
func TestLife(t *testing.T) {
	l := newLab(t)
	before := mounts(t)
	version, err := l.engine.Version(l.ctx())
	must(t, err)
	t.Log(version)
	g := l.guest(nil)
	pid := l.boot(g)
	t.Run("devices", func(t *testing.T) {
		want := "root root ro=1 <nil>\ndisk disk ro=0 <nil>\nmount:/extra extra ro=1 <nil>\n"
		if got := l.ask(g, "GET", "/drives"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		l.ask(g, "POST", "/link?address=192.0.2.2/24")
		if got := l.ask(g, "GET", "/peer?address="+peerAddress); got != "host of "+g.ID {
			t.Errorf("over the tap: %q", got)
		}
	})
	t.Run("jail", func(t *testing.T) { checkJail(t, g, pid) })
	t.Run("freeze", func(t *testing.T) {
		for range 2 {
			must(t, l.engine.Freeze(l.ctx(), g))
		}
		for range 2 {
			must(t, l.engine.Thaw(l.ctx(), g))
		}
		l.ask(g, "GET", "/hello")
	})
	l.ask(g, "POST", "/fill?bytes=8388608&seed=1")
	one := l.ask(g, "GET", "/sum")
	l.ask(g, "POST", "/disk?text=one")
	full, clone := l.save(g, false)
	l.ask(g, "POST", "/fill?bytes=8388608&seed=2")
	two := l.ask(g, "GET", "/sum")
	l.ask(g, "POST", "/disk?text=two")
	diff, later := l.save(g, false)
	t.Run("diff", func(t *testing.T) {
		if isShared(t, full) || !isShared(t, diff) {
			t.Error("the second snapshot is not one of what changed")
		}
	})
	t.Run("clones", func(t *testing.T) {
		// Side by side with their origin, and each by itself.
		pids := []int{l.restore(l.engine, clone, full), l.restore(l.engine, later, diff)}
		for i, c := range []struct {
			g    microvm.Guest
			sum  string
			disk string
		}{{clone, one, "one"}, {later, two, "two"}, {g, two, "two"}} {
			if got := l.ask(c.g, "GET", "/sum"); got != c.sum {
				t.Errorf("guest %d has another memory", i)
			}
			if got := l.ask(c.g, "GET", "/drives"); !strings.Contains(got, "disk "+c.disk+" ") {
				t.Errorf("guest %d has another disk: %s", i, got)
			}
			if got := l.ask(c.g, "GET", "/peer?address="+peerAddress); got != "host of "+c.g.ID {
				t.Errorf("guest %d over its tap: %q", i, got)
			}
		}
		checkJail(t, clone, pids[0])
		l.ask(clone, "POST", "/fill?bytes=4194304&seed=3")
		three := l.ask(clone, "GET", "/sum")
		// What a clone writes goes onto its origin's memory in the next generation.
		again, grandchild := l.save(clone, true)
		if !isShared(t, again) {
			t.Error("a clone's snapshot is not one of what changed")
		}
		end(l, clone, pids[0])
		pid := l.restore(l.engine, grandchild, again)
		if got := l.ask(grandchild, "GET", "/sum"); got != three {
			t.Error("the third generation has another memory")
		}
		end(l, grandchild, pid)
		end(l, later, pids[1])
	})
	t.Run("uffd", func(t *testing.T) { checkPaged(t, l, g, full, one) })
	t.Run("lingering", func(t *testing.T) { checkLingering(t, l, g) })
	t.Run("other form", func(t *testing.T) {
		c := l.guest(&g)
		c.CPUs = 2
		if _, err := l.engine.Restore(l.ctx(), c, full); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("two processors for one: %v", err)
		}
		if _, err := l.engine.Restore(l.ctx(), c, microvm.Memory{Dir: t.TempDir()}); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("nothing saved: %v", err)
		}
	})
	t.Run("failed disk", func(t *testing.T) {
		broken := errors.New(errors.NoSpace, "no")
		_, err := l.engine.Save(l.ctx(), g, microvm.Memory{Dir: l.memoryDir()}, true, func(context.Context) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		l.ask(g, "GET", "/hello") // it goes on
		to := microvm.Memory{Dir: l.memoryDir()}
		_, err = l.engine.Save(l.ctx(), g, to, false, func(context.Context) error { return nil })
		must(t, err)
		if isShared(t, to) {
			t.Error("what changed is counted from a snapshot that failed")
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		must(t, l.engine.Shutdown(l.ctx(), g)) // the first program asks for no signal of it, so the kernel reboots
		l.gone(pid)
		if _, err := l.engine.Dial(l.ctx(), g); !errors.HasCode(err, errors.Unavailable) {
			t.Errorf("an ended guest: %v", err)
		}
		if err := l.engine.Freeze(l.ctx(), g); !errors.HasCode(err, errors.Conflict) {
			t.Errorf("an ended guest: %v", err)
		}
		must(t, l.engine.Shutdown(l.ctx(), g))
		must(t, l.engine.Clean(l.ctx(), g))
	})
	if after := mounts(t); after != before {
		t.Errorf("mounts are left:\n%s", after)
	}
}

// What a guest has freed goes back to its host by itself, where the release can do that:
// its kernel tells the balloon of it some seconds later.
func TestFreedMemoryGoesBack(t *testing.T) {
	l := newLab(t)
	version, err := l.engine.Version(l.ctx())
	must(t, err)
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d.", &major, &minor); err != nil {
		t.Fatalf("%q: %v", version, err)
	}
	if major == 1 && minor < 14 {
		t.Skipf("firecracker %s gives nothing back by itself", version)
	}
	const size = 64 * mib
	resident := func(pid int) int64 {
		t.Helper()
		var kib int64
		if _, err := fmt.Sscanf(status(t, pid)["VmRSS"], "%d kB", &kib); err != nil {
			t.Fatal(err)
		}
		return kib << 10
	}
	g := l.guest(nil)
	g.Memory *= 2
	pid := l.boot(g)
	empty := resident(pid)
	l.ask(g, "POST", fmt.Sprintf("/fill?bytes=%d&seed=1", size))
	full := resident(pid)
	if full-empty < size/2 {
		t.Fatalf("%d MiB are resident with an empty memory, %d with a full one", empty/mib, full/mib)
	}
	l.ask(g, "POST", "/fill?bytes=4096&seed=2")
	for until := time.Now().Add(patience); resident(pid) > full-size/2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("of %d MiB that were resident %d still are", full/mib, resident(pid)/mib)
		}
	}
	t.Logf("%d MiB, %d with what was freed then, %d after it", empty/mib, full/mib, resident(pid)/mib)
	end(l, g, pid)
}

// The process that started a guest is killed; another finds the guest as it was,
// also where a page server has its memory.
func TestKilledParent(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.byKilled(started{Guest: g})
	l.ask(g, "POST", "/fill?bytes=1048576&seed=1")
	sum := l.ask(g, "GET", "/sum")
	must(t, l.engine.Freeze(l.ctx(), g))
	must(t, l.engine.Thaw(l.ctx(), g))
	memory, clone := l.save(g, false)
	paged := l.guest(&g)
	server := parent(t, l.byKilled(started{paged, memory}))
	must(t, l.engine.Thaw(l.ctx(), paged))
	pid := l.restore(l.engine, clone, memory)
	if l.ask(clone, "GET", "/sum") != sum || l.ask(paged, "GET", "/sum") != sum || l.ask(g, "GET", "/sum") != sum {
		t.Error("memory is another one")
	}
	end(l, clone, pid)
	// Neither goes on without the other.
	must(t, unix.Kill(server, unix.SIGKILL))
	l.gone(server)
	if _, err := l.engine.Dial(l.ctx(), paged); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("a guest without its page server: %v", err)
	}
}

func checkPaged(t *testing.T, l *lab, origin microvm.Guest, from microvm.Memory, sum string) {
	cfg := config(firecracker.UFFD)
	cfg.Disk, cfg.Network = firecracker.Limit{BytesPerSecond: 64 * mib}, firecracker.Limit{OpsPerSecond: 12345}
	paged := l.as(cfg)
	touched := filepath.Join(from.Dir, "touched")
	first := l.guest(&origin)
	pid := l.restore(paged, first, from)
	if got := l.ask(first, "GET", "/sum"); got != sum {
		t.Error("it has another memory")
	}
	raw, err := os.ReadFile(touched)
	must(t, err)
	wanted := 0
	for _, b := range raw {
		if b != 0 {
			wanted++
		}
	}
	if wanted == 0 {
		t.Error("no page was recorded as wanted")
	}
	// Its pages are served by a process of its own, in the same surroundings.
	server := parent(t, pid)
	if st := status(t, server); !strings.HasPrefix(st["Uid"], fmt.Sprint(first.UID)) || st["CapEff"] != "0000000000000000" {
		t.Errorf("the page server has more rights than it needs: %v %v", st["Uid"], st["CapEff"])
	}
	if got := groupOf(t, server); got != first.Cgroup[0] {
		t.Errorf("the page server is in %s", got)
	}
	// Its devices are bounded, although its origin's are not.
	if got := configured(l, first); got != "67108864/0 67108864/0 67108864/0, 0/12345" {
		t.Errorf("its limits are %s", got)
	}
	// A second one has them ahead.
	second := l.guest(&origin)
	pid2 := l.restore(paged, second, from)
	if got := l.ask(second, "GET", "/sum"); got != sum {
		t.Error("the second has another memory")
	}
	// A paged guest can be saved too.
	memory, clone := l.save(second, false)
	end(l, second, pid2)
	pid3 := l.restore(l.engine, clone, memory)
	if got := l.ask(clone, "GET", "/sum"); got != sum {
		t.Error("the paged one's clone has another memory")
	}
	if got := configured(l, clone); got != "0/0 0/0 0/0, 0/0" {
		t.Errorf("where nothing is bounded, the limits are %s", got)
	}
	end(l, clone, pid3)
	// The end of the page server is the guest's.
	must(t, unix.Kill(server, unix.SIGKILL))
	l.gone(pid)
	if _, err := paged.Dial(l.ctx(), first); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("after its page server's end: %v", err)
	}
}

// configured is what bounds a guest's disks and what comes over its network, as
// its monitor tells: bytes and operations.
func configured(l *lab, g microvm.Guest) string {
	l.t.Helper()
	type limiter struct {
		Bandwidth, Ops struct{ Size int64 }
	}
	var got struct {
		Drives []struct {
			Limiter limiter `json:"rate_limiter"`
		}
		Network []struct {
			Rx limiter `json:"rx_rate_limiter"`
		} `json:"network-interfaces"`
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(g.Dir, "run", "api.sock"))
	}}}
	response, err := client.Get("http://monitor/vm/config")
	must(l.t, err)
	defer response.Body.Close()
	must(l.t, json.NewDecoder(response.Body).Decode(&got))
	var disks []string
	for _, d := range got.Drives {
		disks = append(disks, fmt.Sprintf("%d/%d", d.Limiter.Bandwidth.Size, d.Limiter.Ops.Size))
	}
	if len(got.Network) != 1 {
		l.t.Fatalf("%d network devices", len(got.Network))
	}
	return fmt.Sprintf("%s, %d/%d", strings.Join(disks, " "), got.Network[0].Rx.Bandwidth.Size, got.Network[0].Rx.Ops.Size)
}

// checkLingering saves a guest that still holds a connection which its host has
// ended. In the guest that goes on from there, its end is no other connection's.
func checkLingering(t *testing.T, l *lab, origin microvm.Guest) {
	old := dial(l, origin)
	old.get("/linger")
	must(t, old.Close())
	memory, clone := l.save(origin, false)
	pid := l.restore(l.engine, clone, memory)
	// More than its origin ever had, so that one of them has what the old one was known by.
	var all []*talk
	for range 40 {
		c := dial(l, clone)
		c.get("/hello")
		all = append(all, c)
	}
	l.ask(clone, "POST", "/go")
	// Whatever the guest did when it was told to go is before the answer to this.
	l.ask(clone, "GET", "/hello")
	for _, c := range all {
		c.get("/hello")
		must(t, c.Close())
	}
	end(l, clone, pid)
}

// talk is a connection to a guest that is kept.
type talk struct {
	net.Conn
	l    *lab
	read *bufio.Reader
}

func dial(l *lab, g microvm.Guest) *talk {
	l.t.Helper()
	conn, err := l.engine.Dial(l.ctx(), g)
	must(l.t, err)
	l.t.Cleanup(func() { _ = conn.Close() })
	return &talk{conn, l, bufio.NewReader(conn)}
}

// get asks, and reads the beginning of the answer, or all of one that is not long in coming.
func (c *talk) get(path string) {
	c.l.t.Helper()
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: guest\r\n\r\n", path)
	var response *http.Response
	if err == nil {
		response, err = http.ReadResponse(c.read, nil)
	}
	if err != nil {
		c.l.t.Fatalf("GET %s on a connection that was there: %v", path, err)
	}
	if response.ContentLength > 0 {
		_, err = io.Copy(io.Discard, response.Body)
		must(c.l.t, err)
	}
}

// end ends a guest the hard way.
func end(l *lab, g microvm.Guest, pid int) {
	l.t.Helper()
	must(l.t, unix.Kill(pid, unix.SIGKILL))
	l.gone(pid)
	must(l.t, l.engine.Clean(l.ctx(), g))
}

func checkJail(t *testing.T, g microvm.Guest, pid int) {
	t.Helper()
	st := status(t, pid)
	id := fmt.Sprint(g.UID)
	for key, want := range map[string]string{
		"Uid": strings.Join([]string{id, id, id, id}, " "), "Gid": strings.Join([]string{id, id, id, id}, " "),
		"Seccomp": "2", "CapEff": "0000000000000000", "NoNewPrivs": "1",
	} {
		if st[key] != want {
			t.Errorf("%s is %q, want %q", key, st[key], want)
		}
	}
	if got := groupOf(t, pid); got != g.Cgroup[0] {
		t.Errorf("it is in %s, not in %s", got, g.Cgroup[0])
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	for _, name := range []string{"/etc", "/proc", "/sys", "/usr"} {
		if _, err := os.Stat(root + name); !os.IsNotExist(err) {
			t.Errorf("its root has %s: %v", name, err)
		}
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	must(t, err)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		readOnly := strings.HasPrefix(fields[5], "ro,")
		switch at := fields[4]; at {
		case "/drives/0", "/drives/2", "/kernel", "/initrd", "/snapshot/state", "/snapshot/memory":
			if !readOnly {
				t.Errorf("it can write to %s: %s", at, fields[5])
			}
		case "/", "/run", "/drives/1":
		default:
			t.Errorf("something is mounted at %s", at)
		}
	}
	mine, err := os.Stat("/proc/self/ns/net")
	must(t, err)
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	must(t, err)
	wanted, err := os.Stat(g.NetNS)
	must(t, err)
	if os.SameFile(mine, its) || !os.SameFile(its, wanted) {
		t.Error("it is in another network namespace")
	}
}

func isShared(t *testing.T, m microvm.Memory) bool {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(m.Dir, "meta.json"))
	must(t, err)
	var form struct {
		Shared bool `json:"shared"`
	}
	must(t, json.Unmarshal(raw, &form))
	return form.Shared
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	var n int
	_, err := fmt.Sscan(status(t, pid)["PPid"], &n)
	must(t, err)
	return n
}

// mounts lists the host's mounts below temporary directories, but those of
// namespaces, which are the tests' own.
func mounts(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	var all strings.Builder
	for line := range strings.Lines(string(raw)) {
		if !strings.Contains(line, " nsfs ") {
			all.WriteString(line)
		}
	}
	return all.String()
}
