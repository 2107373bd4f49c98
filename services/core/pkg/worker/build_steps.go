package worker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/image/buildctx"
	stepfile "github.com/aetherium/aetherium/services/core/pkg/image/steps"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/stepbuild"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// maxStepBuilds is how many builds by steps go on at once: their machines
	// are not among the VMs that the node's room is given to.
	maxStepBuilds = 2
	// maxStepBuildTime bounds one build by steps.
	maxStepBuildTime = time.Hour
	// maxPulledAge is how long an image that steps began with is kept unused.
	maxPulledAge = 14 * 24 * time.Hour
)

// stepImages is what builds by steps need of the images beside Images.
type stepImages interface {
	Images
	Derive(ctx context.Context, id string, src domain.TemplateSource, d image.Derived, progress image.Progress) (image.Result, error)
	Pull(ctx context.Context, reference string, how image.Access, progress image.Progress) (image.Result, error)
	Scratch(ctx context.Context, progress image.Progress) (image.Result, error)
	Pulled(ctx context.Context) ([]image.Result, error)
}

// stepNode is one build by steps on this worker. It implements stepbuild.Node.
type stepNode struct {
	w        *Worker
	task     domain.ID
	build    *domain.Build
	args     service.BuildArgs
	images   stepImages
	driver   buildDriver
	name     string // of the driver
	journals *journal.Store
	base     image.Result
	// snapshots are those of the layers that this build made or found: another
	// build may make a layer anew meanwhile.
	snapshots map[stepfile.Layer]string
	release   []func()
}

// buildWorkDir holds what builds by steps need while they go on. It is emptied
// when a worker starts.
func (w *Worker) buildWorkDir() string { return filepath.Join(w.config.DataDir, "build-work") }

// recoverBuilds removes what builds by steps left that a crash cut short; the
// tasks are taken up again and go on from the layers that were kept.
func (w *Worker) recoverBuilds() {
	if err := os.RemoveAll(w.buildWorkDir()); err != nil {
		w.Log.Warn("what builds left cannot be removed", "error", err)
	}
}

// buildSteps carries out the steps of a build's source, which copy from the archive or
// directory files, and keeps what comes of it as the build's root filesystem.
func (w *Worker) buildSteps(ctx context.Context, task domain.ID, b *domain.Build, files string, args service.BuildArgs, progress image.Progress) (_ image.Result, err error) {
	file, err := stepfile.Parse(b.Source.Steps)
	if err != nil {
		return image.Result{}, err
	}
	images, ok := w.Images.(stepImages)
	if !ok {
		return image.Result{}, errors.New(errors.Unsupported, "this worker's images cannot be built by steps")
	}
	d, err := w.driver(args.Driver)
	if err != nil {
		return image.Result{}, err
	}
	driver, ok := d.(buildDriver)
	if !ok {
		return image.Result{}, errors.New(errors.Unsupported, "the driver %s cannot build by steps", args.Driver)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxStepBuildTime, errStepTime)
	defer cancel()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errStepTime) {
			err = errors.Wrap(err, errors.DeadlineExceeded, "the build took longer than %s: %s", maxStepBuildTime, errors.Public(err).Message)
		}
	}()
	if err := w.stepSlots.take(ctx); err != nil {
		return image.Result{}, err
	}
	defer w.stepSlots.put()
	n := &stepNode{w: w, task: task, build: b, args: args, images: images, driver: driver, name: args.Driver, snapshots: map[stepfile.Layer]string{}}
	defer n.close()
	if err := n.open(); err != nil {
		return image.Result{}, err
	}
	say := func(step, text string) { progress(image.Line{Time: time.Now().UTC(), Step: step, Text: text}) }
	req := stepbuild.Request{File: file, Scope: string(b.ProjectID) + "/" + args.Driver, NoCache: args.NoCache, Say: say}
	if files != "" && file.NeedsContext() {
		if req.Context, err = buildctx.Open(ctx, files, buildctx.Limits{}); err != nil {
			return image.Result{}, err
		}
	}
	out, err := stepbuild.Run(ctx, n, req)
	if err != nil {
		return image.Result{}, err
	}
	return n.publish(ctx, out, progress)
}

var errStepTime = errors.Plain("the time of a build by steps is up")

// slots bounds how many do something at once.
type slots chan struct{}

func (s slots) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s slots) put() { <-s }

