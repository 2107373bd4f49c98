package worker

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	stepfile "github.com/aetherium/aetherium/services/core/pkg/image/steps"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// What is kept of layers; beyond it, those that were not used for longest go.
const (
	maxLayerBytes = 20 << 30
	maxLayers     = 500
	maxLayerAge   = 14 * 24 * time.Hour
)

// layerPrefix begins the IDs of the snapshots that layers are kept as, which
// no row tells of.
const layerPrefix = "layer-"

// layerNote is what is known of a kept layer. Its file's time is that of its last use.
type layerNote struct {
	Layer  stepfile.Layer `json:"layer"`
	Below  stepfile.Layer `json:"below,omitempty"`
	Driver string         `json:"driver"`
	// Snapshot never changes. A build that makes the layer anew makes another
	// one, and the note names that from then on.
	Snapshot string `json:"snapshot"`
	Step     string `json:"step"`
	Bytes    int64  `json:"bytes"` // of the disk, the layers below included
	Added    int64  `json:"added"` // on top of the layer below
	// Build has the layer's files as its root filesystem, unless it is gone.
	Build string `json:"build,omitempty"`
}

// layers are the kept results of template builds' steps: snapshots of the
// driver, with a note beside each. A note is written after its snapshot and
// removed before it, so that each note has one.
type layers struct {
	dir string

	mu      sync.Mutex
	users   int         // builds under way: nothing is removed meanwhile
	garbage []layerNote // replaced: their snapshots go when no build is under way
}

func (l *layers) file(name stepfile.Layer) string { return filepath.Join(l.dir, string(name)+".json") }

// use keeps layers from being removed until the returned function is called,
// which removes what is too much.
func (l *layers) use() func(remove func([]layerNote)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
	return func(remove func([]layerNote)) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.users--; l.users > 0 {
			return
		}
		remove(append(l.excess(time.Now()), l.garbage...))
		l.garbage = nil
	}
}

// get reads a layer's note; ok is false where there is none.
func (l *layers) get(name stepfile.Layer) (n layerNote, ok bool) {
	text, err := os.ReadFile(l.file(name))
	return n, err == nil && json.Unmarshal(text, &n) == nil && n.Layer == name
}

// touch notes that a layer, and so those below it, were used.
func (l *layers) touch(name stepfile.Layer) {
	now := time.Now()
	for range stepfile.MaxSteps {
		n, ok := l.get(name)
		if !ok || os.Chtimes(l.file(name), now, now) != nil || n.Below == "" {
			return
		}
		name = n.Below
	}
}

// put writes a layer's note. What it replaces is removed later.
func (l *layers) put(n layerNote) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(n)
}

// built notes which build has a layer's files, unless the layer was made anew
// meanwhile.
func (l *layers) built(name stepfile.Layer, snapshot, build string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.get(name)
	if !ok || n.Snapshot != snapshot {
		return nil
	}
	n.Build = build
	return l.write(n)
}

func (l *layers) write(n layerNote) error {
	if old, ok := l.get(n.Layer); ok && old.Snapshot != n.Snapshot {
		l.garbage = append(l.garbage, old)
	}
	text, err := json.Marshal(n)
	if err == nil {
		err = os.MkdirAll(l.dir, 0o700)
	}
	tmp := l.file(n.Layer) + ".new"
	if err == nil {
		err = os.WriteFile(tmp, text, 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, l.file(n.Layer))
	}
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the layer cannot be kept")
	}
	return nil
}

// drop removes a note, unless it names another snapshot by now.
func (l *layers) drop(n layerNote) error {
	if now, ok := l.get(n.Layer); ok && now.Snapshot != n.Snapshot {
		return nil
	}
	if err := os.Remove(l.file(n.Layer)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

type usedLayer struct {
	layerNote
	used time.Time
}

func (l *layers) all() []usedLayer {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil
	}
	var out []usedLayer
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		info, err := e.Info()
		if !ok || err != nil {
			continue
		}
		if n, ok := l.get(stepfile.Layer(name)); ok {
			out = append(out, usedLayer{n, info.ModTime()})
		}
	}
	return out
}

// excess names the layers to be removed.
func (l *layers) excess(now time.Time) []layerNote {
	all := l.all()
	slices.SortFunc(all, func(a, b usedLayer) int { return b.used.Compare(a.used) })
	var out []layerNote
	bytes := int64(0)
	for i, n := range all {
		if bytes += n.Added; bytes > maxLayerBytes || i >= maxLayers || now.Sub(n.used) > maxLayerAge {
			out = append(out, n.layerNote)
		}
	}
	return out
}

// dropLayers removes layers with their snapshots.
func (w *Worker) dropLayers(ctx context.Context, list []layerNote) {
	for _, n := range list {
		d, err := w.driver(n.Driver)
		if err == nil {
			err = w.layers.drop(n)
		}
		if sn, ok := d.(vmm.Snapshotter); ok && err == nil {
			err = sn.DeleteSnapshot(ctx, n.Snapshot)
		}
		if err != nil {
			w.Log.Warn("layer not removed", "layer", n.Layer, "error", err)
		}
	}
}

// recoverLayers makes notes and snapshots agree after a crash. Snapshots are
// those that a driver has.
func (w *Worker) recoverLayers(ctx context.Context, driver string, sn vmm.Snapshotter, snapshots []string) error {
	there := make(map[string]bool, len(snapshots))
	for _, id := range snapshots {
		there[id] = strings.HasPrefix(id, layerPrefix)
	}
	for _, n := range w.layers.all() {
		id := n.Snapshot
		if n.Driver != driver {
			continue
		}
		if there[id] {
			delete(there, id)
			continue
		}
		if err := w.layers.drop(n.layerNote); err != nil {
			return err
		}
	}
	for id, layer := range there {
		if !layer {
			continue
		}
		w.Log.Info("removing a layer that was not complete", "snapshot", id)
		if err := sn.DeleteSnapshot(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
