package tools

import (
	"context"
	"log/slog"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/untar"
)

// Config is how tools are had. Zero fields have defaults.
type Config struct {
	Dir      string // where they are kept; made if absent
	Platform string // such as linux/amd64
	// Boot makes a machine with a file of the host, mise, mounted at MachineMise.
	Boot func(ctx context.Context, mise string) (Machine, error)
	// Mise is a version of npm's package @jdxcode/mise, or the absolute path of
	// the program on this host; default DefaultMise.
	Mise     string
	Registry string            // of npm packages; default DefaultRegistry
	CAFile   string            // certificates that the host and the machines trust; empty: their own
	Env      map[string]string // of mise and what it runs, in the machines
	// Timeout bounds one installation; default 15 minutes.
	Timeout time.Duration
	// Remember is how long a version that was found for a beginning of one
	// counts before a newer one is looked for; default a day.
	Remember time.Duration
	Limits   untar.Limits // of one tool; default 4 GiB, 500 000 files
	AtOnce   int          // installations; default 2
	Log      *slog.Logger
	Now      func() time.Time
}

func (c Config) withDefaults() Config {
	if c.Mise == "" {
		c.Mise = DefaultMise
	}
	if c.Registry == "" {
		c.Registry = DefaultRegistry
	}
	c.Registry = strings.TrimRight(c.Registry, "/")
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Minute
	}
	if c.Remember <= 0 {
		c.Remember = 24 * time.Hour
	}
	if c.Limits.Bytes <= 0 {
		c.Limits.Bytes = 4 << 30
	}
	if c.Limits.Entries <= 0 {
		c.Limits.Entries = 500_000
	}
	if c.AtOnce <= 0 {
		c.AtOnce = 2
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// refreshAfter is how long a failed look for a newer version is not repeated.
const refreshAfter = time.Hour

// Manager gives VMs their tools. It is safe for concurrent use.
type Manager struct {
	cfg   Config
	cache *cache
	slots chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	miseMu sync.Mutex // held while mise is fetched

	mu      sync.Mutex
	flights map[string]*flight       // by what is asked for
	exact   map[string]chan struct{} // by exact version: closed when its installation has ended
	looked  map[string]time.Time     // when a newer version was looked for last
}

// flight is one installation, for all who wait for it.
type flight struct {
	cancel context.CancelFunc
	done   chan struct{}
	tool   Tool
	err    error

	mu      sync.Mutex
	waiting int
	said    []string
	saying  map[int]func(string)
	next    int
}

// maxSaid is how many lines of an installation those get who join it.
const maxSaid = 1000

// New opens what is kept in the directory. What a crash left half done is removed.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg.withDefaults(), flights: map[string]*flight{}, exact: map[string]chan struct{}{}, looked: map[string]time.Time{}}
	if !filepath.IsAbs(m.cfg.Mise) && !miseVersionForm.MatchString(m.cfg.Mise) {
		return nil, errors.New(errors.InvalidArgument, "%q is neither a version of mise nor an absolute path", m.cfg.Mise).WithField("tools.mise")
	}
	var err error
	if m.cache, err = openCache(m.cfg.Dir, m.cfg.Platform, m.cfg.Now); err != nil {
		return nil, err
	}
	m.slots = make(chan struct{}, m.cfg.AtOnce)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Close ends the installations under way.
func (m *Manager) Close() {
	m.cancel()
	m.wg.Wait()
}

// Dir is the directory to be mounted at MachineDir.
func (m *Manager) Dir() string { return m.cache.dir }

// Profile is the file to be mounted at ProfileTarget.
func (m *Manager) Profile() string { return filepath.Join(m.cache.root, profileFile) }

// List returns what is installed, by name and version.
func (m *Manager) List() []Tool { return m.cache.list() }

// Get returns an installed tool by its exact version.
func (m *Manager) Get(exact domain.Tool) (Tool, bool) { return m.cache.get(exact) }

// Use notes that a tool is given to a VM.
func (m *Manager) Use(exact domain.Tool) { m.cache.use(exact) }

// Remove removes an installed tool. Returns NotFound. That no VM has it is the
// caller's care.
func (m *Manager) Remove(exact domain.Tool) error { return m.cache.remove(exact) }

// InTemplate reports whether a tool is never installed, because templates have it.
func (m *Manager) InTemplate(ref domain.Tool) bool { return len(backends(ref, m.cfg.Platform)) == 0 }

// Find returns the installed tool that is meant. One that was found long ago
// is returned all the same, and a newer one looked for beside the caller.
func (m *Manager) Find(ref domain.Tool) (Tool, bool) {
	t, stale, ok := m.cache.find(ref, m.cfg.Remember)
	if ok && stale {
		m.refresh(ref)
	}
	return t, ok
}

func (m *Manager) refresh(ref domain.Tool) {
	m.mu.Lock()
	now := m.cfg.Now()
	if m.ctx.Err() != nil || now.Sub(m.looked[ref.String()]) < refreshAfter {
		m.mu.Unlock()
		return
	}
	m.looked[ref.String()] = now
	m.wg.Go(func() {
		if _, err := m.join(m.ctx, ref, nil); err != nil && m.ctx.Err() == nil {
			m.cfg.Log.Warn("no newer version of a tool found", "tool", ref.String(), "error", err)
		}
	})
	m.mu.Unlock()
}

// Install returns the tool that is meant, installed. All who want the same at
// the same time share one installation; it ends when nobody wants it any more.
// say, which may be nil, is told line by line how it goes. Returns NotFound
// (no such tool or version), Unavailable, TooLarge, NoSpace, DeadlineExceeded.
func (m *Manager) Install(ctx context.Context, ref domain.Tool, say func(string)) (Tool, error) {
	if t, ok := m.Find(ref); ok {
		return t, nil
	}
	return m.join(ctx, ref, say)
}

// join waits for an installation, which it begins if there is none.
func (m *Manager) join(ctx context.Context, ref domain.Tool, say func(string)) (Tool, error) {
	key := ref.String()
	m.mu.Lock()
	f := m.flights[key]
	if f == nil {
		if m.ctx.Err() != nil {
			m.mu.Unlock()
			return Tool{}, errors.New(errors.Unavailable, "the worker is stopping")
		}
		var fctx context.Context
		f = &flight{done: make(chan struct{}), saying: map[int]func(string){}}
		fctx, f.cancel = context.WithCancel(m.ctx)
		m.flights[key] = f
		m.wg.Go(func() {
			f.tool, f.err = m.run(fctx, ref, f.say)
			f.cancel()
			m.leave(key, f)
			close(f.done)
		})
	}
	left := f.enter(say)
	m.mu.Unlock()
	select {
	case <-f.done:
		left()
		return f.tool, f.err
	case <-ctx.Done():
		m.mu.Lock()
		if left() == 0 { // who comes now begins anew
			f.cancel()
			if m.flights[key] == f {
				delete(m.flights, key)
			}
		}
		m.mu.Unlock()
		return Tool{}, ctx.Err()
	}
}

func (m *Manager) leave(key string, f *flight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flights[key] == f {
		delete(m.flights, key)
	}
}

// enter counts one more who waits, and tells what was said before. left takes
// that back and returns how many still wait.
func (f *flight) enter(say func(string)) (left func() int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting++
	id := f.next
	f.next++
	if say != nil {
		for _, line := range f.said {
			say(line)
		}
		f.saying[id] = say
	}
	return func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.waiting--
		delete(f.saying, id)
		return f.waiting
	}
}

