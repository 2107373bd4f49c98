package vmmtest

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// What a machine had in its memory goes on in another that is made of what was
// packed of it, as the same machine: its name, its machine-id and what it was told
// stay, and the address is the new one's. It is all there or not at all.
func testCarryMemory(t *testing.T, b *bed) {
	c, ok := b.Driver.(vmm.MemoryCarrier)
	if !ok {
		t.Fatal("the driver claims to carry memory and cannot")
	}
	var change []func(*vmm.Spec)
	if b.config.Outside != nil {
		change = append(change, func(s *vmm.Spec) { s.Network = domain.NetworkNAT })
	}
	origin, m := b.machine(t, change...), newModel()
	h := origin.hold(t)
	m.write(t, h, "before", 1, 3)
	if !b.config.Replays {
		h.ask(t, "steady")
	}
	ticks := origin.start(t, shell("i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done"))
	origin.follow(t, ticks).until("tick 5\n")
	var who string
	if b.config.Isolated {
		who = origin.sh(t, "uname -n; cat /etc/machine-id")
	}
	if b.config.Outside != nil {
		host, port, _ := strings.Cut(b.config.Outside(t), ":")
		h.ask(t, "connect "+host+" "+port)
		if got := h.ask(t, "talk"); got != "alive" {
			t.Fatalf("a connection is %s", got)
		}
	}
	b.sleep(t, origin)
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	var packed bytes.Buffer
	if err := c.PackMemory(timeout(t), snap, &packed); err != nil {
		t.Fatal(err)
	}
	if limit := b.Spec.Resources.MemoryBytes; int64(packed.Len()) > limit {
		t.Errorf("zeros are carried: %d bytes of %d of memory", packed.Len(), limit)
	}
	// The machine is no more, and no snapshot of it: this node is as another one.
	if err := errors.Join(b.Driver.Delete(timeout(t), origin.id), b.snapshotter(t).DeleteSnapshot(timeout(t), snap)); err != nil {
		t.Fatal(err)
	}
	if err := c.PackMemory(timeout(t), snap, io.Discard); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("of no snapshot: %v", err)
	}

	s := b.spec()
	for _, f := range change {
		f(&s)
	}
	if b.config.Isolated {
		s.Hostname = strings.Fields(who)[0]
	}
	t.Cleanup(func() {
		if err := b.Driver.Delete(context.WithoutCancel(t.Context()), s.MachineID); err != nil {
			t.Errorf("deleting the machine: %v", err)
		}
	})
	whole := packed.Bytes()
	b.refusesMemory(t, c, s, whole)
	for range 2 {
		if err := c.UnpackMemory(timeout(t), s, bytes.NewReader(whole)); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.status(t, s.MachineID); got != vmm.StatusPaused {
		t.Errorf("it is %s", got)
	}
	b.Driver = b.Reopen(t) // a worker may be killed here
	x := b.arrived(t, s.MachineID, h.id, ticks)
	h = h.in(t, x, h.id)
	if !b.config.Replays {
		m.check(t, "gone on", h)
		if got := h.ask(t, "steady"); got != "on" {
			t.Errorf("its monotonic clock went %s", got)
		}
		m.write(t, h, "after", 2, 5)
		m.check(t, "gone on and written to", h)
	}
	if b.config.Isolated {
		if got := x.sh(t, "uname -n; cat /etc/machine-id"); got != who {
			t.Errorf("it is %q, and was %q", got, who)
		}
	}
	if b.config.Outside != nil {
		if got := h.ask(t, "talk"); got != "closed" {
			t.Errorf("a connection of another host is %s", got)
		}
		host, port, _ := strings.Cut(b.config.Outside(t), ":")
		h.ask(t, "connect "+host+" "+port)
		if got := h.ask(t, "talk"); got != "alive" {
			t.Errorf("a new connection is %s", got)
		}
	}
	f := x.follow(t, ticks)
	f.midway = true
	f.until("tick 20\n")
	if err := x.session.Signal(timeout(t), ticks, 9); err != nil {
		t.Error(err)
	}
	x.sh(t, "echo own > carried; sync")
	// It is paused and resumed as any other.
	b.sleep(t, x)
	x = b.wake(t, x, h.id)
	if got := x.sh(t, "cat carried"); got != "own" {
		t.Errorf("its disk has %q", got)
	}
	x.detach()
	if err := b.Driver.Delete(timeout(t), s.MachineID); err != nil {
		t.Fatal(err)
	}

	// Without its memory it is a disk.
	if err := c.UnpackSnapshot(timeout(t), snap, s.Resources.DiskBytes, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.snapshotter(t).DeleteSnapshot(context.WithoutCancel(t.Context()), snap); err != nil {
			t.Error(err)
		}
	})
	cold := b.machine(t, from(snap))
	if left, err := cold.client.Remembered(timeout(t)); err != nil || len(left) > 0 {
		t.Errorf("it runs %+v, %v", left, err)
	}
}

// refusesMemory tries what is no packed memory, or not that of a machine with a spec.
func (b *bed) refusesMemory(t *testing.T, c vmm.MemoryCarrier, s vmm.Spec, whole []byte) {
	t.Helper()
	other := s
	other.Resources.MemoryBytes *= 2
	for name, in := range map[string]struct {
		spec vmm.Spec
		r    io.Reader
		code errors.Code
	}{
		"nothing":                        {s, bytes.NewReader(nil), errors.InvalidArgument},
		"another thing":                  {s, bytes.NewReader(make([]byte, 4096)), errors.InvalidArgument},
		"cut off":                        {s, bytes.NewReader(whole[:len(whole)/2]), errors.InvalidArgument},
		"cut off at the end":             {s, bytes.NewReader(whole[:len(whole)-1]), errors.InvalidArgument},
		"longer":                         {s, io.MultiReader(bytes.NewReader(whole), bytes.NewReader([]byte{0})), errors.InvalidArgument},
		"what is wrong by its last byte": {s, wrong{bytes.NewReader(whole)}, errors.PreconditionFailed},
		"a machine of another size":      {other, bytes.NewReader(whole), errors.Conflict},
	} {
		if b.config.Replays && in.code == errors.Conflict {
			continue
		}
		if err := c.UnpackMemory(timeout(t), in.spec, in.r); !errors.HasCode(err, in.code) {
			t.Errorf("%s: %v", name, err)
		}
		if err := b.Driver.Delete(timeout(t), s.MachineID); err != nil {
			t.Fatal(err)
		}
	}
	states, err := b.Driver.List(timeout(t))
	if err != nil || slices.ContainsFunc(states, func(at vmm.State) bool { return at.MachineID == s.MachineID }) {
		t.Errorf("there is %v of what was refused, %v", states, err)
	}
}

// arrived resumes a machine that was made of what was packed, and takes up what
// runs, of which this node has no journal.
func (b *bed) arrived(t *testing.T, id string, known ...domain.ID) *box {
	t.Helper()
	b.brokenOff(t, id)
	b.resume(t, id)
	x := b.greet(t, id, t.TempDir())
	all, err := x.client.Remembered(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if !slices.Contains(known, r.ID) {
			continue // it had ended
		}
		if err := guest.BeginMoved(x.journals, x.vm, 1, r); err != nil {
			t.Fatal(err)
		}
	}
	x.open(t, known...)
	return x
}
