package storetest

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func templates(e *env) {
	p, q := e.project("p"), e.project("q")
	tpl := &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "base", Tags: map[string]domain.ID{}, CreatedAt: e.now, UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
	get := func() *domain.Template {
		e.Helper()
		return read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), p, tpl.ID) })
	}
	same(e, "stored", get(), tpl)
	here, there := e.hire("here"), e.hire("there")
	on := func(worker domain.ID) func(*domain.Build) { return func(b *domain.Build) { b.WorkerID = worker } }
	b1, b2 := e.build(tpl, on(here)), e.build(tpl, on(here))
	elsewhere := e.build(tpl, on(there))
	stale := *tpl
	tpl.Tags = map[string]domain.ID{"latest": b1.ID, "v1": b1.ID}
	e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	same(e, "tagged", get(), tpl)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), &stale) })
	tpl.Name, tpl.Tags, tpl.UpdatedAt = "base2", map[string]domain.ID{"latest": b2.ID}, e.tick()
	e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	same(e, "retagged and renamed", read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().ByName(e.ctx(), p, "base2") }), tpl)
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		bad := *tpl
		bad.Tags = map[string]domain.ID{"x": domain.NewID()}
		return tx.Templates().Update(e.ctx(), &bad)
	})

	// One namespace with snapshots; the old name is free again.
	resolve := func(name string) (n storage.Named, c errors.Code) {
		err := e.store.View(e.ctx(), func(tx storage.Tx) (err error) {
			n, err = tx.Names().Resolve(e.ctx(), p, name)
			return err
		})
		return n, errors.CodeOf(err)
	}
	snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, VMID: domain.NewID(), Name: "base", Kind: domain.SnapshotDisk, State: domain.BuildReady, CreatedAt: e.tick()}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), snap) })
	if n, _ := resolve("base"); n != (storage.Named{Kind: storage.KindSnapshot, ProjectID: p, ID: snap.ID}) {
		e.Errorf("base is %+v", n)
	}
	if n, _ := resolve("base2"); n != (storage.Named{Kind: storage.KindTemplate, ProjectID: p, ID: tpl.ID}) {
		e.Errorf("base2 is %+v", n)
	}
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		return tx.Templates().Insert(e.ctx(), &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "base"})
	})
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		bad := *tpl
		bad.Name = "base"
		return tx.Templates().Update(e.ctx(), &bad)
	})
	e.update(func(tx storage.Tx) error { // elsewhere it is free
		return tx.Templates().Insert(e.ctx(), &domain.Template{ID: domain.NewID(), ProjectID: q, Name: "base"})
	})
	list := read(e, func(tx storage.Tx) (storage.List[*domain.Template], error) {
		return tx.Templates().List(e.ctx(), storage.TemplateFilter{ProjectID: p})
	})
	same(e, "list", list.Items, []*domain.Template{tpl})

	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Templates().Delete(e.ctx(), q, tpl.ID) })
	e.update(func(tx storage.Tx) error { return tx.Templates().Delete(e.ctx(), p, tpl.ID) })
	if _, c := resolve("base2"); c != errors.NotFound {
		e.Errorf("the name of a deleted template: %s", c)
	}
	orphans := func() []domain.ID {
		all := read(e, func(tx storage.Tx) ([]*domain.Build, error) { return tx.Builds().Orphans(e.ctx(), here, 10) })
		return ids(all, func(b *domain.Build) domain.ID { return b.ID })
	}
	same(e, "orphans", orphans(), []domain.ID{b1.ID, b2.ID})
	e.update(func(tx storage.Tx) error { return tx.Workers().Delete(e.ctx(), there) })
	same(e, "orphans, with those of a worker that is no more", orphans(), []domain.ID{b1.ID, b2.ID, elsewhere.ID})
}

