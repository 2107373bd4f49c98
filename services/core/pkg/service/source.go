package service

import (
	"context"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Foresee says what VM a request would make, and makes none: what it would be
// made from, with which resources, on which worker. Returns what CreateVM does.
func (s *Service) Foresee(ctx context.Context, by vmm.Caller, req vmm.CreateVM) (*domain.VM, error) {
	asked := askedOf(req)
	if err := s.checkCreate(&req); err != nil {
		return nil, err
	}
	vm, err := s.newVM(ctx, by, domain.NewID(), req)
	if err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx storage.Tx) error {
		build, err := s.resolveSource(ctx, tx, by, req, vm, asked, "")
		if err != nil {
			return err
		}
		if err := s.place(ctx, tx, vm, build); err != nil {
			return err
		}
		return s.warm(ctx, tx, req, vm, build)
	})
	return vm, err
}

// asked is what a caller named of what has a default, which hides it.
type asked struct {
	driver  string
	network domain.NetworkMode
}

func askedOf(req vmm.CreateVM) asked { return asked{req.Driver, req.Network} }

// sameDriver refuses a driver for what is made from a VM's disk, which is one of
// the driver origin. Returns Unsupported.
func sameDriver(asked, origin string) error {
	if asked == "" || asked == domain.DriverAuto || asked == origin {
		return nil
	}
	return errors.New(errors.Unsupported, "what it is made from is of the driver %s, and so will it be", origin).WithField("driver").
		WithHint("leave the driver out")
}

// resolveSource finds what vm is made from (a template's build, a build, or a
// snapshot, by name or ID) and fills in what follows from it. asked is what the
// caller named. foreseen is the build that it was a moment ago,
// if any: the one if it is still there. It returns the build; nil: vm is made
// from a snapshot.
func (s *Service) resolveSource(ctx context.Context, tx storage.Tx, by vmm.Caller, req vmm.CreateVM, vm *domain.VM, asked asked, foreseen domain.ID) (*domain.Build, error) {
	build, err := s.stillReady(ctx, tx, by, foreseen)
	if err != nil {
		return nil, err
	}
	if build == nil {
		var snapshot domain.ID
		if build, snapshot, err = s.find(ctx, tx, by, req.Template); err != nil {
			return nil, err
		}
		if build == nil {
			snap, err := tx.Snapshots().Get(ctx, by.ProjectID, snapshot)
			if err != nil {
				return nil, err
			}
			return nil, s.fromSnapshot(ctx, tx, req, vm, snap, asked)
		}
	}
	if vm.Spec.Tools, err = domain.MergeTools("tools", s.config.DefaultTools, req.Tools); err != nil {
		return nil, err
	}
	if err := s.giveEgress(ctx, tx, req, vm, domain.VMSpec{}); err != nil {
		return nil, err
	}
	if err := s.giveMounts(ctx, tx, req.Mounts, nil, vm); err != nil {
		return nil, err
	}
	return build, s.fromBuild(req, vm, build)
}

// find gives what a template's reference names: a build that is ready, or the ID
// of a snapshot. Returns NotFound, Conflict, InvalidArgument.
func (s *Service) find(ctx context.Context, tx storage.Tx, by vmm.Caller, ref string) (build *domain.Build, snapshot domain.ID, err error) {
	name, tag, tagged := strings.Cut(ref, ":")
	named, err := s.findSource(ctx, tx, by, name)
	switch {
	case err != nil:
		return nil, "", err
	case named.Kind != storage.KindSnapshot:
		build, err = s.findBuild(ctx, tx, by, named, tag, tagged)
		return build, "", err
	case tagged:
		return nil, "", errors.New(errors.InvalidArgument, "a snapshot has no tags").WithField("template")
	}
	return nil, named.ID, nil
}

// foresee finds the build that a request would make a VM from, before the turn
// that makes it, which all others wait for. Empty: it makes it from no build, or
// the turn is to find out why it cannot.
func (s *Service) foresee(ctx context.Context, by vmm.Caller, req vmm.CreateVM) (id domain.ID, err error) {
	name, tag, tagged := strings.Cut(req.Template, ":")
	if !tagged {
		tag = domain.DefaultTag
	}
	if domain.IsID(name) {
		err = s.store.View(ctx, func(tx storage.Tx) error {
			build, _, err := s.find(ctx, tx, by, req.Template)
			if build != nil {
				id = build.ID
			}
			return err
		})
	} else { // by one statement, which needs no transaction
		err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
			id, err = tx.Builds().Named(ctx, by.ProjectID, name, tag)
			return err
		})
	}
	switch errors.CodeOf(err) {
	case errors.NotFound, errors.Conflict, errors.InvalidArgument:
		return "", nil
	}
	return id, err
}

