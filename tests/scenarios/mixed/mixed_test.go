// Package mixed runs gateways and workers of two versions of the product beside
// each other, as while a fleet is updated: what is asked of them works, or is
// refused with a reason, and VMs live through the replacement of either. It needs
// root, and loopback only.
package mixed

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// oldEnv names the directory of the older programs, and rootfsEnv a root filesystem.
const (
	oldEnv    = "AETHERIUM_MIXED_OLD"
	rootfsEnv = "AETHERIUM_MIXED_ROOTFS"
)

// field is a fleet of one gateway and one worker, both of the older version at first.
type field struct {
	t               *testing.T
	ctx             context.Context
	bin             map[string]string // by version
	settings        []string          // of the database
	gateway, worker *server.Server
	kept            kept
}

// kept is what was begun before anything was replaced.
type kept struct {
	vm, epoch string
	execution string // waits in the VM for a file
}

const (
	older = "old"
	newer = "new"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newField(t *testing.T) *field {
	t.Helper()
	old, rootfs := os.Getenv(oldEnv), os.Getenv(rootfsEnv)
	if old == "" || rootfs == "" || os.Geteuid() != 0 {
		t.Skipf("it needs root, %s and %s: tests/scenarios/mixed/run.sh", oldEnv, rootfsEnv)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	pg, err := pgtest.Start(ctx)
	must(t, err)
	t.Cleanup(func() { must(t, pg.Stop()) })
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	dir, err := os.MkdirTemp("", "aetherium-mixed-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o711)) //nolint:gosec // the mapped roots of VMs walk through it
	database := "AETHERIUM_DATABASE=" + pg.URL("postgres")
	fleet := server.NewFleet(dir, database, "AETHERIUM_QUEUE="+r.Address().Reveal())
	f := &field{t: t, ctx: ctx, settings: append(os.Environ(), database), bin: map[string]string{older: old}}
	f.gateway, err = fleet.Gateway("gateway")
	must(t, err)
	f.bin[newer] = f.gateway.Bin
	f.gateway.Bin = old
	must(t, f.gateway.Run(ctx))
	t.Cleanup(func() {
		must(t, f.gateway.End(context.WithoutCancel(ctx)))
		f.explain("gateway", f.gateway)
	})
	// It keeps its address, as a worker does.
	f.worker, err = fleet.Worker(ctx, "worker", f.gateway, "AETHERIUM_DRIVERS=oci", "AETHERIUM_WORKER_ADDRESS="+freeAddress(t))
	must(t, err)
	f.worker.Bin = old
	must(t, f.worker.Run(ctx))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		must(t, f.worker.End(ctx))
		must(t, f.worker.Remove(ctx))
		if left := f.worker.Footprint(ctx); len(left) > 0 {
			t.Errorf("the worker left something behind: %v", left)
		}
		f.explain("worker", f.worker)
	})
	f.ask("template", "build", "base", "--dir", rootfs)
	f.keep()
	return f
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

// explain shows the end of a process's log if the test has failed.
func (f *field) explain(name string, s *server.Server) {
	if f.t.Failed() {
		lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
		f.t.Logf("the log of the %s ends with\n%s", name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// ask runs the gateway's own command line, which must succeed.
func (f *field) ask(args ...string) string {
	f.t.Helper()
	out, err := f.gateway.CLI(f.ctx, args...)
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// keep makes what is to live through everything.
func (f *field) keep() {
	f.t.Helper()
	f.kept.vm = f.ask("vm", "create", "--name", "kept", "--network", "none", "--quiet")
	f.ask("exec", "kept", "--", "sh", "-c", "echo disk >/tmp/disk; echo memory >/dev/shm/memory")
	f.kept.execution = f.ask("exec", "--detach", "--quiet", "kept", "--", "sh", "-c", "seq 1000; until test -e /tmp/go; do sleep 0.1; done; echo end")
	f.kept.epoch = f.epoch()
}

func (f *field) epoch() string {
	f.t.Helper()
	var vm struct {
		Epoch int    `json:"epoch"`
		State string `json:"state"`
	}
	must(f.t, f.gateway.JSON(f.ctx, &vm, "vm", "get", "kept"))
	return fmt.Sprint(vm.Epoch, " ", vm.State)
}

// holds checks that what was made before is what it was.
func (f *field) holds(when string) {
	f.t.Helper()
	if got := f.epoch(); got != f.kept.epoch {
		f.t.Errorf("%s: the VM is %s, was %s", when, got, f.kept.epoch)
	}
	if got := f.ask("exec", "kept", "--", "cat", "/tmp/disk", "/dev/shm/memory"); got != "disk\nmemory" {
		f.t.Errorf("%s: it has %q", when, got)
	}
}

// replace ends a process in good order and runs the other version of it.
func (f *field) replace(s *server.Server, version string) {
	f.t.Helper()
	must(f.t, s.End(f.ctx))
	s.Bin = f.bin[version]
	must(f.t, s.Run(f.ctx))
}

// precise are what a refusal says that tells what to do about it.
var precise = []string{"update the worker", "its version is too old", "(unsupported)"}

// does has something done that works, or is refused precisely. It gives what was
// printed; ok: it was done.
func (f *field) does(when, what string, args ...string) (out string, ok bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	out, err := f.gateway.CLI(ctx, args...)
	if err == nil {
		return strings.TrimSpace(out), true
	}
	for _, p := range precise {
		if strings.Contains(err.Error(), p) {
			f.t.Logf("%s: %s is refused: %v", when, what, err)
			return "", false
		}
	}
	f.t.Errorf("%s: %s: %v", when, what, err)
	return "", false
}

// works goes through what users do with VMs.
func (f *field) works(when string) {
	f.t.Helper()
	f.holds(when)
	begun := time.Now()
	vm, ok := f.does(when, "create", "vm", "create", "--network", "none", "--quiet")
	if !ok {
		return
	}
	says := func(what, vm, want, script string) {
		f.t.Helper()
		if out, ok := f.does(when, what, "exec", vm, "--", "sh", "-c", script); ok && out != want {
			f.t.Errorf("%s: %s prints %d bytes, ending in %q", when, what, len(out), out[max(0, len(out)-50):])
		}
	}
	var lines strings.Builder
	for i := range 5000 {
		fmt.Fprintln(&lines, i+1)
	}
	says("exec", vm, strings.TrimSpace(lines.String()), "seq 5000; echo x >/tmp/x")
	if id, ok := f.does(when, "exec --detach", "exec", "--detach", "--quiet", vm, "--", "echo", "later"); ok {
		if out, ok := f.does(when, "logs", "logs", "--follow", id); ok && out != "later" {
			f.t.Errorf("%s: logs are %q", when, out)
		}
	}
	if _, ok := f.does(when, "pause", "vm", "pause", vm); ok {
		if _, ok := f.does(when, "resume", "vm", "resume", vm); ok {
			says("exec after a pause", vm, "x", "cat /tmp/x")
		}
	}
	if id, ok := f.does(when, "snapshot", "vm", "snapshot", vm, "--quiet"); ok {
		if copied, ok := f.does(when, "create from a snapshot", "vm", "create", "--from", id, "--network", "none", "--quiet"); ok {
			says("exec in a copy", copied, "x", "cat /tmp/x")
			f.does(when, "removal of a copy", "vm", "rm", copied)
		}
		f.does(when, "removal of a snapshot", "snapshot", "rm", id)
	}
	if fork, ok := f.does(when, "fork", "vm", "fork", vm, "--quiet"); ok {
		says("exec in a fork", fork, "x", "cat /tmp/x")
		f.does(when, "removal of a fork", "vm", "rm", fork)
	}
	if _, ok := f.does(when, "stop", "vm", "stop", vm); ok {
		if _, ok := f.does(when, "start", "vm", "start", vm); ok {
			says("exec after a start", vm, "x", "cat /tmp/x")
		}
	}
	f.does(when, "removal", "vm", "rm", vm)
	f.t.Logf("%s: %s", when, time.Since(begun).Round(time.Second))
}

// ends has what waits since the beginning come to its end, whole.
func (f *field) ends() {
	f.t.Helper()
	f.ask("exec", "kept", "--", "touch", "/tmp/go")
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintln(&want, i+1)
	}
	want.WriteString("end")
	if got := f.ask("logs", "--follow", f.kept.execution); got != want.String() {
		f.t.Errorf("it printed %d bytes, ending in %q", len(got), got[max(0, len(got)-50):])
	}
	f.ask("vm", "rm", "kept")
}

// stays checks that what is too old for the schema says so, and does not run.
func (f *field) stays(s *server.Server) {
	f.t.Helper()
	bin := s.Bin
	must(f.t, s.End(f.ctx))
	s.Bin = f.bin[older]
	if err := s.Run(f.ctx); err == nil || !strings.Contains(err.Error()+s.Log(), "newer program") {
		f.t.Errorf("an older program by a newer schema: %v", err)
	}
	s.Bin = bin
	must(f.t, s.Run(f.ctx))
}

// schema runs aetherium-migrate of a version.
func (f *field) schema(version string, args ...string) string {
	f.t.Helper()
	cmd := exec.CommandContext(f.ctx, filepath.Join(f.bin[version], "aetherium-migrate"), args...)
	cmd.Env = f.settings
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// The gateway is updated first, and the worker later.
func TestGatewayFirst(t *testing.T) {
	f := newField(t)
	f.works("both old")
	f.replace(f.gateway, newer)
	f.works("new gateway, old worker")
	f.replace(f.worker, newer)
	f.works("both new")
	f.stays(f.gateway)
	f.stays(f.worker)
	f.ends()
}

// The worker is updated first.
func TestWorkerFirst(t *testing.T) {
	f := newField(t)
	f.replace(f.worker, newer)
	f.works("old gateway, new worker")
	f.replace(f.gateway, newer)
	f.works("both new")
	f.ends()
}

// An update is taken back: the newer program brings the schema to what the older
// one knows.
func TestBack(t *testing.T) {
	f := newField(t)
	found := regexp.MustCompile(`at version (\d+) of`).FindStringSubmatch(f.schema(older, "status"))
	if found == nil {
		t.Fatal("the older program does not tell its schema's version")
	}
	f.replace(f.gateway, newer)
	f.replace(f.worker, newer)
	f.holds("both new")
	must(t, f.gateway.End(f.ctx))
	must(t, f.worker.End(f.ctx))
	f.schema(newer, "to", found[1])
	f.gateway.Bin, f.worker.Bin = f.bin[older], f.bin[older]
	must(t, f.gateway.Run(f.ctx))
	must(t, f.worker.Run(f.ctx))
	f.works("both old again")
	f.ends()
}
