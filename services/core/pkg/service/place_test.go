package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A VM goes where its template is; where there is no room, to who can fetch it.
func TestPlacementByWhatWorkersHold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stored, elsewhere := "s3://host/bucket", "s3://host/another"
	workers := map[string]*domain.Worker{}
	add := func(name, at string, memory int64) {
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
			node, err := tx.Workers().ByName(b.ctx, "node")
			if err != nil {
				return err
			}
			w := *node
			w.ID, w.Name, w.Storage, w.Capacity.MemoryBytes = domain.NewID(), name, at, memory
			workers[name] = &w
			return tx.Workers().Insert(b.ctx, &w)
		}))
	}
	add("builder", stored, 2<<30)
	add("copier", stored, 2<<30)
	add("fetcher", stored, 8<<30)
	add("stranger", elsewhere, 64<<30)
	var build *domain.Build
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		tmpl, err := tx.Templates().ByName(b.ctx, b.by.ProjectID, "base")
		if err != nil {
			return err
		}
		old, err := tx.Builds().Get(b.ctx, b.by.ProjectID, tmpl.Tags[domain.DefaultTag])
		if err != nil {
			return err
		}
		build = old
		build.ID, build.WorkerID = domain.NewID(), workers["builder"].ID
		build.Artifacts = []domain.Artifact{{Kind: domain.ArtifactRootFS, Packed: &domain.Packed{Store: stored, Digest: "sha256:1", Bytes: 1}}}
		if err := errors.Join(tx.Builds().Insert(b.ctx, build), tx.Builds().Copied(b.ctx, build, workers["copier"].ID)); err != nil {
			return err
		}
		tmpl.Tags[domain.DefaultTag] = build.ID
		return tx.Templates().Update(b.ctx, tmpl)
	}))
	var at []string
	for range 5 {
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		must(t, err)
		for name, w := range workers {
			if w.ID == vm.WorkerID {
				at = append(at, name)
			}
		}
	}
	slices.Sort(at[:4])
	if !slices.Equal(at, []string{"builder", "builder", "copier", "copier", "fetcher"}) {
		t.Errorf("they are at %v", at)
	}
	yes := true
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Memory: &yes}); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("a memory is where it was made: %v", err)
	}
	// Nobody that has the template takes anything: it is not given to one that cannot have it.
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		for _, name := range []string{"builder", "copier", "fetcher"} {
			w, err := tx.Workers().ByName(b.ctx, name)
			if err != nil {
				return err
			}
			w.State = domain.WorkerAway
			if err := tx.Workers().Update(b.ctx, w); err != nil {
				return err
			}
		}
		return nil
	}))
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{}); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("without those that can have it: %v", err)
	}
}

// Of workers that do, the one that has a machine ready is chosen, unless it is much fuller.
func TestPlacementByReadyMachines(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := map[domain.ID]string{}
	var build *domain.Build
	var ready *domain.Machine
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		node, err := tx.Workers().ByName(b.ctx, "node")
		if err != nil {
			return err
		}
		tmpl, err := tx.Templates().ByName(b.ctx, b.by.ProjectID, "base")
		if err != nil {
			return err
		}
		if build, err = tx.Builds().Get(b.ctx, b.by.ProjectID, tmpl.Tags[domain.DefaultTag]); err != nil {
			return err
		}
		build.ID, build.WorkerID = domain.NewID(), ""
		build.Artifacts = []domain.Artifact{{Kind: domain.ArtifactRootFS, Packed: &domain.Packed{Store: "s3://host/bucket", Digest: "sha256:1", Bytes: 1}}}
		for _, name := range []string{"one", "two", "three"} {
			w := *node
			w.ID, w.Name, w.Storage, w.Capacity.MemoryBytes = domain.NewID(), name, "s3://host/bucket", 4<<30
			at[w.ID] = name
			if build.WorkerID == "" {
				build.WorkerID = w.ID
				err = tx.Builds().Insert(b.ctx, build)
			}
			if err := errors.Join(err, tx.Workers().Insert(b.ctx, &w), tx.Builds().Copied(b.ctx, build, w.ID)); err != nil {
				return err
			}
			if name == "two" {
				ready = &domain.Machine{ID: domain.NewID(), WorkerID: w.ID, Driver: "fake", BuildID: build.ID, CreatedAt: build.CreatedAt}
			}
		}
		tmpl.Tags[domain.DefaultTag] = build.ID
		return tx.Templates().Update(b.ctx, tmpl)
	}))
	const part = 300 << 20 // of 4 GiB: two of them are more than a tenth
	next := func() string {
		t.Helper()
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Resources: domain.Resources{MemoryBytes: part}})
		must(t, err)
		if ready.Shape.Network == "" {
			ready.Shape = domain.Shape{Resources: vm.Spec.Resources, Network: vm.Spec.Network}
		}
		return at[vm.WorkerID]
	}
	where := map[string]int{}
	for range 3 {
		where[next()]++
	}
	if where["one"] != 1 || where["two"] != 1 || where["three"] != 1 {
		t.Fatalf("without a machine that is ready they are at %v", where)
	}
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error { return tx.Machines().Insert(b.ctx, ready) }))
	if first, second, third := next(), next(), next(); first != "two" || second != "two" || third == "two" {
		t.Errorf("with a machine on two they are at %s, %s and %s", first, second, third)
	}
	// What is no machine for it leads nowhere.
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		_, err := tx.Machines().Claim(b.ctx, ready.ID, domain.NewID(), 1)
		return err
	}))
	if got := next(); got == "two" {
		t.Errorf("it is at %s, where the machine is another's", got)
	}
}