// What a worker that is gone had of a build, the build has no more, though it is ready.
func lostBuilds(e *env) {
	p := e.project("p")
	tpl := &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "base", Tags: map[string]domain.ID{}, CreatedAt: e.now, UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
	worker := domain.NewID()
	b := e.build(tpl, func(b *domain.Build) {
		b.WorkerID, b.State, b.ReadyAt = worker, domain.BuildReady, ptr(e.now)
		b.Artifacts = []domain.Artifact{{Kind: domain.ArtifactRootFS, Path: "a"}, {Kind: domain.ArtifactMemory, Path: "b"}}
	})
	e.build(tpl, func(b *domain.Build) { b.WorkerID = domain.NewID() })
	list := func() []*domain.Build {
		e.Helper()
		return read(e, func(tx storage.Tx) (storage.List[*domain.Build], error) {
			return tx.Builds().List(e.ctx(), storage.BuildFilter{WorkerID: worker})
		}).Items
	}
	same(e, "of the worker", list(), []*domain.Build{b})
	stale := *b
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), b) })
	b.State, b.Reason, b.Artifacts = domain.BuildError, "lost", b.Artifacts[:1]
	e.update(func(tx storage.Tx) error { return tx.Builds().Lose(e.ctx(), b) })
	same(e, "lost", list(), []*domain.Build{b})
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Builds().Lose(e.ctx(), &stale) })
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Builds().Lose(e.ctx(), &domain.Build{ID: domain.NewID(), ProjectID: p})
	})
}

// A worker that is being removed is none of the installation any more.
func removedWorkers(e *env) {
	id := e.hire("host")
	member := func() errors.Code {
		return code(e, func(tx storage.Tx) (*domain.Worker, error) { return storage.Member(e.ctx(), tx, id) })
	}
	same(e, "one that is there", member(), "")
	e.update(func(tx storage.Tx) error { return tx.Settings().Set(e.ctx(), storage.SettingRemoved(id), "now") })
	same(e, "one that is being removed", member(), errors.NotFound)
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Workers().Delete(e.ctx(), id), tx.Settings().Delete(e.ctx(), storage.SettingRemoved(id)))
	})
	same(e, "one that was removed", member(), errors.NotFound)
}

func publicTemplates(e *env) {
	p, q := e.project("p"), e.project("q")
	mk := func(project domain.ID, name string, public bool) *domain.Template {
		tpl := &domain.Template{ID: domain.NewID(), ProjectID: project, Name: name, Public: public, Tags: map[string]domain.ID{}, CreatedAt: e.tick(), UpdatedAt: e.now}
		e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
		return tpl
	}
	shared, private := mk(p, "base", true), mk(p, "mine", false)
	build := e.build(shared, nil)
	hidden := e.build(private, nil)
	byName := func(project domain.ID, name string) domain.ID {
		return read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().ByName(e.ctx(), project, name) }).ID
	}
	if got := byName(q, "base"); got != shared.ID {
		e.Errorf("q's base is %s", got)
	}
	read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), q, shared.ID) })
	read(e, func(tx storage.Tx) (*domain.Build, error) { return tx.Builds().Get(e.ctx(), q, build.ID) })
	for what, c := range map[string]errors.Code{
		"private template": code(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), q, private.ID) }),
		"by name":          code(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().ByName(e.ctx(), q, "mine") }),
		"private build":    code(e, func(tx storage.Tx) (*domain.Build, error) { return tx.Builds().Get(e.ctx(), q, hidden.ID) }),
		"resolve":          code(e, func(tx storage.Tx) (storage.Named, error) { return tx.Names().Resolve(e.ctx(), q, "mine") }),
	} {
		if c != errors.NotFound {
			e.Errorf("%s of another project: %s", what, c)
		}
	}
	// What a name and a tag stand for, in one go.
	shared.Tags, private.Tags = map[string]domain.ID{"latest": build.ID}, map[string]domain.ID{"latest": hidden.ID}
	for _, tpl := range []*domain.Template{shared, private} {
		e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	}
	named := func(project domain.ID, name, tag string) (id domain.ID) {
		err := e.store.Read(e.ctx(), func(tx storage.Tx) (err error) {
			id, err = tx.Builds().Named(e.ctx(), project, name, tag)
			return err
		})
		if err != nil && !errors.HasCode(err, errors.NotFound) {
			e.Fatal(err)
		}
		return id
	}
	for _, tc := range []struct {
		project   domain.ID
		name, tag string
		want      domain.ID
	}{
		{p, "base", "latest", build.ID}, {q, "base", "latest", build.ID}, {p, "mine", "latest", hidden.ID},
		{q, "mine", "latest", ""}, {q, "base", "v1", ""}, {p, "none", "latest", ""},
	} {
		if got := named(tc.project, tc.name, tc.tag); got != tc.want {
			e.Errorf("%s:%s is %q, not %q", tc.name, tc.tag, got, tc.want)
		}
	}
	// Readable is not writable.
	stranger := *shared
	stranger.ProjectID = q
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), &stranger) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Templates().Delete(e.ctx(), q, shared.ID) })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Builds().Delete(e.ctx(), q, build.ID) })

	own := mk(q, "base", false)
	if got := byName(q, "base"); got != own.ID {
		e.Errorf("one's own goes first, got %s", got)
	}
	if got := named(q, "base", "latest"); got != "" {
		e.Errorf("one's own goes first, and has no such tag: %s", got)
	}
	both := read(e, func(tx storage.Tx) (storage.List[*domain.Template], error) {
		return tx.Templates().List(e.ctx(), storage.TemplateFilter{ProjectID: q, IncludePublic: true})
	})
	same(e, "own and public", ids(both.Items, func(t *domain.Template) domain.ID { return t.ID }), []domain.ID{own.ID, shared.ID})
}

