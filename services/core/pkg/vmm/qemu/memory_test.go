package qemu_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"testing"

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
	_, err := l.engine.Restore(l.ctx(), g, from)
	must(l.t, err)
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

func TestMemory(t *testing.T) {
	l := newLab(t)
	g := l.guest(nil)
	l.boot(g)
	l.ask(g, "POST", "/fill?bytes=8388608&seed=1")
	want := l.ask(g, "GET", "/sum")
	saved := l.save(g, false)
	if got := l.ask(g, "GET", "/sum"); got != want {
		t.Errorf("afterwards the guest's memory is %s, not %s", got, want)
	}
	clone := l.guest(&g)
	l.restore(clone, saved)
	l.thaw(clone)
	before := sums(t, saved)
	if got := l.ask(clone, "GET", "/sum"); got != want {
		t.Errorf("the clone's memory is %s, not %s", got, want)
	}
	l.ask(clone, "POST", "/fill?bytes=8388608&seed=2")
	l.ask(g, "POST", "/fill?bytes=8388608&seed=3")
	if after := sums(t, saved); !maps.Equal(after, before) {
		t.Error("the saved memory has changed")
	}
}
