package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

// drivers are those that keep their machines in files of the server.
func drivers() []string { return []string{"oci", "qemu", "firecracker"} }

// Limits are what a settled server may have in store.
type Limits struct {
	PooledMachines int // of all kinds together
	SparePairs     int // namespace pairs of each network mode
	// Draining allows pairs of which only the user IDs are left, until the server
	// looks the next time whether a process still has them.
	Draining bool
}

// Stray lists what there is on the host and in the store of this server
// without a reason: a piece of a machine that has no row, a row without a VM, a
// pair of namespaces that is nobody's, a volume in the making, a process that
// is neither the server's nor a machine's. A server that works has things
// under way, so a caller looks again until nothing is left.
func (s *Server) Stray(ctx context.Context, most Limits) ([]string, error) {
	machines, snapshots, err := s.rows(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	pooled := 0
	for id, vm := range machines {
		switch {
		case vm == nil:
			pooled++
		case vm.MachineID != id || vm.Observed == domain.Deleted:
			out = append(out, fmt.Sprintf("row of machine %s for VM %s, which is %s and has machine %q", id, vm.ID, vm.Observed, vm.MachineID))
		}
	}
	if pooled > most.PooledMachines {
		out = append(out, fmt.Sprintf("%d machines in the pool, at most %d were expected", pooled, most.PooledMachines))
	}
	places, err := s.Places(ctx)
	if err != nil {
		return nil, err
	}
	known := func(id string) bool {
		p, ok := places[id]
		return ok && (s.own() == "" || p.Worker == s.own()) // another's machine has nothing here
	}
	for _, piece := range s.pieces() {
		if !known(piece.machine) {
			out = append(out, "machine "+piece.machine+": "+piece.what)
		}
	}
	for _, driver := range drivers() {
		for _, kind := range []string{"s", "r"} {
			for _, id := range s.volumes(driver + "-" + kind + "-") {
				if !snapshots[domain.ID(id)] {
					out = append(out, "volume "+driver+"-"+kind+" of snapshot "+id)
				}
			}
		}
	}
	out = append(out, s.unfinished()...)
	out = append(out, s.pairs(known, most)...)
	out = append(out, s.strayProcesses(known)...)
	slices.Sort(out)
	return out, nil
}

// rows reads which machines the store knows, with the VM that has each (nil:
// one of the pool), and which snapshots.
func (s *Server) rows(ctx context.Context) (map[domain.ID]*domain.VM, map[domain.ID]bool, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = store.Close() }()
	machines, snapshots := map[domain.ID]*domain.VM{}, map[domain.ID]bool{}
	err = store.View(ctx, func(tx storage.Tx) error {
		workers, err := tx.Workers().All(ctx)
		if err != nil {
			return err
		}
		for _, w := range workers {
			rows, err := tx.Machines().OnWorker(ctx, w.ID)
			if err != nil {
				return err
			}
			for _, m := range rows {
				machines[m.ID] = nil
				if m.VMID == "" {
					continue
				}
				if machines[m.ID], err = tx.VMs().Get(ctx, storage.System, m.VMID); err != nil {
					return err
				}
			}
		}
		list, err := tx.Snapshots().List(ctx, storage.SnapshotFilter{IncludeEphemeral: true, Page: storage.Page{Limit: storage.MaxPage}})
		for _, s := range list.Items {
			snapshots[s.ID] = true
		}
		return err
	})
	return machines, snapshots, err
}

// Pooled is how many machines of a driver are ready that no VM has.
func (s *Server) Pooled(ctx context.Context, driver string) (n int, err error) {
	store, err := s.store(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }()
	err = store.View(ctx, func(tx storage.Tx) error {
		workers, err := tx.Workers().All(ctx)
		if err != nil {
			return err
		}
		for _, w := range workers {
			rows, err := tx.Machines().OnWorker(ctx, w.ID)
			if err != nil {
				return err
			}
			for _, m := range rows {
				if m.VMID == "" && m.Driver == driver {
					n++
				}
			}
		}
		return nil
	})
	return n, err
}

// EndClaims ends the claims of a webhook's deliveries that the server had when it
// was killed, as a minute does that nothing is heard of it.
func (s *Server) EndClaims(ctx context.Context, hook string) error {
	store, err := s.store(ctx)
	if err != nil {
		return err
	}
	_, err = EndClaims(ctx, store, hook)
	return errors.Join(err, store.Close())
}

// EndClaims ends the claims of a webhook's deliveries in a store, and tells how many
// there were.
func EndClaims(ctx context.Context, store storage.Store, hook string) (ended int, err error) {
	err = store.Update(ctx, func(tx storage.Tx) error {
		ended = 0
		l, err := tx.Webhooks().Deliveries(ctx, storage.System, domain.ID(hook), storage.Page{})
		if err != nil {
			return err
		}
		for _, d := range l.Items {
			claimed, err := tx.Webhooks().Attempted(ctx, d, storage.WebhookAttempt{State: domain.DeliveryPending})
			if err != nil {
				return err
			}
			if claimed {
				ended++
			}
		}
		return nil
	})
	return ended, err
}

func (s *Server) store(ctx context.Context) (storage.Store, error) {
	for _, kv := range s.Env {
		if url, ok := strings.CutPrefix(kv, "AETHERIUM_DATABASE="); ok {
			return postgres.Open(ctx, url, postgres.Options{Readers: 1, Logger: slog.New(slog.DiscardHandler)})
		}
	}
	return sqlite.Open(ctx, filepath.Join(s.DataDir, "aetherium.db"), sqlite.Options{Readers: 1, Logger: slog.New(slog.DiscardHandler)})
}

// piece is something that was made for one machine.
type piece struct{ machine, what string }