func (e *env) build(tpl *domain.Template, change func(*domain.Build)) *domain.Build {
	e.Helper()
	b := &domain.Build{ID: domain.NewID(), ProjectID: tpl.ProjectID, TemplateID: tpl.ID, State: domain.BuildWaiting, CreatedAt: e.tick()}
	if change != nil {
		change(b)
	}
	e.update(func(tx storage.Tx) error { return tx.Builds().Insert(e.ctx(), b) })
	return b
}

func (e *env) template(project domain.ID, name string) *domain.Template {
	e.Helper()
	tpl := &domain.Template{ID: domain.NewID(), ProjectID: project, Name: name, CreatedAt: e.tick(), UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Templates().Insert(e.ctx(), tpl) })
	return tpl
}

func builds(e *env) {
	p := e.project("p")
	tpl := e.template(p, "base")
	b := e.build(tpl, func(b *domain.Build) {
		b.WorkerID, b.Platform, b.Source, b.Shape = domain.NewID(), "linux/amd64", domain.TemplateSource{Packages: []string{"git"}, Suite: "bookworm"}, domain.Resources{MilliCPU: 1, MemoryBytes: 2, DiskBytes: 3, PIDs: 4}
		b.Warm = domain.WarmUp{Start: "serve", Memory: true, Ready: "probe", Driver: "qemu", Network: domain.NetworkNAT}
	})
	get := func() *domain.Build {
		return read(e, func(tx storage.Tx) (*domain.Build, error) { return tx.Builds().Get(e.ctx(), p, b.ID) })
	}
	same(e, "stored", get(), b)
	stale := *b
	b.State, b.Kernel, b.DriverVersion, b.ReadyAt = domain.BuildReady, "6.1", "v1", ptr(e.tick())
	b.Artifacts, b.DefaultUser, b.Env, b.WorkDir = []domain.Artifact{{Kind: "rootfs", Path: "p", Digest: "sha256:0", Bytes: 5, Packed: &domain.Packed{Store: "file:///s", Digest: "sha256:1", Bytes: 3}}, {
		Kind: domain.ArtifactMemory, Bytes: 6, Driver: "qemu", DriverVersion: "7", Shape: &domain.Shape{Resources: b.Shape, Network: domain.NetworkNAT},
	}}, "user", map[string]string{"A": "B"}, "/w"
	e.update(func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), b) })
	same(e, "ready", get(), b)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), &stale) })
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Builds().Update(e.ctx(), b) }) // ready never changes
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Builds().Insert(e.ctx(), &domain.Build{ID: domain.NewID(), ProjectID: p, TemplateID: domain.NewID()})
	})
	copies := func() []domain.ID {
		return read(e, func(tx storage.Tx) ([]domain.ID, error) { return tx.Builds().Copies(e.ctx(), b) })
	}
	same(e, "no copies", len(copies()), 0)
	for _, w := range []domain.ID{"w2", "w1", "w2"} {
		e.update(func(tx storage.Tx) error { return tx.Builds().Copied(e.ctx(), b, w) })
	}
	same(e, "copies", copies(), []domain.ID{"w1", "w2"})
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Builds().Copied(e.ctx(), &domain.Build{ID: domain.NewID(), ProjectID: p}, "w1")
	})
	failed := e.build(tpl, func(b *domain.Build) { b.State, b.Reason = domain.BuildError, "no" })
	list := func(f storage.BuildFilter) []domain.ID {
		f.ProjectID, f.TemplateID = p, tpl.ID
		return ids(read(e, func(tx storage.Tx) (storage.List[*domain.Build], error) { return tx.Builds().List(e.ctx(), f) }).Items, func(b *domain.Build) domain.ID { return b.ID })
	}
	same(e, "newest first", list(storage.BuildFilter{}), []domain.ID{failed.ID, b.ID})
	same(e, "by state", list(storage.BuildFilter{States: []domain.BuildState{domain.BuildReady}}), []domain.ID{b.ID})
}

