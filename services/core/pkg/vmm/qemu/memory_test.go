package qemu_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// memory makes a place to save to.
func (l *lab) memory() microvm.Memory {
	l.t.Helper()
	dir, err := os.MkdirTemp(l.dir, "memory")
	must(l.t, err)
	return microvm.Memory{Dir: dir}
}

func (l *lab) save(g microvm.Guest, last bool) microvm.Memory {
	l.t.Helper()
	to := l.memory()
	stood, err := l.engine.Save(l.ctx(), g, to, last, func(context.Context) error { return nil })
	must(l.t, err)
	l.t.Logf("stood still for %v", stood)
	return to
}

func (l *lab) restore(g microvm.Guest, from microvm.Memory) {
	l.t.Helper()
	pid, err := l.engine.Restore(l.ctx(), g, from)
	must(l.t, err)
	l.pids[g.ID] = pid
}

func (l *lab) thaw(g microvm.Guest) {
	l.t.Helper()
	must(l.t, l.engine.Thaw(l.ctx(), g))
}

// sums gives the checksums of what was saved.
func sums(t testing.TB, m microvm.Memory) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(m.Dir)
	must(t, err)
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
		must(t, err)
		sum := sha256.Sum256(raw)
		all[e.Name()] = hex.EncodeToString(sum[:])
	}
	return all
}

// fill has a guest write its memory anew, and gives the checksum.
func (l *lab) fill(g microvm.Guest, seed int) string {
	l.t.Helper()
	l.ask(g, "POST", fmt.Sprintf("/fill?bytes=%d&seed=%d", 2*mib, seed))
	return l.ask(g, "GET", "/sum")
}

func (l *lab) wantSum(who string, g microvm.Guest, want string) {
	l.t.Helper()
	if got := l.ask(g, "GET", "/sum"); got != want {
		l.t.Errorf("the memory of %s is %s, not %s", who, got, want)
	}
}

// Three generations go on side by side from memories that nobody changes any
// more, whatever all of them write.
func TestGenerations(t *testing.T) {
	l := newLab(t)
	origin := l.guest(nil)
	l.boot(origin)
	first := l.fill(origin, 1)
	firstSaved := l.save(origin, false)
	before := sums(t, firstSaved)
	l.wantSum("the origin, saved,", origin, first)

	// Two of the second generation, of which one waits while the other writes.
	a, b := l.guest(&origin), l.guest(&origin)
	l.restore(a, firstSaved)
	l.restore(b, firstSaved)
	l.thaw(a)
	l.wantSum("a clone", a, first)
	second := l.fill(a, 2)
	originNow := l.fill(origin, 3)
	l.thaw(b)
	l.wantSum("a clone beside others that wrote", b, first)

	// One of the third.
	secondSaved := l.save(a, false)
	secondBefore := sums(t, secondSaved)
	bNow := l.fill(b, 4)
	c := l.guest(&a)
	l.restore(c, secondSaved)
	l.thaw(c)
	l.wantSum("a clone's clone", c, second)
	aNow, cNow := l.fill(a, 5), l.fill(c, 6)

	l.wantSum("the origin", origin, originNow)
	l.wantSum("the first clone", a, aNow)
	l.wantSum("the second clone", b, bNow)
	l.wantSum("the clone's clone", c, cNow)
	if after := sums(t, firstSaved); !maps.Equal(after, before) {
		t.Error("the first saved memory has changed")
	}
	if after := sums(t, secondSaved); !maps.Equal(after, secondBefore) {
		t.Error("the second saved memory has changed")
	}
}

// What is saved is of the moment that the disk is copied, also of a guest that
// stands still; and the last time, it stays so.
func TestSaveFrozen(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.boot(g)
	want := l.fill(g, 1)
	l.ask(g, "POST", "/disk?text=written")
	must(t, l.engine.Freeze(l.ctx(), g))
	must(t, l.engine.Freeze(l.ctx(), g)) // already so
	var copied string
	saved := l.memory()
	_, err := l.engine.Save(l.ctx(), g, saved, true, func(context.Context) error {
		raw, err := os.ReadFile(g.Drives[1].Path)
		copied = string(raw[:len("written")])
		return err
	})
	must(t, err)
	if copied != "written" {
		t.Errorf("the disk held %q", copied)
	}
	ctx, cancel := context.WithCancel(l.ctx())
	answered := make(chan error, 1)
	go func() {
		_, err := askOnce(ctx, l.engine, g, "GET", "/hello")
		answered <- err
	}()
	clone := l.guest(&g)
	l.restore(clone, saved)
	l.thaw(clone)
	l.wantSum("the clone", clone, want)
	if got := l.ask(clone, "GET", "/drives"); !strings.Contains(got, "disk written") {
		t.Errorf("the clone's disks are %q", got)
	}
	select {
	case err := <-answered:
		t.Errorf("a guest that stands still answered, %v", err)
	default:
	}
	cancel()
	<-answered
	// It is whole, if it is wanted after all.
	l.thaw(g)
	l.thaw(g) // already so
	l.wantSum("the guest", g, want)
}

// A guest goes on as it was when its saving fails, and what was written is
// recognised as nothing.
func TestSaveFails(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.boot(g)
	want := l.fill(g, 1)
	full := errors.New(errors.NoSpace, "the disk is full")
	for _, last := range []bool{false, true} {
		to := l.memory()
		_, err := l.engine.Save(l.ctx(), g, to, last, func(context.Context) error { return full })
		if !errors.Is(err, full) {
			t.Errorf("last %v: %v", last, err)
		}
		l.wantSum("the guest", g, want)
		clone := l.guest(&g)
		if _, err := l.engine.Restore(l.ctx(), clone, to); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("half a memory: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(l.ctx())
	_, err := l.engine.Save(ctx, g, l.memory(), false, func(ctx context.Context) error {
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	l.wantSum("the guest", g, want)
	if n := len(processesOf(t, g.UID)); n != 1 {
		t.Errorf("%d monitors are there for one guest", n)
	}

	saved := l.save(g, false)
	clone := l.guest(&g)
	bad := clone
	bad.Memory *= 2
	if _, err := l.engine.Restore(l.ctx(), bad, saved); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("another size: %v", err)
	}
	bad = clone
	bad.Link = nil
	if _, err := l.engine.Restore(l.ctx(), bad, saved); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("no network: %v", err)
	}
	bad = clone
	bad.Drives = bad.Drives[:2]
	if _, err := l.engine.Restore(l.ctx(), bad, saved); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("fewer disks: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(saved.Dir, "state"), []byte("QEVM"), 0o600))
	if _, err := l.engine.Restore(l.ctx(), clone, saved); !errors.HasCode(err, errors.Internal) {
		t.Errorf("damaged: %v", err)
	}
	if n := len(processesOf(t, clone.UID)); n != 0 {
		t.Errorf("%d monitors are there for no guest", n)
	}
}

// What is saved of a guest that writes all the time is of one moment.
func TestSaveWriter(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.boot(g)
	l.ask(g, "POST", "/churn?pages=4096")
	for range 3 {
		saved := l.save(g, false)
		l.ask(g, "GET", "/churn")
		clone := l.guest(&g)
		l.restore(clone, saved)
		l.thaw(clone)
		l.ask(clone, "GET", "/churn")
		l.end(clone.UID)
	}
}
