package tools

import (
	"cmp"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Tool is an installed version of a tool.
type Tool struct {
	Name        string            `json:"name"`
	Version     string            `json:"version"` // exact
	Backend     string            `json:"backend"` // what it was installed by
	Bins        []string          `json:"bins"`    // directories for PATH, relative to the tool's own
	Env         map[string]string `json:"env,omitempty"`
	Bytes       int64             `json:"bytes"`
	Files       int64             `json:"files"`
	InstalledAt time.Time         `json:"installed_at"`
	// UsedAt is when a VM was given it last; kept as its manifest's time.
	UsedAt time.Time `json:"-"`
}

// Ref names the tool with its exact version.
func (t Tool) Ref() domain.Tool { return domain.Tool{Name: t.Name, Version: t.Version} }

// Where a cache keeps what. Only the platform's directory is shown to VMs:
// what is still being unpacked is not in it.
const (
	manifestName = ".aetherium-tool.json"
	stagingDir   = "staging"
	memoryFile   = "resolved.json"
	profileFile  = "profile.sh"

	maxManifest = 1 << 20
	maxMemory   = 4096 // remembered versions
)

// profile gives login shells the tools again: they begin with a PATH of the
// system's.
const profile = `# Tools of this VM, for login shells.
if [ -n "${` + PathVariable + `-}" ]; then
	PATH="$` + PathVariable + `:$PATH"
	export PATH
fi
`

// cache is the installed tools of one platform.
type cache struct {
	root string // of everything, 0700
	dir  string // of the platform
	now  func() time.Time

	mu     sync.Mutex
	tools  map[domain.Tool]Tool // by exact version
	memory map[string]resolved  // by what was asked for
}

// resolved is which version was meant by a beginning of one.
type resolved struct {
	Version string    `json:"version"`
	At      time.Time `json:"at"`
}

// openCache takes up what is there and removes what a crash left.
func openCache(root, platform string, now func() time.Time) (*cache, error) {
	c := &cache{
		root: root, dir: filepath.Join(root, strings.ReplaceAll(platform, "/", "-")), now: now,
		tools: map[domain.Tool]Tool{}, memory: map[string]resolved{},
	}
	if err := os.RemoveAll(filepath.Join(root, stagingDir)); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "what installations of tools left cannot be removed")
	}
	for _, dir := range []string{root, filepath.Join(root, stagingDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errors.Wrap(err, errors.Internal, "the tools' directory cannot be made")
		}
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil { //nolint:gosec // seen in VMs; what is above is ours alone
		return nil, errors.Wrap(err, errors.Internal, "the tools' directory cannot be made")
	}
	if err := replaceFile(filepath.Join(root, profileFile), []byte(profile), 0o644); err != nil {
		return nil, err
	}
	return c, c.load()
}

// load reads what is installed. What has no manifest was not put there by us
// wholly, and is removed.
func (c *cache) load() error {
	names, err := os.ReadDir(c.dir)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the tools cannot be listed")
	}
	for _, name := range names {
		versions, err := os.ReadDir(filepath.Join(c.dir, name.Name()))
		if err != nil {
			return errors.Wrap(err, errors.Internal, "the tools cannot be listed")
		}
		for _, version := range versions {
			dir := filepath.Join(c.dir, name.Name(), version.Name())
			t, err := readManifest(dir)
			if err != nil || t.Ref().Dir() != name.Name() || t.Version != version.Name() {
				if err := os.RemoveAll(dir); err != nil {
					return errors.Wrap(err, errors.Internal, "a damaged tool cannot be removed")
				}
				continue
			}
			c.tools[t.Ref()] = t
		}
	}
	raw, err := os.ReadFile(filepath.Join(c.root, memoryFile))
	if err == nil {
		err = json.Unmarshal(raw, &c.memory)
	}
	if err != nil || c.memory == nil {
		c.memory = map[string]resolved{} // it is only remembered
	}
	return nil
}

func readManifest(dir string) (t Tool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, manifestName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return t, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxManifest {
		return t, errors.Plain("not a manifest")
	}
	if err := json.NewDecoder(f).Decode(&t); err != nil {
		return t, err
	}
	t.UsedAt = info.ModTime()
	_, err = domain.ParseTool("", t.Ref().String())
	return t, err
}

// find returns the installed tool that is meant, and whether it may be time to
// look for a newer one.
func (c *cache) find(ref domain.Tool, remember time.Duration) (t Tool, stale, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, known := c.memory[ref.String()]; known {
		if t, ok = c.tools[domain.Tool{Name: ref.Name, Version: r.Version}]; ok {
			return t, t.Version != ref.Version && c.now().Sub(r.At) > remember, true
		}
	}
	t, ok = c.tools[ref]
	return t, false, ok
}

