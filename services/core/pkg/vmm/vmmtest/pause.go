package vmmtest

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var pauseTests = []behaviour{
	{"a frozen machine stands still and goes on", can("pause:freeze"), testFreeze},
	{"a frozen machine can be deleted", can("pause:freeze"), testDeleteFrozen},
	{"a frozen machine can be stopped", can("pause:freeze"), testStopFrozen},
	{"modes that are not offered", can("pause:freeze"), testOtherModes},
}

func (b *bed) pauser(t *testing.T) vmm.Pauser {
	t.Helper()
	p, ok := b.Driver.(vmm.Pauser)
	if !ok {
		t.Fatal("the driver claims to pause and cannot")
	}
	return p
}

func testFreeze(t *testing.T, b *bed) {
	x, p := b.machine(t), b.pauser(t)
	id := x.start(t, shell("i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.01; done"))
	f := x.follow(t, id)
	f.until("tick 5\n")
	for range 2 {
		if err := p.Pause(timeout(t), x.id, domain.PauseFreeze); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.status(t, x.id); got != vmm.StatusPaused {
		t.Errorf("paused: %s", got)
	}
	j, err := x.journals.Lookup(journal.Key{VM: x.vm, Epoch: 1, Execution: id})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	// What was under way arrives, however long that takes; then nothing more does.
	ctx, before := timeout(t), j.NextOffset()
	for {
		time.Sleep(settle)
		after := j.NextOffset()
		if after == before {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%d bytes still come out of a frozen machine", after-before)
		}
		before = after
	}
	for range 2 {
		if err := p.Resume(timeout(t), x.id); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.status(t, x.id); got != vmm.StatusRunning {
		t.Errorf("resumed: %s", got)
	}
	r, err := j.NewReader(before, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := r.Next(timeout(t)); err != nil {
		t.Errorf("it does not go on: %v", err)
	}
	if err := x.session.Signal(timeout(t), id, 9); err != nil {
		t.Error(err)
	}
	if got := f.rest(); got.end.Signal != 9 { // with every tick in its place
		t.Errorf("%+v", got.end)
	}
}

func testDeleteFrozen(t *testing.T, b *bed) {
	x := b.machine(t)
	if err := b.pauser(t).Pause(timeout(t), x.id, domain.PauseFreeze); err != nil {
		t.Fatal(err)
	}
	if err := b.Driver.Delete(timeout(t), x.id); err != nil {
		t.Error(err)
	}
}

func testStopFrozen(t *testing.T, b *bed) {
	x := b.machine(t)
	if err := b.pauser(t).Pause(timeout(t), x.id, domain.PauseFreeze); err != nil {
		t.Fatal(err)
	}
	if err := b.Driver.Stop(timeout(t), x.id, time.Second); err != nil {
		t.Error(err)
	}
	if got := b.status(t, x.id); got != vmm.StatusCreated {
		t.Errorf("stopped: %s", got)
	}
}

func testOtherModes(t *testing.T, b *bed) {
	x, p := b.machine(t), b.pauser(t)
	for _, mode := range []domain.PauseMode{domain.PauseFreeze, domain.PauseMemory, domain.PauseDisk, "nonsense"} {
		if can("pause:"+string(mode))(b.config, b.info.Capabilities) {
			continue
		}
		if err := p.Pause(timeout(t), x.id, mode); !errors.HasCode(err, errors.Unsupported) {
			t.Errorf("%s: %v, want unsupported", mode, err)
		}
	}
	x.sh(t, "true")
}
