package worker

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	stepfile "github.com/aetherium/aetherium/services/core/pkg/image/steps"
)

func layerNamed(i int) stepfile.Layer { return stepfile.BaseLayer("test", fmt.Sprint(i)) }

func noted(t *testing.T, l *layers, i int, added int64, age time.Duration) layerNote {
	t.Helper()
	n := layerNote{Layer: layerNamed(i), Driver: "fake", Snapshot: fmt.Sprintf("%s%d", layerPrefix, i), Step: "RUN x", Bytes: added, Added: added}
	if i > 0 {
		n.Below = layerNamed(i - 1)
	}
	if err := l.put(n); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := os.Chtimes(l.file(n.Layer), at, at); err != nil {
		t.Fatal(err)
	}
	return n
}

func snapshotsOf(list []layerNote) []string {
	var out []string
	for _, n := range list {
		out = append(out, strings.TrimPrefix(n.Snapshot, layerPrefix))
	}
	slices.Sort(out)
	return out
}

func TestLayersThatAreTooMuch(t *testing.T) {
	t.Parallel()
	l := &layers{dir: t.TempDir() + "/layers"}
	if got := l.excess(time.Now()); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	noted(t, l, 0, 1, time.Hour)
	noted(t, l, 1, maxLayerBytes/2, 3*time.Hour)
	noted(t, l, 2, maxLayerBytes/2-1, 2*time.Hour)
	noted(t, l, 3, 1, maxLayerAge+time.Hour)
	if got := snapshotsOf(l.excess(time.Now())); !slices.Equal(got, []string{"3"}) {
		t.Errorf("too old: %v", got)
	}
	noted(t, l, 4, 1, 0) // one byte too many: what was not used for longest goes
	if got := snapshotsOf(l.excess(time.Now())); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("too large: %v", got)
	}
	// Use of a layer is use of all below it.
	l.touch(layerNamed(3))
	for _, n := range l.all() {
		if age := time.Since(n.used); age > time.Minute {
			t.Errorf("%s was used %s ago", n.Snapshot, age)
		}
	}
	if err := os.WriteFile(l.file(layerNamed(0)), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.get(layerNamed(0)); ok {
		t.Error("a damaged note is taken")
	}
}

// A layer that is made anew has another snapshot; the old one stays for builds
// that found it, until none is under way.
func TestLayersMadeAnew(t *testing.T) {
	t.Parallel()
	l := &layers{dir: t.TempDir()}
	old := noted(t, l, 1, 1, 0)
	first, second := l.use(), l.use()
	anew := old
	anew.Snapshot = layerPrefix + "anew"
	if err := l.put(anew); err != nil {
		t.Fatal(err)
	}
	if err := l.built(old.Layer, old.Snapshot, "build"); err != nil {
		t.Fatal(err)
	}
	if n, _ := l.get(old.Layer); n.Build != "" || n.Snapshot != anew.Snapshot {
		t.Errorf("the build of another snapshot is noted: %+v", n)
	}
	if err := l.built(old.Layer, anew.Snapshot, "build"); err != nil {
		t.Fatal(err)
	}
	if n, _ := l.get(old.Layer); n.Build != "build" {
		t.Errorf("%+v", n)
	}
	first(func(list []layerNote) { t.Errorf("removed %v while a build goes on", list) })
	var gone []layerNote
	second(func(list []layerNote) { gone = slices.Clone(list) })
	if len(gone) != 1 || gone[0].Snapshot != old.Snapshot {
		t.Errorf("removed %v", gone)
	}
	if err := l.drop(gone[0]); err != nil {
		t.Fatal(err)
	}
	if n, ok := l.get(old.Layer); !ok || n.Snapshot != anew.Snapshot {
		t.Error("with the old snapshot the new note went")
	}
	l.use()(func(list []layerNote) {
		if len(list) > 0 {
			t.Errorf("removed again: %v", list)
		}
	})
}
