// Package chaos has users work with a fleet of real processes on this host,
// PostgreSQL and Redis among them, while these are killed, stopped, and cut off
// from one another, and checks what the users saw. It needs root, and speaks to
// loopback only.
package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
	"github.com/aetherium/aetherium/tests/internal/server"
	"github.com/aetherium/aetherium/tests/internal/wallclock"
)

const (
	gateways = 2
	workers  = 3
	// awayAfter is the shortest that a gateway can be told to wait for a sign of life.
	awayAfter = 10 * time.Second
)

// field is the fleet. Each of its processes reaches the database and the queue
// through connections of its own, and gateways a worker through others, all of
// which can be cut.
type field struct {
	t     *testing.T
	ctx   context.Context
	fleet *server.Fleet
	// apart is the part of it whose data is on a disk of its own, small.
	apart *server.Fleet
	small *disk
	// storage is the directory that workers share.
	storage string

	backing   *server.Backing
	gateways  []*server.Server
	workers   []*server.Server
	wires     []*wire
	clocks    []*clock
	proxies   *toxiproxy.ApiServer
	templates []string

	pairs pairs
	made  map[string]int // faults, by their names
}

// wire is what connections between two processes go through.
type wire struct {
	*toxiproxy.Proxy
	name string
}

// clock is a process's own time of day.
type clock struct {
	*wallclock.Clock
	name string
}

func newField(t *testing.T, ctx context.Context) *field { //nolint:revive // the test is what it belongs to
	t.Helper()
	backing, err := server.StartBacking(ctx, "--appendfsync", "always")
	must(t, err)
	t.Cleanup(func() { must(t, backing.Stop()) })
	f := &field{t: t, ctx: ctx, backing: backing, made: map[string]int{}, proxies: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
	dir, err := os.MkdirTemp("", "aetherium-chaos-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			f.keepLogs()
		}
		_ = os.RemoveAll(dir)
	})
	must(t, os.Chmod(dir, 0o711)) //nolint:gosec // the mapped roots of VMs walk through it
	f.storage = filepath.Join(dir, "storage")
	must(t, os.Mkdir(f.storage, 0o700))
	f.fleet = server.NewFleet(dir)
	f.small = f.newDisk(dir, fmt.Sprintf("worker-%d", workers))
	f.apart = f.fleet.Below(f.small.dir)
	return f
}

// wire makes connections to a server of the field's go through an address of
// their own, which it returns.
func (f *field) wire(name, server string, at int) string {
	f.t.Helper()
	_, port, _ := strings.Cut(server, ":")
	w := &wire{name: name}
	w.Proxy = toxiproxy.NewProxy(f.proxies, name, f.backing.Net+strconv.Itoa(at)+":"+port, server)
	must(f.t, w.Start())
	f.t.Cleanup(w.Stop)
	f.wires = append(f.wires, w)
	return w.Listen
}

// summed checks that what the database has summed is what there is.
func (f *field) summed() {
	f.t.Helper()
	store, err := postgres.Open(f.ctx, f.backing.Database.URL("postgres"), postgres.Options{Among: true})
	must(f.t, err)
	wrong, err := storetest.Sums(f.ctx, store)
	must(f.t, errors.Join(err, store.Close()))
	for _, w := range wrong {
		f.t.Error(w)
	}
}

// shared are the settings by which a process reaches the database and the queue.
func (f *field) shared(name string, at int) []string {
	return f.backing.Settings(
		f.wire(name+" to the database", f.backing.DatabaseAddress(), at), f.wire(name+" to the queue", f.backing.QueueAddress(), at+1))
}

// run starts a process, with a clock of its own where one can be made.
func (f *field) run(s *server.Server) {
	f.t.Helper()
	if wallclock.Supported {
		own, err := wallclock.New(f.t.TempDir())
		must(f.t, err)
		s.Through, err = own.Through()
		must(f.t, err)
		f.clocks = append(f.clocks, &clock{own, nameOf(s)})
	}
	must(f.t, s.Run(f.ctx))
	f.t.Cleanup(func() { f.end(s) })
}

// start runs everything. Each worker has built a template, which others fetch.
func (f *field) start(rootfs string) {
	f.t.Helper()
	for i := range gateways {
		name := fmt.Sprintf("gateway-%d", i+1)
		s, err := f.fleet.Gateway(name, append(f.shared(name, 10+10*i), "AETHERIUM_WORKERS_AWAY_AFTER="+awayAfter.String())...)
		must(f.t, err)
		f.run(s)
		f.gateways = append(f.gateways, s)
	}
	for i := range workers {
		name := fmt.Sprintf("worker-%d", i+1)
		by := f.gateways[i%gateways]
		at := 100 + 10*i
		address := f.backing.Net + strconv.Itoa(at+5) + ":7310"
		of := f.fleet
		if name == f.small.name {
			of = f.apart
		}
		s, err := of.Worker(f.ctx, name, by, append(f.shared(name, at), "AETHERIUM_DRIVERS=oci",
			"AETHERIUM_STORAGE_URL=file://"+f.storage, "AETHERIUM_STORAGE_OUTPUT_EVERY=1s",
			"AETHERIUM_WORKER_ADDRESS="+address, "AETHERIUM_WORKER_ADVERTISE="+f.wire("gateways to "+name, address, at+2))...)
		must(f.t, err)
		f.run(s)
		for _, other := range f.workers {
			f.cli("worker", "cordon", nameOf(other))
		}
		f.workers = append(f.workers, s)
		template := fmt.Sprintf("from-%d", i+1)
		f.cli("template", "build", template, "--dir", rootfs)
		f.templates = append(f.templates, template)
	}
	for _, w := range f.workers[:workers-1] {
		f.cli("worker", "uncordon", nameOf(w))
	}
}