func buildsInUse(e *env) {
	p := e.project("p")
	tpl := e.template(p, "base")
	b := e.build(tpl, nil)
	tpl.Tags = map[string]domain.ID{"latest": b.ID}
	e.update(func(tx storage.Tx) error { return tx.Templates().Update(e.ctx(), tpl) })
	used := func() bool {
		return read(e, func(tx storage.Tx) (bool, error) { return tx.Builds().InUse(e.ctx(), b.ID) })
	}
	remove := func(tx storage.Tx) error { return tx.Builds().Delete(e.ctx(), p, b.ID) }
	held := func(by string) {
		e.Helper()
		if !used() {
			e.Errorf("not in use though %s uses it", by)
		}
		e.refused(errors.Conflict, remove)
	}
	if used() {
		e.Error("a tag alone is no use")
	}
	vm := e.vm(p, func(vm *domain.VM) { vm.Spec.BuildID = b.ID })
	held("a VM")
	e.save(vm, func(vm *domain.VM) {
		vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, ptr(e.now)
	})
	snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: p, VMID: vm.ID, BuildID: b.ID, CreatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), snap) })
	held("a snapshot")
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, snap.ID) })
	m := e.machine(domain.NewID(), func(m *domain.Machine) { m.BuildID = b.ID })
	held("a machine")
	e.update(func(tx storage.Tx) error { return tx.Machines().Delete(e.ctx(), m.ID) })
	if used() {
		e.Error("in use though nothing uses it")
	}
	e.update(func(tx storage.Tx) error { return tx.Builds().Copied(e.ctx(), b, "w") })
	e.update(remove)
	e.refused(errors.NotFound, remove)
	if left := read(e, func(tx storage.Tx) ([]domain.ID, error) { return tx.Builds().Copies(e.ctx(), b) }); len(left) > 0 {
		e.Errorf("copies of a deleted build: %v", left)
	}
	got := read(e, func(tx storage.Tx) (*domain.Template, error) { return tx.Templates().Get(e.ctx(), p, tpl.ID) })
	if len(got.Tags) != 0 {
		e.Errorf("tags on a deleted build: %v", got.Tags)
	}
}

