package vmmtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var snapshotTests = []behaviour{
	{"two machines from one disk", can("snapshot:disk"), testDiskSnapshot},
	{"of a stopped machine", can("snapshot:disk"), testStoppedSnapshot},
	{"is carried to other nodes", can("carry"), testCarry},
	{"usage", can("meter"), testUsage},
}

func (b *bed) snapshotter(t *testing.T) vmm.Snapshotter {
	t.Helper()
	s, ok := b.Driver.(vmm.Snapshotter)
	if !ok {
		t.Fatal("the driver claims to snapshot and cannot")
	}
	return s
}

func (b *bed) snapshot(t *testing.T, machine string) string {
	t.Helper()
	return b.snapshotOf(t, machine, domain.SnapshotDisk)
}

func (b *bed) snapshotOf(t *testing.T, machine string, kind domain.SnapshotKind) string {
	t.Helper()
	s, id := b.snapshotter(t), string(domain.NewID())
	t.Cleanup(func() {
		for range 2 { // absent is success
			if err := s.DeleteSnapshot(context.WithoutCancel(t.Context()), id); err != nil {
				t.Errorf("deleting the snapshot: %v", err)
			}
		}
	})
	if _, err := s.Snapshot(timeout(t), machine, id, kind); err != nil {
		t.Fatal(err)
	}
	return id
}

func from(snapshot string) func(*vmm.Spec) {
	return func(s *vmm.Spec) { s.DiskFrom = snapshot }
}

func testDiskSnapshot(t *testing.T, b *bed) {
	origin := b.machine(t)
	tick := origin.start(t, shell("while :; do echo tick; sleep 0.01; done"))
	origin.sh(t, "echo origin > file; echo gone > removed; mkdir dir; ln -s file link; rm removed; sync")
	snap := b.snapshot(t, origin.id)
	if ids, err := b.snapshotter(t).ListSnapshots(timeout(t)); err != nil || !slices.Contains(ids, snap) {
		t.Errorf("the list: %v, %v", ids, err)
	}
	// The origin goes on, and what it does now is not in the snapshot.
	origin.sh(t, "echo later > file; echo later > later")
	if err := origin.session.Signal(timeout(t), tick, 9); err != nil {
		t.Errorf("its execution: %v", err)
	}
	one, two := b.machine(t, from(snap)), b.machine(t, from(snap))
	one.sh(t, "echo one >> file; echo one > dir/own")
	two.sh(t, "echo two >> file")
	for _, tc := range []struct {
		x    *box
		want string
	}{{origin, "later"}, {one, "origin\none"}, {two, "origin\ntwo"}} {
		if got := tc.x.sh(t, "cat link"); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
	if got := one.sh(t, "ls later removed 2>/dev/null; ls dir") + "|" + two.sh(t, "ls dir"); got != "own|" {
		t.Errorf("%q", got)
	}
	// Forks outlive their snapshot and their origin.
	if err := b.snapshotter(t).DeleteSnapshot(timeout(t), snap); err != nil {
		t.Error(err)
	}
	origin.detach()
	if err := b.Driver.Delete(timeout(t), origin.id); err != nil {
		t.Error(err)
	}
	if got := two.sh(t, "cat file"); got != "origin\ntwo" {
		t.Errorf("%q", got)
	}
}

func testStoppedSnapshot(t *testing.T, b *bed) {
	origin := b.machine(t)
	origin.sh(t, "echo kept > file; sync")
	origin.detach()
	if err := b.Driver.Stop(timeout(t), origin.id, time.Second); err != nil {
		t.Fatal(err)
	}
	if got := b.machine(t, from(b.snapshot(t, origin.id))).sh(t, "cat file"); got != "kept" {
		t.Errorf("%q", got)
	}
}

func testUsage(t *testing.T, b *bed) {
	m, ok := b.Driver.(vmm.Meter)
	if !ok {
		t.Fatal("the driver claims to meter and cannot")
	}
	x := b.machine(t)
	id := x.start(t, python("x=b'x'*(32<<20); print('ready', flush=True)\nwhile True: pass"))
	x.follow(t, id).until("ready")
	before, err := m.Usage(timeout(t), x.id)
	if err != nil || before.PIDs < 1 || before.MemoryBytes < 16<<20 || before.At.IsZero() {
		t.Errorf("%+v, %v", before, err)
	}
	want := b.Spec.Resources
	if b.config.DiskUnlimited {
		want.DiskBytes = 0
	}
	if before.MemoryLimit != want.MemoryBytes || before.DiskLimit != want.DiskBytes {
		t.Errorf("limits %d and %d, want %+v", before.MemoryLimit, before.DiskLimit, want)
	}
	x.sh(t, "head -c 4194304 /dev/urandom > file; sync")
	for after := before; after.CPUTime <= before.CPUTime || after.DiskBytes < before.DiskBytes+4<<20; {
		if after, err = m.Usage(timeout(t), x.id); err != nil {
			t.Fatal(err)
		}
		if after.At.Sub(before.At) > callTimeout {
			t.Fatalf("from %+v to %+v", before, after)
		}
		time.Sleep(settle / 10) // it spins on
	}
}