func (f *field) cli(args ...string) {
	f.t.Helper()
	must(f.t, f.ask(args...))
}

// ask has a command of the command line asked of a gateway.
func (f *field) ask(args ...string) error {
	out, err := f.gateways[0].CLI(f.ctx, args...)
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", args, err, out)
	}
	return nil
}

// end ends a process at the end of the test. A worker leaves nothing on the host.
func (f *field) end(s *server.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), time.Minute)
	defer cancel()
	must(f.t, s.End(ctx))
	if strings.HasPrefix(nameOf(s), "worker") {
		must(f.t, s.Remove(ctx))
		if left := s.Footprint(ctx); len(left) > 0 {
			f.t.Errorf("%s left something behind: %v", nameOf(s), left)
		}
	}
}

// servers are all gateways and workers.
func (f *field) servers() []*server.Server { return slices.Concat(f.gateways, f.workers) }

// nameOf is a process's among the others.
func nameOf(s *server.Server) string { return filepath.Base(s.DataDir) }

// keepLogs has the logs where they are after the test.
func (f *field) keepLogs() {
	for _, s := range f.servers() {
		path := filepath.Join(os.TempDir(), "chaos-"+nameOf(s)+".log")
		f.t.Logf("the log of %s is in %s", nameOf(s), path)
		if err := os.WriteFile(path, []byte(s.Log()), 0o600); err != nil {
			f.t.Error(err)
		}
	}
}

// idIn is how a VM is named in what is wrong.
var idIn = regexp.MustCompile(`\(([0-9a-z]{20})\)`)

// tellOf shows what the logs say of the first few VMs that something is wrong with.
func (f *field) tellOf(wrong []string) {
	const vms, lines = 3, 40
	told := map[string]bool{}
	for _, w := range wrong {
		id := idIn.FindStringSubmatch(w)
		if id == nil || told[id[1]] || len(told) == vms {
			continue
		}
		told[id[1]] = true
		for _, s := range f.servers() {
			var of []string
			for line := range strings.Lines(s.Log()) {
				if strings.Contains(line, id[1]) {
					of = append(of, line)
				}
			}
			f.t.Logf("%s on %s, %d lines:\n%s", nameOf(s), id[1], len(of), strings.Join(of[max(0, len(of)-lines):], ""))
		}
	}
}

// settle waits until every worker is ready, every machine runs where its row says,
// and no worker has anything on its host that no row there knows.
func (f *field) settle() {
	c, err := f.gateways[0].Client()
	must(f.t, err)
	defer c.Close()
	for {
		ready := 0
		all, err := c.Workers(f.ctx)
		must(f.t, err)
		for _, w := range all {
			if w.State == "ready" {
				ready++
			}
		}
		if ready == workers {
			break
		}
		must(f.t, f.ctx.Err())
		time.Sleep(100 * time.Millisecond)
	}
	within := func(find func(context.Context) []string) []string {
		ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
		defer cancel()
		return find(ctx)
	}
	for _, wrong := range within(f.misplaced) {
		f.t.Error(wrong)
	}
	for _, w := range f.workers {
		for _, stray := range within(func(ctx context.Context) []string { return f.stray(ctx, w) }) {
			f.t.Errorf("%s: %s", nameOf(w), stray)
		}
	}
}

// stray waits until there is nothing on the host that no row knows, or tells
// what there is.
func (f *field) stray(ctx context.Context, w *server.Server) []string {
	for {
		stray, err := w.Stray(ctx, server.Limits{PooledMachines: 100, SparePairs: 100, Draining: true})
		switch {
		case err == nil && len(stray) == 0:
			return nil
		case ctx.Err() != nil:
			return stray
		case err != nil:
			stray = []string{err.Error()}
		}
		select {
		case <-ctx.Done():
			return stray
		case <-time.After(200 * time.Millisecond): // it is looked at from outside
		}
	}
}

func (f *field) clients(patience time.Duration) []*client.Client {
	f.t.Helper()
	var all []*client.Client
	for _, g := range f.gateways {
		c, err := client.New(client.Options{URL: g.URL, Key: g.Key, Patience: patience})
		must(f.t, err)
		f.t.Cleanup(c.Close)
		all = append(all, c)
	}
	return all
}

// signalTree signals a process and those that it has forked.
func signalTree(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil {
		return err
	}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range children {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				_ = signalTree(n, sig) // it may have ended
			}
		}
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