// use notes that a tool is given to a VM.
func (c *cache) use(exact domain.Tool) {
	const often = time.Minute // more is not worth a write
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.tools[exact]
	if now := c.now(); ok && now.Sub(t.UsedAt) > often {
		t.UsedAt = now
		c.tools[exact] = t
		_ = os.Chtimes(filepath.Join(c.path(exact), manifestName), now, now) // else it counts as older than it is
	}
}

func (c *cache) get(exact domain.Tool) (Tool, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.tools[exact]
	return t, ok
}

// list returns everything, by name and version.
func (c *cache) list() []Tool {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Tool, 0, len(c.tools))
	for _, t := range c.tools {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Tool) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version)) })
	return all
}

// remember notes which version was meant.
func (c *cache) remember(ref domain.Tool, version string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.memory) >= maxMemory {
		clear(c.memory) // nobody asks for so many: it is filled up on purpose
	}
	c.memory[ref.String()] = resolved{Version: version, At: c.now().UTC()}
	raw, err := json.Marshal(c.memory)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the version cannot be remembered")
	}
	return replaceFile(filepath.Join(c.root, memoryFile), raw, 0o600)
}

func (c *cache) path(ref domain.Tool) string { return filepath.Join(c.dir, ref.Dir(), ref.Version) }

// stage makes a directory to unpack into; discard removes it unless it was
// published.
func (c *cache) stage() (dir string, discard func(), err error) {
	dir, err = os.MkdirTemp(filepath.Join(c.root, stagingDir), "new-")
	if err != nil {
		return "", nil, hostFault(err, "the tool's directory cannot be made")
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// publish makes what was unpacked in a staged directory the tool's, wholly or
// not at all. One that is there already stays.
func (c *cache) publish(staged string, t Tool) (Tool, error) {
	t.InstalledAt = c.now().UTC()
	t.UsedAt = t.InstalledAt
	if err := tidy(staged); err != nil {
		return t, err
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return t, errors.Wrap(err, errors.Internal, "the tool cannot be described")
	}
	manifest := filepath.Join(staged, manifestName)
	if err := os.RemoveAll(manifest); err != nil { // the installation's own of that name
		return t, hostFault(err, "the tool cannot be kept")
	}
	if err := replaceFile(manifest, raw, 0o644); err != nil {
		return t, err
	}
	if err := syncTree(staged); err != nil {
		return t, hostFault(err, "the tool cannot be kept")
	}
	final := c.path(t.Ref())
	if err := os.Mkdir(filepath.Dir(final), 0o755); err != nil && !os.IsExist(err) { //nolint:gosec // seen in VMs
		return t, hostFault(err, "the tool cannot be kept")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if there, ok := c.tools[t.Ref()]; ok {
		return there, nil
	}
	if err := os.Rename(staged, final); err != nil {
		return t, hostFault(err, "the tool cannot be kept")
	}
	c.tools[t.Ref()] = t
	return t, nil
}

// remove takes a tool out of the cache in one step, and then apart.
func (c *cache) remove(exact domain.Tool) error {
	c.mu.Lock()
	if _, ok := c.tools[exact]; !ok {
		c.mu.Unlock()
		return errors.New(errors.NotFound, "the tool %s is not installed", exact)
	}
	gone, err := os.MkdirTemp(filepath.Join(c.root, stagingDir), "gone-")
	if err == nil {
		err = os.Rename(c.path(exact), filepath.Join(gone, "tool"))
	}
	if err == nil {
		delete(c.tools, exact)
		_ = os.Remove(filepath.Dir(c.path(exact))) // unless other versions are there
	}
	c.mu.Unlock()
	if err != nil {
		return hostFault(err, "the tool cannot be removed")
	}
	if err := os.RemoveAll(gone); err != nil {
		return errors.Wrap(err, errors.Internal, "the tool is removed, but its files are left to the next start")
	}
	return nil
}

// tidy gives everything modes with which any user of a VM can use it and
// nobody can change it, and none that lends rights.
func tidy(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.Chmod(path, 0o755) //nolint:gosec // seen in VMs
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			mode := fs.FileMode(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			return os.Chmod(path, mode)
		case d.Type()&fs.ModeSymlink != 0:
			return nil
		}
		return os.Remove(path) // a pipe that nobody can use
	})
	if err != nil {
		return hostFault(err, "the tool cannot be kept")
	}
	return nil
}

// syncTree has the file system write what is in a directory, so that a name
// never leads to less than was published under it.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Syncfs(int(f.Fd()))
}

// replaceFile writes a file in one step.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return hostFault(err, "a file of the tools cannot be written")
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return hostFault(err, "a file of the tools cannot be written")
	}
	return nil
}

func hostFault(err error, what string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return wrap(err, errors.NoSpace, CodeNoSpace, "%s: the disk is full", what)
	}
	return errors.Wrap(err, errors.Internal, "%s", what)
}
