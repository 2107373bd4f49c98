package worker_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// packing are images that can be packed, and count how often they were unpacked.
type packing struct {
	*images
	unpacked int
}

func (p *packing) List(context.Context) (all []image.Result, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.built {
		all = append(all, r)
	}
	return all, nil
}

func (p *packing) Pack(ctx context.Context, id string, w io.Writer) error {
	r, err := p.Get(ctx, id)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode([]string{id, r.RootFS})
}

func (p *packing) Unpack(ctx context.Context, id, _ string, r io.Reader) (image.Result, error) {
	var packed []string
	if err := json.NewDecoder(r).Decode(&packed); err != nil {
		return image.Result{}, err
	}
	p.mu.Lock()
	p.unpacked++
	p.mu.Unlock()
	return p.Build(ctx, id, domain.TemplateSource{Dir: packed[1]}, func(image.Line) {})
}

// A worker fetches once what it does not have, removes what has no row, and is
// as good without its storage as it would be with none.
func TestStorage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.down()
	shared := filepath.Join(t.TempDir(), "shared")
	blobs, err := blob.OpenDir(shared)
	must(t, err)
	files := &packing{images: b.images}
	b.deps = func(d *worker.Deps) { d.Depot = depot.New(blobs, files, b.config.DataDir) }
	b.up()
	build := func(name string) *domain.Build {
		b.template(name, "/")
		info, err := b.GetTemplate(b.ctx, b.by, name)
		must(t, err)
		return info.Builds[0]
	}
	stored := build("stored")
	if p := stored.Packed(); p == nil || p.Store != blobs.Name() || p.Bytes == 0 {
		t.Fatalf("%+v", stored.Artifacts)
	}
	must(t, b.images.Delete(b.ctx, stored.ID.String()))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { b.running(vmm.CreateVM{Template: "stored"}) })
	}
	all.Wait()
	if files.unpacked != 1 {
		t.Errorf("it was fetched %d times", files.unpacked)
	}

	gone := domain.NewID().String()
	_, err = b.images.Build(b.ctx, gone, domain.TemplateSource{Dir: "/"}, func(image.Line) {})
	must(t, err)
	b.worker.Sweep(b.ctx)
	if _, err := b.images.Get(b.ctx, gone); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("what has no row is kept: %v", err)
	}
	if _, err := b.images.Get(b.ctx, stored.ID.String()); err != nil {
		t.Error(err)
	}

	// Without the storage.
	must(t, os.RemoveAll(shared))
	must(t, os.WriteFile(shared, nil, 0o600))
	local := build("local")
	log, err := b.BuildLog(b.ctx, b.by, local.ID, 0, false)
	must(t, err)
	text, err := io.ReadAll(log)
	must(t, errors.Join(err, log.Close()))
	if local.State != domain.BuildReady || local.Packed() != nil || !strings.Contains(string(text), "warning: it is on this worker alone") {
		t.Errorf("%s, %+v\n%s", local.State, local.Artifacts, text)
	}
	b.running(vmm.CreateVM{Template: "local"})
	must(t, b.images.Delete(b.ctx, stored.ID.String()))
	vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "stored"})
	if err == nil {
		_, err = b.WaitVM(b.ctx, b.by, vm.ID)
	}
	if !errors.HasCode(err, errors.Conflict) || !strings.Contains(err.Error(), "the directory of blobs cannot be used") {
		t.Errorf("of what cannot be fetched: %+v, %v", vm, err)
	}
}