// pieces finds what there is of machines, by the names that carry their IDs.
func (s *Server) pieces() []piece {
	var all []piece
	add := func(pattern, prefix, suffix string) {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(n), prefix), suffix)
			if domain.IsID(id) {
				all = append(all, piece{id, n})
			}
		}
	}
	for _, driver := range drivers() {
		add(filepath.Join(s.DataDir, driver, "machines/*.json"), "", ".json")
		for _, dir := range []string{"b", "p", "e"} {
			add(filepath.Join(s.RuntimeDir, driver, dir, "*"), "", "")
		}
		for _, kind := range []string{"m", "p"} {
			for _, id := range s.volumes(driver + "-" + kind + "-") {
				all = append(all, piece{id, "volume " + driver + "-" + kind})
			}
		}
	}
	add(filepath.Join(s.RuntimeDir, "oci/r/*"), s.lease.Instance+"-", "")
	for _, parent := range []string{s.lease.Instance, s.lease.Instance + ".*"} {
		add("/sys/fs/cgroup/aetherium-"+parent+"/*", "", "")
		add("/sys/fs/cgroup/*/aetherium-"+parent+"/*", "", "")
	}
	return all
}

// volumes lists the volumes of a kind, by what follows in their names.
func (s *Server) volumes(prefix string) []string {
	names, _ := filepath.Glob(filepath.Join(s.DataDir, "vmdata/volumes", prefix+"*"))
	for i, n := range names {
		names[i] = strings.TrimPrefix(filepath.Base(n), prefix)
	}
	return names
}

// unfinished lists volumes in the making and in the trash, and temporary files
// of records.
func (s *Server) unfinished() []string {
	var out []string
	for _, pattern := range []string{
		filepath.Join(s.DataDir, "vmdata/staging/*"), filepath.Join(s.DataDir, "vmdata/trash/*"),
		filepath.Join(s.DataDir, "*/machines/.*"), filepath.Join(s.RuntimeDir, "*/p/.*"), filepath.Join(s.RuntimeDir, "*/e/.*"),
	} {
		names, _ := filepath.Glob(pattern)
		out = append(out, names...)
	}
	return out
}

// pairs lists pairs of namespaces that are neither a machine's nor a spare one,
// and links and mounts without a pair.
func (s *Server) pairs(known func(string) bool, most Limits) []string {
	var out []string
	there, spares := map[string]bool{}, map[string]int{}
	dirs, _ := filepath.Glob(filepath.Join(s.RuntimeDir, "net/pairs/*"))
	for _, dir := range dirs {
		id := filepath.Base(dir)
		there[id] = true
		var rec struct{ State, Mode, Machine string }
		raw, err := os.ReadFile(filepath.Join(dir, "record.json"))
		if err != nil || json.Unmarshal(raw, &rec) != nil {
			out = append(out, "pair "+id+" without a record")
			continue
		}
		switch {
		case rec.State == "ready":
			spares[rec.Mode]++
		case rec.State == "draining" && most.Draining:
			delete(there, id) // nothing of it may be there
		case rec.State != "claimed":
			out = append(out, "pair "+id+" is "+rec.State)
		case !known(rec.Machine):
			out = append(out, "machine "+rec.Machine+": pair "+id)
		}
	}
	for mode, n := range spares {
		if n > most.SparePairs {
			out = append(out, fmt.Sprintf("%d spare pairs of network %s, at most %d were expected", n, mode, most.SparePairs))
		}
	}
	links, _ := filepath.Glob("/sys/class/net/" + s.lease.Prefix + "v*")
	for _, l := range links {
		if id := strings.TrimPrefix(filepath.Base(l), s.lease.Prefix+"v"); !there[id] {
			out = append(out, "link "+filepath.Base(l))
		}
	}
	return append(out, s.strayMounts(there)...)
}

// strayMounts lists mounts on the host that are not a pair's: machines have
// theirs in namespaces of their own.
func (s *Server) strayMounts(pairs map[string]bool) []string {
	var out []string
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], s.RuntimeDir+"/") {
			continue
		}
		rest, ok := strings.CutPrefix(fields[1], filepath.Join(s.RuntimeDir, "net/pairs")+"/")
		if id, _, _ := strings.Cut(rest, "/"); !ok || !pairs[id] {
			out = append(out, "mount "+fields[1])
		}
	}
	return out
}

// strayProcesses lists processes of machines that have no row, and helpers
// that have outlived what they were started for.
func (s *Server) strayProcesses(known func(string) bool) []string {
	server, _ := s.PID()
	parent := s.within()
	var out []string
	for _, p := range s.found() {
		if p.zombie || p.pid == server {
			continue
		}
		switch in := parent.FindStringSubmatch(p.cgroups); {
		case in != nil:
			if id := in[1]; !known(id) {
				out = append(out, "machine "+id+": process "+strconv.Itoa(p.pid)+" "+p.command)
			}
		case !strings.Contains(p.command, "aetherium-netd"):
			out = append(out, "process "+strconv.Itoa(p.pid)+" "+p.command)
		}
	}
	return out
}

// Agent is the process on the host of a VM's guest agent. Returns an error when
// it does not run.
func (s *Server) Agent(ctx context.Context, vm string) (int, error) {
	machines, _, err := s.rows(ctx)
	if err != nil {
		return 0, err
	}
	for id, owner := range machines {
		if owner == nil || string(owner.ID) != vm {
			continue
		}
		for _, p := range s.found() {
			if !p.zombie && strings.Contains(p.cgroups, string(id)) && strings.Contains(p.command, "fc-agent") {
				return p.pid, nil
			}
		}
	}
	return 0, fmt.Errorf("no guest agent of VM %s runs", vm)
}
