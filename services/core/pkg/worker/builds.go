package worker

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// builds is the template builds under way, with their logs.
type builds struct {
	mu      sync.Mutex
	running map[domain.ID]*buildRun     // by task
	held    map[domain.ID]int           // builds that other builds are made of, now
	logins  map[domain.ID]heldLogin     // by task
	grown   watch.Hub[domain.ID]        // woken when a build's log has grown or ended
	ready   map[domain.ID]*domain.Build // of VMs that were started lately; never changed
}

// heldLogin is what a task was given to show to a registry, and when.
type heldLogin struct {
	vmm.RegistryLogin
	since time.Time
}

// loginWait is how long the row of a task may take to be there whose login came first.
const loginWait = 10 * time.Minute

// maxReady is how many builds are remembered.
const maxReady = 64

// remembered gives a build that was ready, without what it was made from.
func (b *builds) remembered(id domain.ID) *domain.Build {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ready[id]
}

// remember takes note of a build that is ready: its row never changes.
func (b *builds) remember(build *domain.Build) {
	own := *build
	own.Source = domain.TemplateSource{}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready == nil {
		b.ready = make(map[domain.ID]*domain.Build)
	}
	for id := range b.ready { // any of them: it is read again when it is needed
		if len(b.ready) < maxReady {
			break
		}
		delete(b.ready, id)
	}
	b.ready[own.ID] = &own
}

// forget is for a build that is no more.
func (b *builds) forget(id domain.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.ready, id)
}

type buildRun struct {
	build  domain.ID
	log    *os.File
	cancel context.CancelFunc
}

// maxBuildLog bounds a build's log; what a build writes past it is dropped.
const maxBuildLog = 16 << 20

func (w *Worker) buildLogFile(id domain.ID) string {
	return filepath.Join(w.config.DataDir, "build-logs", string(id)+".log")
}

// begin opens the log, anew for each attempt, and makes the build cancellable by its task.
func (b *builds) begin(ctx context.Context, file string, task, build domain.ID) (context.Context, func(), error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, nil, errors.Wrap(err, errors.Internal, "the build's log cannot be made")
	}
	log, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, errors.Wrap(err, errors.Internal, "the build's log cannot be made")
	}
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running == nil {
		b.running = make(map[domain.ID]*buildRun)
	}
	b.running[task] = &buildRun{build, log, cancel}
	return ctx, func() {
		cancel()
		b.mu.Lock()
		delete(b.running, task)
		b.mu.Unlock()
		_ = log.Close()
		b.grown.Notify(build)
	}, nil
}

func (b *builds) cancel(task domain.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.running[task]; r != nil {
		r.cancel()
	}
}

// login gives what a task was given to show to a registry.
func (b *builds) login(task domain.ID) (vmm.RegistryLogin, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.logins[task]
	return l.RegistryLogin, ok
}

func (b *builds) forgetLogin(task domain.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.logins, task)
}

// KeepLogin implements service.Node.
func (w *Worker) KeepLogin(_ context.Context, task domain.ID, login vmm.RegistryLogin) error {
	b := &w.builds
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.logins == nil {
		b.logins = make(map[domain.ID]heldLogin)
	}
	b.logins[task] = heldLogin{login, w.Now()}
	return nil
}

// sweepLogins forgets those of tasks that were never written down: who was to do so
// has died.
func (w *Worker) sweepLogins(ctx context.Context) error {
	b := &w.builds
	var old []domain.ID
	b.mu.Lock()
	for task, login := range b.logins {
		if w.Now().Sub(login.since) >= loginWait {
			old = append(old, task)
		}
	}
	b.mu.Unlock()
	for _, task := range old {
		err := w.Store.View(ctx, func(tx storage.Tx) error {
			_, err := tx.Tasks().Get(ctx, storage.System, task)
			return err
		})
		switch {
		case errors.HasCode(err, errors.NotFound):
			b.forgetLogin(task)
		case err != nil:
			return err
		}
	}
	return nil
}

// hold counts by how many builds under way another build is needed.
func (b *builds) hold(build domain.ID, more int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		b.held = make(map[domain.ID]int)
	}
	if b.held[build] += more; b.held[build] <= 0 {
		delete(b.held, build)
	}
}

func (b *builds) needed(build domain.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held[build] > 0
}

func (b *builds) underway(build domain.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.running {
		if r.build == build {
			return true
		}
	}
	return false
}

