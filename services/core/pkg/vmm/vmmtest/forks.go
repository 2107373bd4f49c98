package vmmtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var forkTests = []behaviour{
	{"what runs goes on under new IDs", can("fork:memory"), testInherit},
	{"two machines from one memory", goesOn, testTwoForks},
	{"three generations, all writing", goesOn, testGenerations},
	{"forks outlive origin and snapshot", goesOn, testForksOutlive},
	{"forks outlive their driver", goesOn, testForksReopen},
	{"a fork can be paused", goesOn, testForkAsleep},
	{"a fork that was stopped starts from its disk", can("fork:memory"), testForkStops},
	{"many forks, all answering", goesOn, testManyForks},
}

// goesOn: machines go on from the memory of others.
func goesOn(c Config, has []string) bool { return can("fork:memory")(c, has) && !c.Replays }

// fork makes a machine that goes on from a memory snapshot, and does with it
// what a worker does. ids are the new IDs of what runs, by the old ones.
func (b *bed) fork(t *testing.T, snapshot string, change ...func(*vmm.Spec)) (x *box, ids map[domain.ID]domain.ID) {
	t.Helper()
	s := b.spec()
	s.DiskFrom, s.Memory = snapshot, true
	for _, c := range change {
		c(&s)
	}
	b.create(t, s)
	b.start(t, s.MachineID)
	x = b.greet(t, s.MachineID, t.TempDir())
	all, err := x.client.Remembered(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	ids = make(map[domain.ID]domain.ID)
	known := make([]domain.ID, 0, len(all))
	for _, r := range all {
		if r.Ended {
			if err := x.client.Forget(timeout(t), r.ID); err != nil {
				t.Fatal(err)
			}
			continue
		}
		id := domain.NewID()
		ids[r.ID], known = id, append(known, id)
		if err := guest.BeginInherited(x.journals, journal.Key{VM: x.vm, Epoch: 1, Execution: id}, r); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := x.client.Rename(timeout(t), ids); err != nil {
			t.Fatalf("renaming executions: %v", err)
		}
	}
	x.open(t, known...)
	return x, ids
}

// forkOf is fork with a keeper that runs in the origin.
func (b *bed) forkOf(t *testing.T, snapshot string, h *holder, change ...func(*vmm.Spec)) *holder {
	t.Helper()
	x, ids := b.fork(t, snapshot, change...)
	if ids[h.id] == "" {
		t.Fatal("what ran in the origin does not run in its fork")
	}
	return h.in(t, x, ids[h.id])
}

func testInherit(t *testing.T, b *bed) {
	origin := b.machine(t)
	origin.sh(t, "echo kept > file; sync")
	c := shell("echo ready; cat; exit 7")
	c.Stdin = true
	id := origin.start(t, c)
	origin.follow(t, id).until("ready\n")
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	for i := range 2 {
		x, ids := b.fork(t, snap)
		if len(ids) != 1 || ids[id] == "" {
			t.Fatalf("it runs %v, want %s alone", ids, id)
		}
		if got := x.sh(t, "cat file"); got != "kept" {
			t.Errorf("its disk has %q", got)
		}
		finish(t, x, ids[id], fmt.Sprintf("fork %d", i))
	}
	finish(t, origin, id, "origin")
}

// finish tells a command something, and ends its input.
func finish(t *testing.T, x *box, id domain.ID, text string) {
	t.Helper()
	if err := x.session.WriteStdin(timeout(t), id, -1, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	f := x.follow(t, id)
	f.midway = true
	if got := f.rest(); got.stdout != "ready\n"+text && got.stdout != text || got.end.ExitCode != 7 {
		t.Errorf("%s: %+v", text, got)
	}
}

func testTwoForks(t *testing.T, b *bed) {
	origin, m := b.machine(t), newModel()
	h := origin.hold(t)
	m.write(t, h, "origin", 0, 2)
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	m.write(t, h, "later", 1, 2) // which is in no fork
	atSnapshot := newModel()
	copyPattern(atSnapshot, "origin", 0, 2)
	one, two := b.forkOf(t, snap, h), b.forkOf(t, snap, h)
	m1, m2 := atSnapshot.clone(), atSnapshot.clone()
	m1.check(t, "the first as it began", one)
	m2.check(t, "the second as it began", two)
	m1.write(t, one, "one", 0, 3)
	m2.write(t, two, "two", 1, 3)
	for name, h := range map[string]*holder{"the first": one, "the second": two} {
		if got := h.ask(t, "files"); got != "still here, on a tmpfs" {
			t.Errorf("%s: its open files: %q", name, got)
		}
	}
	m.check(t, "the origin", h)
	m1.check(t, "the first", one)
	m2.check(t, "the second", two)
	for code, h := range []*holder{h, one, two} {
		h.leave(t, code)
	}
	b.checkDisk(t, "the first", one.x, m1)
	b.checkDisk(t, "the second", two.x, m2)
}

// copyPattern is what model.write does, without a keeper.
func copyPattern(m *model, text string, first, step int) {
	for _, in := range [][]byte{m.mem, m.blocks} {
		for i := first * pageBytes; i < len(in); i += step * pageBytes {
			copy(in[i+16:], text)
		}
	}
}

// checkDisk reads the blocks again, from the disk where the machine has a
// kernel of its own to forget what it has in memory.
func (b *bed) checkDisk(t *testing.T, who string, x *box, m *model) {
	t.Helper()
	if b.info.Isolation == domain.IsolationMicroVM {
		x.run(t, asRoot(shell("sync; echo 3 > /proc/sys/vm/drop_caches")))
	}
	if got, want := x.sh(t, "sha256sum < blocks | cut -c 1-64"), sumOf(m.blocks); got != want {
		t.Errorf("%s: its disk has %s, want %s", who, got, want)
	}
}

func testGenerations(t *testing.T, b *bed) {
	origin, m := b.machine(t), newModel()
	holders, models := []*holder{origin.hold(t)}, []*model{m}
	m.write(t, holders[0], "generation0", 0, 5)
	for g := 1; g <= 3; g++ {
		parent := holders[g-1]
		snap := b.snapshotOf(t, parent.x.id, domain.SnapshotMemory)
		child, m := b.forkOf(t, snap, parent), models[g-1].clone()
		m.check(t, fmt.Sprintf("generation %d as it began", g), child)
		// All of them write, the older ones into what the younger ones share with them.
		holders, models = append(holders, child), append(models, m)
		for i := range holders {
			models[i].write(t, holders[i], fmt.Sprintf("g%dof%d", i, g), i, 4+g)
		}
		for i := range holders {
			models[i].check(t, fmt.Sprintf("generation %d after %d forks", i, g), holders[i])
		}
	}
	for i, h := range holders {
		h.leave(t, i)
		b.checkDisk(t, fmt.Sprintf("generation %d", i), h.x, models[i])
	}
}

func testForksOutlive(t *testing.T, b *bed) {
	origin, m := b.machine(t), newModel()
	h := origin.hold(t)
	m.write(t, h, "origin", 0, 2)
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	early := b.forkOf(t, snap, h)
	origin.detach()
	if err := b.Driver.Delete(timeout(t), origin.id); err != nil {
		t.Fatal(err)
	}
	late := b.forkOf(t, snap, h)
	// The snapshot goes before anything of it was read by the late one.
	if err := b.snapshotter(t).DeleteSnapshot(timeout(t), snap); err != nil {
		t.Fatal(err)
	}
	m.check(t, "the early fork", early)
	m.check(t, "the late fork", late)
	early.leave(t, 1)
	late.leave(t, 2)
}

func testForksReopen(t *testing.T, b *bed) {
	origin, m := b.machine(t), newModel()
	h := origin.hold(t)
	m.write(t, h, "origin", 0, 2)
	fork := b.forkOf(t, b.snapshotOf(t, origin.id, domain.SnapshotMemory), h)
	m1 := m.clone()
	m1.write(t, fork, "fork", 1, 2)
	fork.x.detach()
	x := b.reopen(t, origin, h.id)
	m.check(t, "the origin", h.in(t, x, h.id))
	again := b.attach(t, fork.x.id, fork.x.dir, fork.id)
	fork = fork.in(t, again, fork.id)
	m1.check(t, "the fork", fork)
	fork.leave(t, 4)
}

func testForkAsleep(t *testing.T, b *bed) {
	if !can("pause:memory")(b.config, b.info.Capabilities) {
		return
	}
	origin, m := b.machine(t), newModel()
	h := origin.hold(t)
	m.write(t, h, "origin", 0, 2)
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	fork, m1 := b.forkOf(t, snap, h), m.clone()
	m1.write(t, fork, "fork", 1, 3)
	b.sleep(t, fork.x)
	if err := b.snapshotter(t).DeleteSnapshot(timeout(t), snap); err != nil {
		t.Fatal(err)
	}
	m.write(t, h, "later", 2, 3)
	// What sleeps can be forked as it is.
	second := b.forkOf(t, b.snapshotOf(t, fork.x.id, domain.SnapshotMemory), fork)
	x := b.wake(t, fork.x, fork.id)
	fork = fork.in(t, x, fork.id)
	m2 := m1.clone()
	m1.write(t, fork, "awake", 0, 6)
	m2.write(t, second, "second", 0, 7)
	m.check(t, "the origin", h)
	m1.check(t, "the fork", fork)
	m2.check(t, "the fork's fork", second)
}

func testForkStops(t *testing.T, b *bed) {
	origin := b.machine(t)
	id := origin.start(t, shell("echo kept > file; sync; echo up; exec sleep 1000"))
	origin.follow(t, id).until("up")
	x, ids := b.fork(t, b.snapshotOf(t, origin.id, domain.SnapshotMemory))
	if ids[id] == "" {
		t.Fatal("what ran in the origin does not run in its fork")
	}
	x.sh(t, "echo more >> file; sync")
	x.detach()
	if err := b.Driver.Stop(timeout(t), x.id, time.Second); err != nil {
		t.Fatal(err)
	}
	b.start(t, x.id)
	x = b.greet(t, x.id, t.TempDir())
	if left, err := x.client.Remembered(timeout(t)); err != nil || len(left) > 0 {
		t.Errorf("it runs %+v, %v", left, err)
	}
	x.open(t)
	if got := x.sh(t, "cat file"); got != "kept\nmore" {
		t.Errorf("its disk has %q", got)
	}
}

func testManyForks(t *testing.T, b *bed) {
	origin, m := b.machine(t), newModel()
	h := origin.hold(t)
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	forks := make([]*holder, 4)
	for i := range forks {
		forks[i] = b.forkOf(t, snap, h)
	}
	for i, h := range forks {
		own := m.clone()
		own.write(t, h, fmt.Sprintf("fork%d", i), i, 9)
		own.check(t, fmt.Sprintf("fork %d", i), h)
	}
	m.check(t, "the origin", h)
}