func (n *stepNode) open() error {
	endUse := n.w.layers.use()
	n.release = append(n.release, func() {
		endUse(func(list []layerNote) { n.w.dropLayers(context.Background(), list) })
	})
	dir := filepath.Join(n.w.buildWorkDir(), string(n.build.ID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errors.Wrap(err, errors.Internal, "the build cannot be begun")
	}
	n.release = append(n.release, func() { _ = os.RemoveAll(dir) })
	journals, err := journal.OpenStore(filepath.Join(dir, "output"), journal.Options{})
	if err != nil {
		return err
	}
	n.journals = journals
	n.release = append(n.release, func() { _ = journals.Close() })
	return nil
}

func (n *stepNode) close() {
	for i := len(n.release) - 1; i >= 0; i-- {
		n.release[i]()
	}
}

// Base implements stepbuild.Node: a template's name wins over an image's.
func (n *stepNode) Base(ctx context.Context, from string, say stepbuild.Say) (stepbuild.Base, error) {
	progress := func(l image.Line) {
		if l.Total == 0 { // no counts: they are for those who draw bars
			say(l.Step, l.Step+": "+l.Text)
		}
	}
	if from == "scratch" {
		r, err := n.images.Scratch(ctx, progress)
		return n.take(ctx, r, err)
	}
	build, err := n.template(ctx, from)
	switch {
	case err == nil:
		n.hold(build.ID)
		r, err := n.w.rootFS(ctx, build.ID)
		base, err := n.take(ctx, r, err)
		base.Env, base.WorkDir, base.User = build.Env, build.WorkDir, build.DefaultUser
		return base, err
	case !errors.HasCode(err, errors.NotFound):
		return stepbuild.Base{}, err
	case !image.IsReference(from):
		return stepbuild.Base{}, errors.New(errors.NotFound, "there is no template %q, and it is no image's reference (%s)", from, stepfile.CodeNoTemplate)
	}
	how := image.Access{Untrusted: n.build.Source.Untrusted}
	if n.args.Login {
		login, ok := n.w.builds.login(n.task)
		if !ok {
			return stepbuild.Base{}, errors.New(errors.Unavailable, "the registry's credentials went with the server's last run").WithHint("they are kept in memory alone: build again")
		}
		how.Username, how.Password = login.Username, login.Password
	}
	r, err := n.images.Pull(ctx, from, how, progress)
	if err != nil && !strings.ContainsAny(from, "/.") {
		public := errors.Public(err)
		return stepbuild.Base{}, errors.Wrap(err, public.Code, "there is no template %q, and as an image: %s (%s)", from, public.Message, stepfile.CodeNoTemplate).
			WithHint("`aetherium template ls` lists templates")
	}
	if err == nil {
		// When it was last used; see dropPulled.
		now := time.Now()
		_ = os.Chtimes(filepath.Dir(r.RootFS), now, now)
	}
	return n.take(ctx, r, err)
}

func (n *stepNode) take(_ context.Context, r image.Result, err error) (stepbuild.Base, error) {
	if err != nil {
		return stepbuild.Base{}, err
	}
	n.base = r
	return stepbuild.Base{BuildID: r.ID, Digest: r.Digest, Env: r.Env, WorkDir: r.WorkDir, User: r.User}, nil
}

// hold keeps a build from being deleted until the end.
func (n *stepNode) hold(id domain.ID) {
	n.w.builds.hold(id, 1)
	n.release = append(n.release, func() { n.w.builds.hold(id, -1) })
}

// template finds the build that a template's name, name:tag or ID means.
// Returns NotFound where there is no such template, Conflict where it has no
// such build.
func (n *stepNode) template(ctx context.Context, from string) (*domain.Build, error) {
	if err := domain.ValidateTemplateRef("", from); err != nil {
		return nil, errors.New(errors.NotFound, "%q is not a template's name", from)
	}
	var build *domain.Build
	err := n.w.Store.View(ctx, func(tx storage.Tx) error {
		project := n.build.ProjectID
		name, tag, tagged := strings.Cut(from, ":")
		if !tagged {
			tag = domain.DefaultTag
		}
		id, isID := domain.ID(name), domain.IsID(name)
		if !isID {
			named, err := tx.Names().Resolve(ctx, project, name)
			if err != nil {
				return err
			}
			if named.Kind != storage.KindTemplate {
				return errors.New(errors.InvalidArgument, "%q is a snapshot; steps begin with a template or an image (%s)", name, stepfile.CodeFrom)
			}
			id = named.ID
		}
		tmpl, err := tx.Templates().Get(ctx, project, id)
		if isID && errors.HasCode(err, errors.NotFound) {
			build, err = tx.Builds().Get(ctx, project, id)
			return err
		}
		if err != nil {
			return err
		}
		found, ok := tmpl.Tags[tag]
		if !ok {
			return errors.New(errors.Conflict, "the template %q has no build tagged %q (%s)", name, tag, stepfile.CodeNoTemplate).
				WithHint("for an image of that name write its registry: docker.io/library/%s", from)
		}
		build, err = tx.Builds().Get(ctx, project, found)
		return err
	})
	if err == nil && build.State != domain.BuildReady {
		return nil, errors.New(errors.Conflict, "the build of %s is %s", from, build.State)
	}
	return build, err
}

// HasLayer implements stepbuild.Node.
func (n *stepNode) HasLayer(_ context.Context, l stepfile.Layer) (bool, error) {
	note, ok := n.w.layers.get(l)
	if !ok || note.Driver != n.name {
		return false, nil
	}
	n.w.layers.touch(l)
	n.snapshots[l] = note.Snapshot
	return true, nil
}

// Boot implements stepbuild.Node.
func (n *stepNode) Boot(ctx context.Context, _ stepbuild.Base, l stepfile.Layer) (stepbuild.Machine, error) {
	m := &buildMachine{
		w: n.w, driver: n.driver, name: n.name, id: domain.NewID(), journals: n.journals,
		kept: func(l stepfile.Layer, snapshot string) { n.snapshots[l] = snapshot },
	}
	spec := vmm.Spec{
		RootFS: n.base.RootFS, BuildID: n.base.ID, Resources: n.build.Shape, Network: n.args.Network,
		Hostname: "build", Platform: n.w.config.Platform, DiskFrom: n.snapshots[l],
	}
	if err := m.open(ctx, spec); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// publish keeps the outcome as the build's root filesystem.
func (n *stepNode) publish(ctx context.Context, out stepbuild.Outcome, progress image.Progress) (image.Result, error) {
	id := string(n.build.ID)
	d := image.Derived{Base: n.base.ID, Env: out.Env, WorkDir: out.WorkDir, User: out.User}
	if out.Layer == "" {
		return n.images.Derive(ctx, id, n.build.Source, d, progress)
	}
	snapshot := n.snapshots[out.Layer]
	note, ok := n.w.layers.get(out.Layer)
	if ok && note.Snapshot == snapshot && note.Build != "" && note.Build != id {
		n.hold(domain.ID(note.Build))
		same := d
		same.Base = note.Build
		r, err := n.images.Derive(ctx, id, n.build.Source, same, progress)
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		n.w.Log.Debug("not derived from an equal build", "build", note.Build, "error", err)
	}
	var r image.Result
	err := n.driver.Flatten(ctx, snapshot, n.base.RootFS, func(f vmm.Flat) (err error) {
		d.Tree = &image.Tree{Dir: f.Dir, Upper: f.Upper, ID: f.ID}
		r, err = n.images.Derive(ctx, id, n.build.Source, d, progress)
		return err
	})
	if err != nil {
		return r, err
	}
	if err := n.w.layers.built(out.Layer, snapshot, id); err != nil {
		n.w.Log.Warn("layer's build not noted", "layer", out.Layer, "error", err)
	}
	return r, nil
}

// dropPulled removes images that no steps began with for long.
func (w *Worker) dropPulled(ctx context.Context) error {
	images, ok := w.Images.(stepImages)
	if !ok {
		return nil
	}
	list, err := images.Pulled(ctx)
	if err != nil {
		return err
	}
	w.layers.mu.Lock()
	defer w.layers.mu.Unlock()
	if w.layers.users > 0 {
		return nil // a build may begin with one
	}
	for _, r := range list {
		info, serr := os.Stat(filepath.Dir(r.RootFS))
		if serr == nil && time.Since(info.ModTime()) > maxPulledAge {
			err = errors.Join(err, images.Delete(ctx, r.ID))
		}
	}
	return err
}

// sweepLayers removes layers and images of steps that were not used for long.
func (w *Worker) sweepLayers(ctx context.Context) error {
	w.layers.use()(func(list []layerNote) { w.dropLayers(ctx, list) })
	return w.dropPulled(ctx)
}
