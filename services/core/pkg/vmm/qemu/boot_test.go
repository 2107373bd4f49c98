package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/executable"
	"github.com/aetherium/aetherium/services/core/internal/starting"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"golang.org/x/sys/unix"
)

// A guest boots from its disks, is heard, and sees them in order; when it has
// ended that is told at once.
func TestBoot(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.boot(g)
	want := "root root ro=1 <nil>\ndisk disk ro=0 <nil>\nmount:/extra extra ro=1 <nil>\n"
	if got := l.ask(g, "GET", "/drives"); got != want {
		t.Errorf("the guest sees %q, not %q", got, want)
	}
	if mtu := l.ask(g, "GET", "/file?path=/sys/class/net/eth0/mtu"); strings.TrimSpace(mtu) != "1420" {
		t.Errorf("mtu %q", mtu)
	}
	if mac := l.ask(g, "GET", "/file?path=/sys/class/net/eth0/address"); strings.TrimSpace(mac) != g.Link.MAC.String() {
		t.Errorf("address %q", mac)
	}

	if _, err := l.engine.Dial(l.ctx(), g); err != nil {
		t.Error(err)
	}
	_, _ = askOnce(l.ctx(), l.engine, g, "POST", "/off") // it gives no answer
	for _, f := range processesOf(t, g.UID) {
		must(t, f.Wait())
	}
	if _, err := l.engine.Dial(l.ctx(), g); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a guest that has ended is dialed: %v", err)
	}
	if err := l.engine.Freeze(l.ctx(), g); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a guest that has ended is frozen: %v", err)
	}
	if _, err := l.engine.Save(l.ctx(), g, l.memory(), false, nil); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a guest that has ended is saved: %v", err)
	}
	must(t, l.engine.Clean(l.ctx(), g))

	// It can be booted again, with a bigger machine and without a network.
	g.CPUs, g.Memory, g.Link = 2, 192*mib, nil
	l.boot(g)
	if got := l.ask(g, "GET", "/file?path=/sys/devices/system/cpu/online"); strings.TrimSpace(got) != "0-1" {
		t.Errorf("processors %q", got)
	}
}

// A monitor has nothing that its guest does not need.
func TestJail(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	pid := l.boot(g)
	l.ask(g, "GET", "/hello")
	saved := l.save(g, false)
	clone := l.guest(&g)
	clonePID, err := l.engine.Restore(l.ctx(), clone, saved)
	must(t, err)
	for p, of := range map[int]microvm.Guest{pid: g, clonePID: clone} {
		status := statusOf(p)
		id := strings.Repeat(fmt.Sprint(of.UID)+" ", 4)
		for name, want := range map[string]string{
			"Uid": id, "Gid": id, "Groups": "", "NoNewPrivs": "1 ", "Seccomp": "2 ",
			"CapEff": "0000000000000000 ", "CapPrm": "0000000000000000 ", "CapInh": "0000000000000000 ", "CapAmb": "0000000000000000 ",
		} {
			if status[name] != want {
				t.Errorf("%s is %q, not %q", name, status[name], want)
			}
		}
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p)); err != nil || string(raw) != "PATH=/usr/bin\x00" {
			t.Errorf("its environment is %q, %v", raw, err)
		}
		var own, want unix.Stat_t
		must(t, unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p), &own))
		must(t, unix.Stat(of.NetNS, &want))
		if own.Ino != want.Ino {
			t.Error("it is in another network namespace")
		}
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", p))
		must(t, err)
		for _, e := range entries {
			if !slices.Contains([]string{"bin", "dev", "etc", "lib", "lib32", "lib64", "usr", "drive0", "drive1", "drive2", "initrd", "kernel", "memory"}, e.Name()) {
				t.Errorf("it sees /%s", e.Name())
			}
		}
		for _, dir := range of.Cgroup {
			raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			must(t, err)
			if strings.TrimSpace(string(raw)) != fmt.Sprint(p) {
				t.Errorf("in %s are %q", dir, raw)
			}
		}
	}
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/ld.so.cache", clonePID)); err != nil || len(raw) == 0 {
		t.Errorf("libraries: %v", err)
	}
	writable(t, clonePID, saved)
}