// A VM of a snapshot goes where its disk is; where there is no room, to who can
// fetch both the disk and what is below it, also once the worker that took it is
// gone. Its memory is where it was taken.
func TestPlacementOfSnapshots(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const stored = "s3://host/bucket"
	carrying := []string{"carry", "fork:memory"}
	workers, snap := map[string]*domain.Worker{}, &domain.Snapshot{
		ID: domain.NewID(), ProjectID: b.by.ProjectID, VMID: domain.NewID(), Name: "kept", Driver: "fake", Kind: domain.SnapshotMemory, State: domain.BuildReady,
		Spec:   domain.VMSpec{Resources: domain.Resources{MilliCPU: 100, MemoryBytes: 1 << 30, DiskBytes: 1 << 30, PIDs: 100}, Network: domain.NetworkNone},
		Packed: &domain.Packed{Store: stored, Digest: "sha256:1", Bytes: 1},
	}
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		node, err := tx.Workers().ByName(b.ctx, "node")
		if err != nil {
			return err
		}
		for _, w := range []struct {
			name, storage string
			memory        int64
			can           []string
		}{{"taker", stored, 2 << 30, carrying}, {"copier", stored, 2 << 30, carrying}, {"fetcher", stored, 8 << 30, carrying}, {"stranger", "", 64 << 30, carrying}, {"unable", stored, 64 << 30, nil}} {
			other := *node
			other.ID, other.Name, other.Storage, other.Capacity.MemoryBytes = domain.NewID(), w.name, w.storage, w.memory
			other.Drivers = []domain.DriverInfo{{Name: "fake", Isolation: domain.IsolationContainer, Usable: true, Capabilities: w.can}}
			workers[w.name] = &other
			if err := tx.Workers().Insert(b.ctx, &other); err != nil {
				return err
			}
		}
		tmpl, err := tx.Templates().ByName(b.ctx, b.by.ProjectID, "base")
		if err != nil {
			return err
		}
		build, err := tx.Builds().Get(b.ctx, b.by.ProjectID, tmpl.Tags[domain.DefaultTag])
		if err != nil {
			return err
		}
		build.ID, build.WorkerID = domain.NewID(), workers["taker"].ID
		build.Artifacts = []domain.Artifact{{Kind: domain.ArtifactRootFS, Packed: &domain.Packed{Store: stored, Digest: "sha256:2", Bytes: 1}}}
		snap.WorkerID, snap.BuildID = workers["taker"].ID, build.ID
		return errors.Join(tx.Builds().Insert(b.ctx, build), tx.Snapshots().Insert(b.ctx, snap), tx.Snapshots().Copied(b.ctx, snap, workers["copier"].ID))
	}))
	cold, warm := false, true
	places := func(n int) (at []string) {
		t.Helper()
		for range n {
			vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "kept", Memory: &cold})
			must(t, err)
			for name, w := range workers {
				if w.ID == vm.WorkerID {
					at = append(at, name)
				}
			}
		}
		return at
	}
	at := places(5)
	slices.Sort(at[:4])
	if !slices.Equal(at, []string{"copier", "copier", "taker", "taker", "fetcher"}) {
		t.Errorf("they are at %v", at)
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "kept", Memory: &warm}); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("a memory is where it was taken: %v", err)
	}

	change := func(what func(storage.Tx, *domain.Snapshot) error) {
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
			s, err := tx.Snapshots().Get(b.ctx, b.by.ProjectID, snap.ID)
			if err != nil {
				return err
			}
			return errors.Join(what(tx, s), tx.Snapshots().Update(b.ctx, s))
		}))
	}
	change(func(_ storage.Tx, s *domain.Snapshot) error { s.WorkerID = domain.NewID(); return nil })
	if at := places(2); !slices.Equal(at, []string{"fetcher", "fetcher"}) {
		t.Errorf("without its worker they are at %v", at)
	}
	for _, memory := range []*bool{nil, &warm} {
		if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "kept", Memory: memory}); !errors.HasCode(err, errors.Unsupported) {
			t.Errorf("its memory went with its worker: %v", err)
		}
	}
	change(func(_ storage.Tx, s *domain.Snapshot) error { s.Packed = nil; return nil })
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "kept", Memory: &cold}); err == nil {
		t.Error("what is nowhere is found")
	}
	// Of a template that is nowhere else, a disk is of no use elsewhere.
	change(func(tx storage.Tx, s *domain.Snapshot) error {
		alone := &domain.Build{ID: domain.NewID(), ProjectID: b.by.ProjectID, State: domain.BuildReady, Platform: "linux/amd64", WorkerID: workers["stranger"].ID, CreatedAt: s.CreatedAt}
		tmpl, err := tx.Templates().ByName(b.ctx, b.by.ProjectID, "base")
		if err != nil {
			return err
		}
		alone.TemplateID = tmpl.ID
		bare := *s
		bare.ID, bare.Name, bare.BuildID, bare.WorkerID, bare.Packed = domain.NewID(), "bare", alone.ID, workers["copier"].ID, snap.Packed
		return errors.Join(tx.Builds().Insert(b.ctx, alone), tx.Snapshots().Insert(b.ctx, &bare))
	})
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "bare", Memory: &cold}); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("its worker is full, and no other can make use of it: %v", err)
	}
}