// stillReady gives a build that was found before; nil: it is not to be had any more.
func (s *Service) stillReady(ctx context.Context, tx storage.Tx, by vmm.Caller, id domain.ID) (*domain.Build, error) {
	if id == "" {
		return nil, nil
	}
	build, err := tx.Builds().Get(ctx, by.ProjectID, id)
	if errors.HasCode(err, errors.NotFound) || err == nil && build.State != domain.BuildReady {
		return nil, nil
	}
	return build, err
}

// kindBuild marks a reference straight to a build.
const kindBuild storage.Kind = "build"

func (s *Service) findSource(ctx context.Context, tx storage.Tx, by vmm.Caller, ref string) (storage.Named, error) {
	if !domain.IsID(ref) {
		named, err := tx.Names().Resolve(ctx, by.ProjectID, ref)
		if errors.HasCode(err, errors.NotFound) {
			return named, errors.New(errors.NotFound, "there is no template or snapshot %q", ref).WithField("template").
				WithHint("`aetherium template ls` lists templates; `make up` makes base")
		}
		return named, err
	}
	id := domain.ID(ref)
	if _, err := tx.Templates().Get(ctx, by.ProjectID, id); !errors.HasCode(err, errors.NotFound) {
		return storage.Named{Kind: storage.KindTemplate, ID: id}, err
	}
	if snap, err := tx.Snapshots().Get(ctx, by.ProjectID, id); !errors.HasCode(err, errors.NotFound) && (err != nil || !snap.DiskOfVM) {
		return storage.Named{Kind: storage.KindSnapshot, ID: id}, err
	}
	if _, err := tx.Builds().Get(ctx, by.ProjectID, id); !errors.HasCode(err, errors.NotFound) {
		return storage.Named{Kind: kindBuild, ID: id}, err
	}
	return storage.Named{}, errors.New(errors.NotFound, "there is no template, build or snapshot %q", ref).WithField("template")
}

func (s *Service) findBuild(ctx context.Context, tx storage.Tx, by vmm.Caller, named storage.Named, tag string, tagged bool) (*domain.Build, error) {
	id := named.ID
	if named.Kind == storage.KindTemplate {
		tmpl, err := tx.Templates().Get(ctx, by.ProjectID, named.ID)
		if err != nil {
			return nil, err
		}
		if !tagged {
			tag = domain.DefaultTag
		}
		var ok bool
		if id, ok = tmpl.Tags[tag]; !ok {
			return nil, errors.New(errors.NotFound, "the template %q has no build tagged %q", tmpl.Name, tag).WithField("template").
				WithHint("`aetherium template ls` shows its tags; a first build may still be under way")
		}
	}
	build, err := tx.Builds().Get(ctx, by.ProjectID, id)
	if err != nil {
		return nil, err
	}
	if build.State != domain.BuildReady {
		return nil, errors.New(errors.Conflict, "the build is %s", build.State).WithField("template")
	}
	return build, nil
}

func (s *Service) fromBuild(req vmm.CreateVM, vm *domain.VM, build *domain.Build) error {
	// Others can get its files, and its memory is where it was built.
	if bound := build.Packed() == nil || req.Memory != nil && *req.Memory; bound {
		if vm.WorkerID != "" && vm.WorkerID != build.WorkerID {
			return errors.New(errors.Conflict, "the template and a volume are on different workers").WithField("template").
				WithHint("build the template again, or make the volume anew")
		}
		vm.WorkerID = build.WorkerID
	}
	vm.Spec.TemplateID, vm.Spec.BuildID = build.TemplateID, build.ID
	vm.Spec.Resources = vm.Spec.Resources.Or(build.Shape).Or(s.config.Defaults)
	if vm.Spec.DefaultUser == "" {
		vm.Spec.DefaultUser = build.DefaultUser
	}
	return vm.Spec.Resources.Validate("resources")
}