func (f *flight) say(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.said) < maxSaid {
		f.said = append(f.said, line)
	}
	for _, say := range f.saying {
		say(line)
	}
}

var errTime = errors.Plain("the time of an installation is up")

// run installs a tool.
func (m *Manager) run(ctx context.Context, ref domain.Tool, say func(string)) (t Tool, err error) {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return t, ctx.Err()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.cfg.Timeout, errTime)
	defer cancel()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errTime) {
			err = wrap(err, errors.DeadlineExceeded, CodeTimeout, "the installation of %s took longer than %s", ref, m.cfg.Timeout).
				WithHint("see tools.timeout")
		}
	}()
	program, err := m.misePath(ctx, say)
	if err != nil {
		return t, err
	}
	machine, err := m.cfg.Boot(ctx, program)
	if err != nil {
		return t, err
	}
	defer machine.Close()
	i := &installation{m: m, machine: machine, ref: ref, say: say}
	if err := i.prepare(ctx); err != nil {
		return t, err
	}
	b, version, err := i.resolve(ctx)
	if err != nil {
		return t, err
	}
	t, err = m.once(ctx, domain.Tool{Name: ref.Name, Version: version}, func() (Tool, error) { return i.installAny(ctx, b, version) })
	if err == nil {
		err = m.cache.remember(ref, t.Version)
	}
	return t, err
}

// installAny installs by the backend that was found, or by one that comes
// after it: that one knows its versions does not mean that it can be reached.
func (i *installation) installAny(ctx context.Context, b backend, version string) (Tool, error) {
	var first error
	rest := backends(i.ref, i.m.cfg.Platform)
	for len(rest) > 0 && rest[0].name != b.name {
		rest = rest[1:]
	}
	for _, b := range rest {
		if err := i.recipe(ctx, b, version); err != nil {
			return Tool{}, err
		}
		t, err := i.install(ctx, b, version)
		if err == nil {
			return i.take(ctx, t)
		}
		if first == nil {
			first = err
		}
		if !errors.HasCode(err, errors.Unavailable) || ctx.Err() != nil {
			break
		}
	}
	return Tool{}, first
}

// once has one exact version installed by one at a time, whatever beginning of
// it was asked for: who comes second finds it there.
func (m *Manager) once(ctx context.Context, exact domain.Tool, do func() (Tool, error)) (Tool, error) {
	key := exact.String()
	for {
		m.mu.Lock()
		busy := m.exact[key]
		if busy == nil {
			mine := make(chan struct{})
			m.exact[key] = mine
			m.mu.Unlock()
			defer func() {
				m.mu.Lock()
				delete(m.exact, key)
				m.mu.Unlock()
				close(mine)
			}()
			if t, ok := m.cache.get(exact); ok {
				return t, nil
			}
			return do()
		}
		m.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return Tool{}, ctx.Err()
		}
	}
}

// Path is the part of PATH that leads to tools: the first tool's first.
func Path(list []Tool) string {
	var dirs []string
	for _, t := range list {
		for _, bin := range t.Bins {
			dirs = append(dirs, path.Join(MachineDir, t.Ref().Dir(), t.Version, bin))
		}
	}
	return strings.Join(dirs, ":")
}