// writable finds ways to a saved memory's file that lead to writing it.
func writable(t testing.TB, pid int, saved microvm.Memory) {
	t.Helper()
	var file unix.Stat_t
	must(t, unix.Stat(filepath.Join(saved.Dir, "ram"), &file))
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	for _, fd := range fds {
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()), &st) != nil || st.Ino != file.Ino || st.Dev != file.Dev {
			continue
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		must(t, err)
		var pos, flags int
		if _, err := fmt.Sscanf(string(raw), "pos:\t%d\nflags:\t%o", &pos, &flags); err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
			t.Errorf("the saved memory is open: %q, %v", raw, err)
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	found := false
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] == fmt.Sprint(file.Ino) {
			found = true
			if !strings.HasSuffix(fields[1], "p") {
				t.Errorf("the saved memory is mapped: %q", line)
			}
		}
	}
	if !found {
		t.Error("the saved memory is not mapped")
	}
}

func TestRefused(t *testing.T) {
	l := newLab(t)
	good := l.guest(nil)
	for name, change := range map[string]func(*microvm.Guest){
		"root":      func(g *microvm.Guest) { g.UID = 0 },
		"no memory": func(g *microvm.Guest) { g.Memory = 1 },
		"no cpu":    func(g *microvm.Guest) { g.CPUs = 0 },
		"no net":    func(g *microvm.Guest) { g.NetNS = "" },
		"no group":  func(g *microvm.Guest) { g.Cgroup = nil },
	} {
		g := good
		change(&g)
		if _, err := l.engine.Boot(l.ctx(), g); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := qemu.New(qemu.Config{Accelerator: "hax"}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("an accelerator: %v", err)
	}
	none, err := qemu.New(qemu.Config{Binary: "qemu-system-none"})
	must(t, err)
	if _, err := none.Version(l.ctx()); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("no QEMU: %v", err)
	}
	// A monitor that cannot start says why, and nothing is left of it.
	must(t, os.Chmod(good.Drives[1].Path, 0))
	_, err = l.engine.Boot(l.ctx(), good)
	if !errors.HasCode(err, errors.Internal) || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("a disk that it may not open: %v", err)
	}
	if n := len(processesOf(t, good.UID)); n != 0 {
		t.Errorf("%d monitors are there for no guest", n)
	}
	if most, err := l.engine.Overhead(l.ctx()); err != nil || most < 64*mib {
		t.Errorf("overhead %d, %v", most, err)
	}
	version, err := l.engine.Version(l.ctx())
	if err != nil || !strings.Contains(version, " tcg max") {
		t.Errorf("version %q, %v", version, err)
	}
}

// A monitor is started whatever else this process starts meanwhile.
func TestStartingBesideOthers(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	g.Link = nil // a tap is had by one at a time, and the others have it as well for that moment
	// It says so and ends: only its beginning matters.
	const started = "QEMU emulator version 9.0.0"
	binary := filepath.Join(l.dir, "monitor", "bin", "qemu")
	must(t, os.MkdirAll(filepath.Dir(binary), 0o755)) // the monitor's user passes
	must(t, executable.Install(strings.NewReader("#!/bin/sh\necho "+started+"\n"), binary, time.Time{}))
	e, err := qemu.New(qemu.Config{Binary: binary, Accelerator: qemu.TCG})
	must(t, err)
	defer e.Close()

	starting.Others(t, 1000)
	for range 200 {
		if _, err := e.Boot(l.ctx(), g); err == nil || !strings.Contains(err.Error(), started) {
			t.Fatalf("a monitor: %v", err)
		}
	}
}