// fromSnapshot makes vm continue a frozen disk: same build below, same user,
// same resources unless asked otherwise. The disk never shrinks. With its memory
// it continues as it was, and nothing of its shape can be otherwise.
func (s *Service) fromSnapshot(ctx context.Context, tx storage.Tx, req vmm.CreateVM, vm *domain.VM, snap *domain.Snapshot, asked asked) error {
	if snap.State != domain.BuildReady {
		return errors.New(errors.Conflict, "the snapshot is %s", snap.State).WithField("template")
	}
	if err := sameDriver(asked.driver, snap.Driver); err != nil {
		return err
	}
	origin := snap.Spec
	vm.Spec.TemplateID, vm.Spec.BuildID, vm.Spec.SnapshotID = origin.TemplateID, snap.BuildID, snap.ID
	vm.Spec.Driver, vm.Spec.Platform = snap.Driver, origin.Platform
	var err error
	if vm.Spec.Memory, err = fromMemory(ctx, tx, req, snap, asked.network); err != nil {
		return err
	}
	if vm.Spec.Memory {
		vm.Spec.Network = origin.Network
	}
	vm.Spec.Resources = vm.Spec.Resources.Or(origin.Resources)
	if vm.Spec.Resources.DiskBytes < origin.Resources.DiskBytes {
		return errors.New(errors.InvalidArgument, "the disk would be smaller than the snapshot's").
			WithField("resources.disk_bytes").WithHint("at least %d bytes", origin.Resources.DiskBytes)
	}
	if vm.Spec.DefaultUser == "" {
		vm.Spec.DefaultUser = origin.DefaultUser
	}
	if vm.Spec.Tools, err = domain.MergeTools("tools", origin.Tools, req.Tools); err != nil {
		return err
	}
	if vm.Spec.Memory {
		vm.Spec.Tools = slices.Clone(origin.Tools) // in the order in which its devices are
	}
	if err := s.giveEgress(ctx, tx, req, vm, origin); err != nil {
		return err
	}
	if vm.Spec.Memory || snap.Packed == nil { // others can get its disk, and its memory is where it was taken
		vm.WorkerID = snap.WorkerID
	}
	if err := s.giveMounts(ctx, tx, req.Mounts, origin.Mounts, vm); err != nil {
		return err
	}
	if err := s.givePrivate(ctx, req, snap, vm); err != nil {
		return err
	}
	return vm.Spec.Resources.Validate("resources")
}

// givePrivate gives a new VM what its snapshot has encrypted, but for what it
// is given itself.
func (s *Service) givePrivate(ctx context.Context, req vmm.CreateVM, snap *domain.Snapshot, vm *domain.VM) error {
	if len(req.Env) > 0 && req.Egress != nil || len(snap.EnvSealed) == 0 {
		return nil
	}
	p, err := openPrivate(ctx, s.sealer, storage.SealedSnapshotEnv(snap.ID), snap.EnvSealed)
	if err != nil {
		return err
	}
	if len(req.Env) > 0 {
		p.Env = req.Env
	}
	switch {
	case req.Egress != nil:
		p.Rules, p.Proxy = req.Egress.Rules, req.Egress.Proxy
	case vm.Spec.Network == domain.NetworkNone:
		p.Rules, p.Proxy = nil, nil
	}
	vm.EnvSealed, err = p.seal(ctx, s.sealer, storage.SealedVMEnv(vm.ID))
	return err
}

// warm has a VM that was placed go on from its build's memory where that fits.
// Returns Unsupported where it is asked for and does not.
func (s *Service) warm(ctx context.Context, tx storage.Tx, req vmm.CreateVM, vm *domain.VM, build *domain.Build) error {
	if build == nil || req.Memory != nil && !*req.Memory || req.Memory == nil && build.Memory() == nil {
		return nil
	}
	w, err := tx.Workers().Get(ctx, vm.WorkerID)
	if err != nil {
		return err
	}
	why := FitsMemory(build, infoOf(w, vm.Spec.Driver), domain.Shape{Resources: vm.Spec.Resources, Network: vm.Spec.Network})
	if why == nil && build.WorkerID != "" && vm.WorkerID != build.WorkerID {
		why = noMemory("the template's memory is on another worker")
	}
	if why == nil && len(vm.Spec.Tools) > 0 {
		why = noMemory("the template's memory is one of a VM without tools")
	}
	if why == nil && len(vm.Spec.Mounts) > 0 {
		why = noMemory("the template's memory is one of a VM without volumes")
	}
	vm.Spec.Memory = why == nil
	if req.Memory == nil {
		return nil
	}
	return why
}
