package microvm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

// onQEMUEnv names the kernel, as JSON, that a victim's machines boot in QEMU.
const onQEMUEnv = "AETHERIUM_TEST_ON_QEMU"

// onQEMU has a driver use QEMU.
func onQEMU(k microvm.Kernel) func(*microvm.Config) {
	return func(c *microvm.Config) {
		e, err := qemu.New(qemu.Config{Accelerator: qemu.TCG})
		if err != nil {
			panic(err) // it is a constant
		}
		c.Engine, c.Kernel = e, func(context.Context) (microvm.Kernel, error) { return k, nil }
	}
}

// savingEngine has a bomb only where a memory is saved and gone on from.
type savingEngine struct {
	microvm.Engine
	bombed bombedEngine
}

func (e savingEngine) Restore(ctx context.Context, g microvm.Guest, from microvm.Memory) (int, error) {
	return e.bombed.Restore(ctx, g, from)
}

func (e savingEngine) Save(ctx context.Context, g microvm.Guest, to microvm.Memory, last bool, disk func(context.Context) error) (time.Duration, error) {
	return e.bombed.Save(ctx, g, to, last, disk)
}

func (e savingEngine) Thaw(ctx context.Context, g microvm.Guest) error { return e.bombed.Thaw(ctx, g) }

// buildKernel makes what guests boot, of a kernel's package and an agent.
func buildKernel(t *testing.T, packaged, agent string) microvm.Kernel {
	t.Helper()
	source, err := kernel.Find(packaged)
	must(t, err)
	dir, err := os.MkdirTemp("/tmp", "mvk-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o711))
	k, err := kernel.Build(t.Context(), source, agent, dir)
	must(t, err)
	return k
}

// qemuKernel builds what QEMU boots with the ordinary agent, and skips the test
// where there is not all that this takes.
func qemuKernel(t *testing.T) microvm.Kernel {
	t.Helper()
	packaged := os.Getenv("AETHERIUM_TEST_KERNEL")
	if packaged == "" {
		t.Skip("no kernel is given in AETHERIUM_TEST_KERNEL")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is not installed")
	}
	return buildKernel(t, packaged, vmmtest.Agent(t))
}

// A real monitor that was killed in the middle of saving a machine lets it go
// on; one that was restored is not restored again once it went on.
func TestKilledWithQEMU(t *testing.T) {
	t.Parallel()
	k := qemuKernel(t)
	raw, err := json.Marshal(k)
	must(t, err)
	l := newLab(t, onQEMU(k))
	for point, want := range map[int]vmm.Status{
		2: vmm.StatusRunning, // its memory was written, but nobody knows of it
		6: vmm.StatusPaused,  // restored, and not yet gone on
		8: vmm.StatusRunning, // gone on, and not yet told anything
	} {
		when := fmt.Sprintf("killed at call %d", point)
		l.close()
		if _, killed := l.dieAt(point, onQEMUEnv+"="+string(raw)); !killed {
			t.Fatalf("%s: the victim lived", when)
		}
		l.open()
		if got := l.status("one"); got != want {
			t.Errorf("%s: it is %s", when, got)
		}
		must(t, l.Resume(t.Context(), "one"))
		if life := l.lines("life"); l.bootID("one") != life[len(life)-1] {
			t.Errorf("%s: it lives another life", when)
		}
		must(t, l.Delete(t.Context(), "one"))
	}
}

// bootID names the life of a machine with a real agent.
func (l *lab) bootID(id string) string {
	l.t.Helper()
	boot, err := bootID(l.t.Context(), l.Driver, id)
	must(l.t, err)
	return boot
}

func bootID(ctx context.Context, d *microvm.Driver, id string) (string, error) {
	c := guest.New(func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, id, vmm.AgentPort) }, guest.Options{})
	defer c.Close()
	a, err := c.Handshake(ctx)
	return a.BootID, err
}

// sleeps are the steps of a machine that is paused and resumed.
func sleeps(ctx context.Context, d *microvm.Driver, dir string) []step {
	one := spec("one")
	one.RootFS = dir + "/rootfs"
	return []step{
		{"create", func() error { _, err := d.Create(ctx, one); return err }},
		{"start", func() error { return d.Start(ctx, "one") }},
		{"note", func() error {
			life, err := bootID(ctx, d, "one")
			if err == nil {
				err = note(dir+"/life", life)
			}
			return err
		}},
		{"pause", func() error { return d.Pause(ctx, "one", domain.PauseMemory) }},
		{"resume", func() error { return d.Resume(ctx, "one") }},
	}
}

// victimOnQEMU is a victim whose machines are real.
func victimOnQEMU(b *bomb, kernel string) (func(*microvm.Config), error) {
	var k microvm.Kernel
	err := json.Unmarshal([]byte(kernel), &k)
	return func(c *microvm.Config) {
		onQEMU(k)(c)
		c.Engine = savingEngine{c.Engine, bombedEngine{c.Engine, b}}
	}, err
}

// Two real machines that go on from one kept memory are told apart by all that
// must not be shared.
func TestKeptWithQEMU(t *testing.T) {
	t.Parallel()
	l, await := keepingLab(t, 1, onQEMU(qemuKernel(t)))
	for path, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/machine-id": "",
		"etc/ssh/ssh_host_ed25519_key": "old", "etc/ssh/ssh_host_ed25519_key.pub": "old",
	} {
		path = l.dir + "/rootfs/" + path
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o600))
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "root"} {
		must(t, os.MkdirAll(l.dir+"/rootfs/"+dir, 0o755))
	}
	s := spec("x")
	s.Network = domain.NetworkNAT
	l.twice(s)
	await("kept")
	seen := map[string]string{}
	for _, id := range []string{"one", "two"} {
		s := spec(id)
		s.Network = domain.NetworkNAT
		l.boot(s)
		if !l.restored(id) {
			t.Errorf("%s was booted", id)
		}
		c := guest.New(func(ctx context.Context) (net.Conn, error) { return l.Dial(ctx, id, vmm.AgentPort) }, guest.Options{})
		t.Cleanup(c.Close)
		for _, path := range []string{
			"/proc/sys/kernel/hostname", "/proc/sys/kernel/random/uuid", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub",
			"/proc/net/fib_trie", // its address
		} {
			_, content, err := c.Read(t.Context(), path, vmm.FileOptions{User: "root"})
			must(t, err)
			raw, err := io.ReadAll(content)
			if err := errors.Join(err, content.Close()); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if text := strings.TrimSpace(string(raw)); text == "" || text == "old" || text == seen[path] {
				t.Errorf("%s: %s is %q, which is not its own", id, path, text)
			} else {
				seen[path] = text
			}
		}
	}
	if c := l.counts(); c.Used != 2 || c.Made != 1 {
		t.Errorf("%+v", c)
	}
}
