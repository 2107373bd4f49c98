package qemu_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/process"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"golang.org/x/sys/unix"
)

// victimEnv tells a run of this binary what to do until it is killed.
const victimEnv = "AETHERIUM_QEMU_VICTIM"

// order is what a victim does.
type order struct {
	Guest microvm.Guest
	To    microvm.Memory // where it saves the guest, and stops in the middle; empty: it boots it
	From  microvm.Memory // what it goes on from instead
	Begin bool           // it says so before it boots the guest
	// After is how long it lives from when it says so.
	After time.Duration
}

// victim does as ordered, says so, and waits for its end.
func victim(raw string) int {
	var o order
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		fmt.Println(err)
		return 1
	}
	e, err := qemu.New(qemu.Config{Accelerator: qemu.TCG})
	if err == nil {
		err = o.obey(e)
	}
	fmt.Println(err)
	select {}
}

func (o order) obey(e *qemu.Engine) error {
	ctx := context.Background()
	switch {
	case o.To.Dir != "":
		_, err := e.Save(ctx, o.Guest, o.To, false, func(context.Context) error {
			fmt.Println("there")
			select {}
		})
		return err
	case o.From.Dir != "":
		_, err := e.Restore(ctx, o.Guest, o.From)
		if err == nil {
			fmt.Println("there")
		}
		return err
	}
	if o.Begin {
		if _, err := e.Version(ctx); err != nil {
			return err
		}
		fmt.Println("there")
	}
	_, err := e.Boot(ctx, o.Guest)
	if err == nil && !o.Begin {
		fmt.Println("there")
	}
	return err
}

// killed runs a victim until it is where it should be, and kills it. It gives the
// guest's user's processes of that moment.
func (l *lab) killed(o order) []running {
	l.t.Helper()
	raw, err := json.Marshal(o)
	must(l.t, err)
	cmd := exec.CommandContext(l.ctx(), os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(l.t, err)
	must(l.t, cmd.Start())
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || said != "there\n" {
		l.t.Fatalf("the victim says %q, %v", said, err)
	}
	<-time.After(o.After)
	all := processesOf(l.t, o.Guest.UID)
	must(l.t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	return all
}

// running is a process that was found.
type running struct {
	*process.FD
	pid int
}

// processesOf finds the processes of a user.
func processesOf(t testing.TB, uid uint32) []running {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	var all []running
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || statusOf(pid)["Uid"] != strings.Repeat(fmt.Sprint(uid)+" ", 4) {
			continue
		}
		p, err := process.Identify(pid, "this")
		if err != nil {
			continue // it has ended
		}
		if fd, err := p.Open("this"); err == nil {
			t.Cleanup(fd.Close)
			all = append(all, running{fd, pid})
		}
	}
	return all
}

// statusOf reads a process's status; nothing of one that has ended.
func statusOf(pid int) map[string]string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	all := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		text := ""
		for field := range strings.FieldsSeq(value) {
			text += field + " "
		}
		all[name] = text
	}
	return all
}

// Whatever a process was doing when it was killed, its guest is as it was, the
// next process hears it, and nothing is left of what helped.
func TestKilled(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	if n := len(l.killed(order{Guest: g})); n != 1 {
		t.Fatalf("%d monitors boot one guest", n)
	}
	l.ask(g, "POST", "/fill?bytes=1048576&seed=7")
	want := l.ask(g, "GET", "/sum")
	must(t, l.engine.Close()) // its monitor serves one process

	monitors := l.killed(order{Guest: g, To: l.memory()})
	if len(monitors) != 2 {
		t.Fatalf("%d monitors save one guest", len(monitors))
	}
	l.fresh()
	// The guest's own goes on; the other has ended, or is about to.
	ended := make(chan struct{}, 2)
	for _, m := range monitors {
		go func() {
			if m.Wait() == nil {
				ended <- struct{}{}
			}
		}()
	}
	<-ended
	must(t, l.engine.Clean(l.ctx(), g))
	l.thaw(g)
	if got := l.ask(g, "GET", "/sum"); got != want {
		t.Errorf("the guest's memory is %s, not %s", got, want)
	}
	if n := len(processesOf(t, g.UID)); n != 1 {
		t.Errorf("%d monitors are there for one guest", n)
	}

	saved := l.save(g, false)
	clone := l.guest(&g)
	l.killed(order{Guest: clone, From: saved})
	l.thaw(clone)
	if got := l.ask(clone, "GET", "/sum"); got != want {
		t.Errorf("the clone's memory is %s, not %s", got, want)
	}
}

// Wherever a process is killed while it starts a monitor, there is none in the
// end, or one in its guest's control group, where it is found.
func TestKilledStarting(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	for after := time.Duration(0); after < 60*time.Millisecond; after += 4 * time.Millisecond {
		l.killed(order{Guest: g, Begin: true, After: after})
		for _, m := range processesOf(t, g.UID) {
			pid := strconv.Itoa(m.pid)
			if !strings.Contains(members(t, g), pid+"\n") {
				must(t, m.Wait()) // it ends by itself
			}
			must(t, m.Signal(unix.SIGKILL))
			must(t, m.Wait())
		}
	}
}

// members lists the processes of a guest's control group.
func members(t testing.TB, g microvm.Guest) string {
	t.Helper()
	all := ""
	for _, dir := range g.Cgroup {
		raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		must(t, err)
		all += string(raw)
	}
	return all
}