// say appends a line to a build's log.
func (b *builds) say(build domain.ID, line string) {
	b.mu.Lock()
	for _, r := range b.running {
		if r.build != build {
			continue
		}
		if at, err := r.log.Seek(0, io.SeekCurrent); err == nil && at < maxBuildLog {
			_, _ = fmt.Fprintln(r.log, line) // a log that cannot grow must not fail the build
		}
	}
	b.mu.Unlock()
	b.grown.Notify(build)
}

// makeRootFS builds what the build's row describes.
func (w *Worker) makeRootFS(ctx context.Context, task domain.ID, b *domain.Build, args service.BuildArgs) (image.Result, error) {
	progress := func(l image.Line) { w.builds.say(b.ID, l.Step+": "+l.Text) }
	var r image.Result
	src, err := w.found(b)
	switch {
	case err != nil:
	case args.Base:
		r, err = w.Images.BuildBase(ctx, string(b.ID), progress)
	case b.Source.Steps != "":
		r, err = w.buildSteps(ctx, task, b, src.Context, args, progress)
	default:
		r, err = w.Images.Build(ctx, string(b.ID), src, progress)
	}
	if err != nil {
		w.builds.say(b.ID, "error: "+errors.Public(err).Message)
		return r, err
	}
	w.builds.say(b.ID, fmt.Sprintf("ready: %d bytes, %s", r.Bytes, r.Digest))
	return r, nil
}

// BuildLog implements service.Node.
func (w *Worker) BuildLog(ctx context.Context, build domain.ID, from int64, follow bool) (io.ReadCloser, error) {
	f, err := os.Open(w.buildLogFile(build))
	if os.IsNotExist(err) && !follow {
		return nil, errors.New(errors.NotFound, "the build has no log yet")
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, errors.Wrap(err, errors.Internal, "the build's log cannot be read")
	}
	return &buildLog{w: w, ctx: ctx, build: build, f: f, offset: from, follow: follow, sub: w.builds.grown.Subscribe(build)}, nil
}

// buildLog reads a log that may still grow.
type buildLog struct {
	w      *Worker
	ctx    context.Context
	build  domain.ID
	f      *os.File // nil until the build has begun
	offset int64
	follow bool
	sub    *watch.Subscription[domain.ID]
	ended  func() bool // of what is no build; nil: the build's row says it
}

func (l *buildLog) Read(p []byte) (int, error) {
	for {
		changed := l.sub.Changed()
		over := !l.follow || l.over()
		if l.f == nil {
			l.f, _ = os.Open(l.w.buildLogFile(l.build))
		}
		if l.f != nil {
			n, err := l.f.ReadAt(p, l.offset)
			l.offset += int64(n)
			if n > 0 {
				return n, nil
			}
			if err != io.EOF {
				return 0, err
			}
		}
		if over {
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
			return 0, l.ctx.Err()
		}
	}
}

// over reports whether nothing more will come.
func (l *buildLog) over() bool {
	if l.w.builds.underway(l.build) {
		return false
	}
	if l.ended != nil {
		return l.ended()
	}
	b, err := l.w.loadBuild(l.ctx, l.build)
	return err != nil || b.State == domain.BuildReady || b.State == domain.BuildError
}

// Close implements io.Closer.
func (l *buildLog) Close() error {
	l.sub.Done()
	if l.f != nil {
		return l.f.Close()
	}
	return nil
}

// deleteBuild removes a build's row, files and log. Returns Conflict while
// something uses it.
func (w *Worker) deleteBuild(ctx context.Context, id domain.ID) error {
	b, err := w.loadBuild(ctx, id)
	if errors.HasCode(err, errors.NotFound) {
		return w.Images.Delete(ctx, string(id))
	}
	if err != nil {
		return err
	}
	if err := w.dropBuild(ctx, b); err != nil {
		return err
	}
	w.builds.forget(id)
	w.dropPacked(ctx, "build", b.ID, b.Packed())
	if err := w.dropMemory(ctx, b); err != nil {
		w.Log.Warn("a build's memory not removed; the next start does", "build", id, "error", err)
	}
	if err := os.Remove(w.buildLogFile(id)); err != nil && !os.IsNotExist(err) {
		w.Log.Warn("build log not removed", "build", id, "error", err)
	}
	return w.Images.Delete(ctx, string(id))
}