func snapshots(e *env) {
	p, q := e.project("p"), e.project("q")
	vm := e.vm(p, nil)
	s := &domain.Snapshot{
		ID: domain.NewID(), ProjectID: p, VMID: vm.ID, Name: "s", BuildID: domain.NewID(), Driver: "oci", DriverVersion: "1", Kind: domain.SnapshotDisk,
		Spec: vm.Spec, EnvSealed: []byte{9}, WorkerID: domain.NewID(), State: domain.BuildWaiting, CreatedAt: e.tick(),
	}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), s) })
	byName := func(project domain.ID) func(tx storage.Tx) (*domain.Snapshot, error) {
		return func(tx storage.Tx) (*domain.Snapshot, error) { return tx.Snapshots().ByName(e.ctx(), project, s.Name) }
	}
	same(e, "stored", read(e, byName(p)), s)
	if c := code(e, byName(q)); c != errors.NotFound {
		e.Errorf("another project's snapshot: %s", c)
	}
	stale := *s
	s.State, s.Bytes, s.Name, s.DriverVersion = domain.BuildReady, 5, "t", "2"
	s.Packed = &domain.Packed{Store: "file:///s", Digest: "sha256:1", Bytes: 3}
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Update(e.ctx(), s) })
	same(e, "updated", read(e, byName(p)), s)
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Snapshots().Update(e.ctx(), &stale) })
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		twin := *s
		twin.ID = domain.NewID()
		return tx.Snapshots().Insert(e.ctx(), &twin)
	})
	nameless := *s
	nameless.ID, nameless.Name, nameless.CreatedAt, nameless.Packed = domain.NewID(), "", e.tick(), nil
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Insert(e.ctx(), &nameless) })
	list := func(f storage.SnapshotFilter) []domain.ID {
		return ids(read(e, func(tx storage.Tx) (storage.List[*domain.Snapshot], error) { return tx.Snapshots().List(e.ctx(), f) }).Items,
			func(s *domain.Snapshot) domain.ID { return s.ID })
	}
	both := []domain.ID{nameless.ID, s.ID}
	same(e, "of the project", list(storage.SnapshotFilter{ProjectID: p}), both)
	same(e, "of the VM", list(storage.SnapshotFilter{ProjectID: p, VMID: vm.ID}), both)
	same(e, "on the worker", list(storage.SnapshotFilter{WorkerID: s.WorkerID, States: []domain.BuildState{domain.BuildReady}}), both)
	same(e, "nowhere else", list(storage.SnapshotFilter{WorkerID: s.WorkerID, Unpacked: true}), []domain.ID{nameless.ID})
	copies := func() []domain.ID {
		return read(e, func(tx storage.Tx) ([]domain.ID, error) { return tx.Snapshots().Copies(e.ctx(), s) })
	}
	same(e, "no copies", len(copies()), 0)
	for _, w := range []domain.ID{"w2", "w1", "w2"} {
		e.update(func(tx storage.Tx) error { return tx.Snapshots().Copied(e.ctx(), s, w) })
	}
	same(e, "copies", copies(), []domain.ID{"w1", "w2"})
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Snapshots().Copied(e.ctx(), &domain.Snapshot{ID: domain.NewID(), ProjectID: p}, "w1")
	})

	fork := e.vm(p, func(vm *domain.VM) { vm.Spec.SnapshotID = s.ID })
	e.refused(errors.Conflict, func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, s.ID) })
	e.save(fork, func(vm *domain.VM) { vm.Observed = domain.Running })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), q, s.ID) })
	e.update(func(tx storage.Tx) error { return tx.Snapshots().Delete(e.ctx(), p, s.ID) })
	same(e, "copies of a deleted one", len(copies()), 0)
	if c := code(e, func(tx storage.Tx) (storage.Named, error) { return tx.Names().Resolve(e.ctx(), p, "t") }); c != errors.NotFound {
		e.Errorf("the name of a deleted snapshot: %s", c)
	}
}