// However many workers there are, of which only some are looked at: the only one
// that has room is found, and that none has is known.
func TestPlacementAmongMany(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var roomy domain.ID
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		node, err := tx.Workers().ByName(b.ctx, "node")
		if err != nil {
			return err
		}
		for i := range 40 {
			w := *node
			w.ID, w.Name, w.Capacity.MemoryBytes = domain.NewID(), fmt.Sprint("many-", i), 1<<30
			if i == 23 {
				w.Capacity.MemoryBytes, roomy = 3<<30, w.ID
			}
			if err := tx.Workers().Insert(b.ctx, &w); err != nil {
				return err
			}
		}
		node.State = domain.WorkerCordoned
		return tx.Workers().Update(b.ctx, node)
	}))
	size := domain.Resources{MemoryBytes: 1 << 30}
	at := map[domain.ID]int{}
	for range 42 {
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Resources: size})
		must(t, err)
		at[vm.WorkerID]++
	}
	if len(at) != 40 || at[roomy] != 3 {
		t.Errorf("%d workers have VMs, the one with room for 3 has %d", len(at), at[roomy])
	}
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Resources: size}); !errors.HasCode(err, errors.CapacityExhausted) {
		t.Errorf("a full fleet: %v", err)
	}
}

// Workers are remembered between placements, and yet every change of them counts
// at once: whether one takes anything new, one that has come, one that has gone.
func TestPlacementSeesChangesAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	change := func(name string, f func(*domain.Worker)) domain.ID {
		var id domain.ID
		must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
			w, err := tx.Workers().ByName(b.ctx, name)
			if err != nil {
				return err
			}
			f(w)
			id = w.ID
			return tx.Workers().Update(b.ctx, w)
		}))
		return id
	}
	place := func() domain.ID {
		vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		must(t, err)
		return vm.WorkerID
	}
	node := change("node", func(w *domain.Worker) { w.Capacity.MemoryBytes = 8 << 30 })
	if at := place(); at != node {
		t.Fatalf("placed on %s", at)
	}
	change("node", func(w *domain.Worker) { w.State, w.Cordoned = domain.WorkerCordoned, true })
	for range 2 { // also when it is remembered that there is none
		_, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
		if !errors.HasCode(err, errors.CapacityExhausted) {
			t.Errorf("with nobody that takes it: %v", err)
		}
	}
	var other domain.Worker
	must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
		w, err := tx.Workers().ByName(b.ctx, "node")
		if err != nil {
			return err
		}
		other = *w
		other.ID, other.Name, other.State, other.Cordoned = domain.NewID(), "other", domain.WorkerReady, false
		return tx.Workers().Insert(b.ctx, &other)
	}))
	if at := place(); at != other.ID {
		t.Errorf("placed on %s, not on the one that has come", at)
	}
	// The first has more room, and is taken again from the moment that it takes something.
	change("node", func(w *domain.Worker) {
		w.State, w.Cordoned, w.Capacity.MemoryBytes = domain.WorkerReady, false, 64<<30
	})
	if at := place(); at != node {
		t.Errorf("placed on %s, not on the emptier one that is back", at)
	}
	change("node", func(w *domain.Worker) { w.Drivers = nil })
	if at := place(); at != other.ID {
		t.Errorf("placed on %s, which has no driver", at)
	}
}

// A worker takes so many VMs as it has places for, and gives a place back when one
// is paused so that it holds no memory.
func TestPlacementByPlaces(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *service.Config) { c.Overcommit.VMs = 2 })
	first, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	if !errors.HasCode(err, errors.CapacityExhausted) || !strings.Contains(errors.Public(err).Hint, "too little vms is left") {
		t.Errorf("a third where there are two places: %v (%s)", err, errors.Public(err).Hint)
	}
	_, err = b.DeleteVM(b.ctx, b.by, first.ID)
	must(t, err)
	must(t, b.observe(first.ID, domain.Deleted))
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
}
