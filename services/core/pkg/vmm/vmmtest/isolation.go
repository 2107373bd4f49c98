package vmmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var isolationTests = []behaviour{
	{"files", isolated, testFilesApart},
	{"processes", isolated, testProcessesApart},
	{"network", isolated, testNetworksApart},
	{"hostname", isolated, testHostname},
	{"root inside is not root outside", isolated, testRootInside},
	{"its death is told", isolated, testKilledFromOutside},
}

func testFilesApart(t *testing.T, b *bed) {
	one, two := b.machine(t), b.machine(t)
	one.sh(t, "echo secret > /tmp/apart; echo secret > apart")
	if got := two.run(t, shell("cat /tmp/apart apart")); got.end.ExitCode == 0 || got.stdout != "" {
		t.Errorf("the other machine sees %q", got.stdout)
	}
	marker := filepath.Join(t.TempDir(), "marker")
	if err := os.WriteFile(marker, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := one.run(t, asRoot(shell("cat "+marker))); got.stdout != "" {
		t.Errorf("the machine sees the host's %q", got.stdout)
	}
	// The template stays as it is.
	one.run(t, asRoot(shell("echo changed > /etc/changed-by-a-machine")))
	if _, err := os.Lstat(filepath.Join(b.Spec.RootFS, "etc/changed-by-a-machine")); err == nil {
		t.Error("the machine wrote to its template")
	}
}

func testProcessesApart(t *testing.T, b *bed) {
	one, two := b.machine(t), b.machine(t)
	id := one.start(t, shell("echo up; sleep 98765; :")) // without exec, during which a process has no command line
	one.follow(t, id).until("up")
	const look = `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' < $f 2>/dev/null; echo; done`
	if got := two.sh(t, look); strings.Contains(got, "98765") {
		t.Errorf("the other machine sees %q", got)
	}
	got := one.run(t, asRoot(shell(look))).stdout
	if !strings.Contains(got, "98765") || strings.Contains(got, filepath.Base(os.Args[0])) {
		t.Errorf("the machine sees %q", got)
	}
	// Root in one machine cannot end the other.
	two.run(t, asRoot(shell("kill -9 -1")))
	if got := one.sh(t, "echo alive"); got != "alive" {
		t.Errorf("%q", got)
	}
}

func testNetworksApart(t *testing.T, b *bed) {
	one, two := b.machine(t), b.machine(t)
	port := one.serve(t)
	connect := fmt.Sprintf("import socket; socket.create_connection(('127.0.0.1', %d), 5)", port)
	if got := one.run(t, python(connect)); got.end.ExitCode != 0 {
		t.Errorf("its own server: %+v", got)
	}
	if got := two.run(t, python(connect)); got.end.ExitCode == 0 {
		t.Error("the other machine reaches it")
	}
	// Both can have the same port, each its own.
	if got := one.sh(t, "readlink /proc/self/ns/net"); b.info.Isolation == domain.IsolationContainer && got == two.sh(t, "readlink /proc/self/ns/net") {
		t.Error("the machines share a network namespace")
	}
}

func testHostname(t *testing.T, b *bed) {
	s := b.spec()
	s.Hostname = "my-own-name"
	b.create(t, s)
	b.start(t, s.MachineID)
	x := b.attach(t, s.MachineID, t.TempDir())
	if got := x.sh(t, "cat /proc/sys/kernel/hostname"); got != "my-own-name" {
		t.Errorf("%q", got)
	}
	r, ok := b.Driver.(vmm.Renamer)
	if !ok {
		return
	}
	if err := r.SetHostname(timeout(t), x.id, "another-name"); err != nil {
		t.Fatal(err)
	}
	if got := x.sh(t, "cat /proc/sys/kernel/hostname"); got != "another-name" {
		t.Errorf("renamed: %q", got)
	}
	// The same name again leaves the guest what it has made of it.
	if code := x.run(t, asRoot(shell("echo 127.0.0.2 mine >> /etc/hosts"))).end.ExitCode; code != 0 {
		return // it cannot make anything of it
	}
	if err := r.SetHostname(timeout(t), x.id, "another-name"); err != nil {
		t.Fatal(err)
	}
	if got := x.sh(t, "grep another-name /etc/hosts >/dev/null && tail -n 1 /etc/hosts"); got != "127.0.0.2 mine" {
		t.Errorf("named as before: %q", got)
	}
}

func (b *bed) pid(t *testing.T, id string) int {
	t.Helper()
	states, err := b.Driver.List(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.MachineID == id && s.PID > 0 {
			return s.PID
		}
	}
	t.Fatal("the machine has no process on the host")
	return 0
}

func testRootInside(t *testing.T, b *bed) {
	x := b.machine(t)
	if got := x.run(t, asRoot(shell("id -u"))).stdout; got != "0\n" {
		t.Errorf("root inside has the ID %q", got)
	}
	if b.info.Isolation == domain.IsolationContainer {
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d", b.pid(t, x.id)), &st); err != nil || st.Uid == 0 {
			t.Errorf("its first process belongs to %d on the host, %v", st.Uid, err)
		}
	}
	for name, script := range map[string]string{
		"mount a device":         "mknod /tmp/disk b 8 0 && mount /tmp/disk /mnt",
		"set the host's clock":   "date -s 2001-01-01",
		"change a kernel knob":   "echo 1 > /proc/sys/kernel/panic",
		"trigger a kernel crash": "echo c > /proc/sysrq-trigger",
		"see kernel memory":      `head -c 1 /dev/mem || [ -n "$(head -c 1 /proc/kcore)" ]`, // it may be there and empty
	} {
		if b.info.Isolation == domain.IsolationMicroVM {
			continue // it has a kernel of its own to do that to
		}
		if got := x.run(t, asRoot(shell(script))); got.end.ExitCode == 0 {
			t.Errorf("root inside can %s: %q", name, got.stdout)
		}
	}
}

func testKilledFromOutside(t *testing.T, b *bed) {
	x := b.machine(t)
	id := x.start(t, shell("echo up; exec sleep 1000"))
	x.follow(t, id).until("up")
	ended := make(chan vmm.Exit, 1)
	go func() {
		exit, err := b.Driver.Wait(timeout(t), x.id)
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		ended <- exit
	}()
	if err := syscall.Kill(b.pid(t, x.id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := <-ended; exit.At.IsZero() {
		t.Errorf("%+v", exit)
	}
	x.session.Gone(timeout(t), "the machine was killed")
	if end, err := x.session.Wait(timeout(t), id); err != nil || end.LostReason != "the machine was killed" {
		t.Errorf("its execution: %+v, %v", end, err)
	}
	if _, err := b.Driver.Dial(timeout(t), x.id, vmm.AgentPort); !errors.HasCode(err, errors.Conflict) && !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("dial: %v", err)
	}
	// It can be started again.
	b.start(t, x.id)
	b.attach(t, x.id, t.TempDir()).sh(t, "true")
}
