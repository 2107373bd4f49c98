package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/copytree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/finish"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/manifest"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
)

// build is one build under way.
type build struct {
	*Store
	id      string
	tmp     string // its directory under a temporary name
	root    string // the tree in it
	result  Result
	packed  bool             // the result is that of another host, and to be met
	shares  []manifest.Known // builds that it has files of
	say     func(step, format string, args ...any)
	tick    func(step, text string, done, total int64)
	started time.Time
}

// Build makes a root filesystem from a source, whose Tar and Dir are paths on
// this host, and keeps it as id. A complete build of that ID is returned as it
// is: a call interrupted by a crash can be made again. When ctx ends, the
// build ends and leaves nothing.
//
// Returns InvalidArgument (bad source; damaged or hostile content), NotFound
// (no such image, file or directory), Unauthenticated and PermissionDenied (a
// registry's), TooLarge, NoSpace, Conflict (a build of that ID is under way),
// Unavailable (a registry or mirror is away), Unsupported (this host cannot).
func (s *Store) Build(ctx context.Context, id string, src domain.TemplateSource, progress Progress) (Result, error) {
	from, err := sourceOf(src)
	if err != nil {
		return Result{}, err
	}
	return s.run(ctx, id, src, progress, from)
}

// BuildTar is Build from a root filesystem archive (tar; plain, gzip or zstd)
// that is read once, to its end.
func (s *Store) BuildTar(ctx context.Context, id string, r io.Reader, progress Progress) (Result, error) {
	return s.run(ctx, id, domain.TemplateSource{Tar: "-"}, progress, func(ctx context.Context, b *build) error {
		return b.fromTar(ctx, r)
	})
}

// source fills b.root and what it knows of b.result.
type source func(ctx context.Context, b *build) error

func sourceOf(src domain.TemplateSource) (source, error) {
	set := 0
	var from source
	if src.Image != "" {
		set++
		from = func(ctx context.Context, b *build) error {
			return b.fromImage(ctx, src.Image, Access{Untrusted: src.Untrusted})
		}
	}
	if src.Tar != "" {
		set++
		from = func(ctx context.Context, b *build) error { return b.fromTarFile(ctx, src.Tar) }
	}
	if src.Dir != "" {
		set++
		from = func(ctx context.Context, b *build) error { return b.fromDir(ctx, src.Dir) }
	}
	if len(src.Packages) > 0 {
		set++
		from = func(ctx context.Context, b *build) error { return b.fromPackages(ctx, src.Suite, src.Packages) }
		if err := checkPackages(src.Suite, src.Packages); err != nil {
			return nil, err
		}
	}
	if src.Preset != "" {
		set++
		p, err := preset.Find(src.Preset)
		if err != nil {
			return nil, err
		}
		from = func(ctx context.Context, b *build) error { return b.fromPreset(ctx, p) }
	}
	if set != 1 {
		return nil, errors.New(errors.InvalidArgument, "a template needs exactly one source, not %d", set).
			WithHint("give one of image, tar, dir, packages and preset").WithField("source")
	}
	return from, nil
}

func (s *Store) run(ctx context.Context, id string, src domain.TemplateSource, progress Progress, from source, checks ...func(*tree.Tree) error) (_ Result, err error) {
	if err := checkID(id); err != nil {
		return Result{}, err
	}
	if os.Geteuid() != 0 {
		return Result{}, errors.New(errors.Unsupported, "building a root filesystem needs root: its files belong to many users").
			WithHint("run the worker as root or with sudo")
	}
	s.mu.Lock()
	_, busy := s.running[id]
	s.running[id] = struct{}{}
	s.mu.Unlock()
	if busy {
		return Result{}, errors.New(errors.Conflict, "build %q is under way", id)
	}
	defer func() {
		s.mu.Lock()
		delete(s.running, id)
		s.mu.Unlock()
	}()
	if r, err := s.Get(ctx, id); err == nil || !errors.HasCode(err, errors.NotFound) {
		return r, err
	}
	b := &build{Store: s, id: id, started: time.Now()}
	b.say, b.tick = reporter(progress)
	b.result = Result{ID: id, Source: src, Platform: platform(), User: finish.UserName, Env: map[string]string{}, CreatedAt: b.started.UTC()}
	release, err := b.stage()
	if err != nil {
		return Result{}, storeError(err)
	}
	defer release()
	if err := from(ctx, b); err != nil {
		return Result{}, buildError(ctx, err)
	}
	if !b.packed {
		if err := b.finish(checks); err != nil {
			return Result{}, buildError(ctx, err)
		}
	}
	if err := b.commit(ctx); err != nil {
		return Result{}, buildError(ctx, err)
	}
	return b.result, nil
}

// buildError prefers the context's verdict: killed helpers and closed
// connections are only its consequences.
func buildError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() == context.Canceled:
		return errors.Wrap(err, errors.Canceled, "the build was canceled")
	case ctx.Err() != nil:
		return errors.Wrap(err, errors.DeadlineExceeded, "the build took longer than allowed")
	}
	return storeError(err)
}

// stage makes the temporary directory and locks it for as long as this
// process lives. The release removes what is left of it.
func (b *build) stage() (func(), error) {
	unlock, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b.tmp, err = os.MkdirTemp(b.cfg.Dir, tmpPrefix+b.id+"-"); err != nil {
		return nil, err
	}
	held, err := os.Open(b.tmp)
	if err == nil {
		if err = unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			b.root = filepath.Join(b.tmp, rootfsName)
			err = os.Mkdir(b.root, 0o755)
		}
	}
	release := func() {
		if rerr := os.RemoveAll(b.tmp); rerr != nil {
			b.log.Warn("a temporary build cannot be removed yet", "path", b.tmp, "error", rerr)
		}
		_ = held.Close()
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (b *build) finish(checks []func(*tree.Tree) error) error {
	t, err := tree.Open(b.root)
	if err != nil {
		return err
	}
	defer t.Close()
	b.say("finish", "setting up mount points, accounts and the login environment")
	if err := finish.Apply(t, finish.Options{Env: b.result.Env, KeepOwner: true, Note: b.note("finish")}); err != nil {
		return err
	}
	if b.result.Env["PATH"] == "" {
		b.result.Env["PATH"] = finish.DefaultPath
	}
	if b.result.Env["LANG"] == "" && b.result.Env["LC_ALL"] == "" {
		b.result.Env["LANG"] = "C.UTF-8"
	}
	for _, check := range checks {
		if err := check(t); err != nil {
			return err
		}
	}
	return nil
}

// commit sums up the tree, makes it durable and gives it its name.
func (b *build) commit(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(b.tmp, manifestName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	sum, err := manifest.Write(ctx, b.root, f, b.shares...)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	r := &b.result
	if b.packed && sum.Digest != r.Digest {
		return errors.New(errors.PreconditionFailed, "the packed build %q is not what was built", b.id)
	}
	r.Digest, r.Bytes, r.Entries, r.Took = sum.Digest, sum.Bytes, sum.Entries, time.Since(b.started)
	b.say("digest", "%s: %d entries, %d MB", r.Digest, r.Entries, r.Bytes/1e6)
	meta, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.tmp, metaName), append(meta, '\n'), 0o600); err != nil {
		return err
	}
	if err := syncTree(b.tmp); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	dst := filepath.Join(b.cfg.Dir, b.id)
	// Another process may have made the same build meanwhile: never replace one.
	if err := unix.Renameat2(unix.AT_FDCWD, b.tmp, unix.AT_FDCWD, dst, unix.RENAME_NOREPLACE); err != nil {
		if err == unix.EEXIST {
			return errors.Wrap(err, errors.Conflict, "build %q was made by another process meanwhile", b.id)
		}
		return &os.LinkError{Op: "rename", Old: b.tmp, New: dst, Err: err}
	}
	r.RootFS = b.Path(b.id)
	return syncDir(b.cfg.Dir)
}

// syncTree makes everything below dir durable: one syncfs(2) costs less than
// an fsync(2) for each of ten thousand files.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func (b *build) fromTarFile(ctx context.Context, name string) error {
	// O_NONBLOCK: opening a FIFO must not hang.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return errors.Wrap(err, errors.NotFound, "the root filesystem archive does not exist").WithField("source.tar")
	}
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "the root filesystem archive cannot be opened").WithField("source.tar")
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New(errors.InvalidArgument, "the root filesystem archive is not a regular file").WithField("source.tar")
	}
	return b.fromTar(ctx, b.metered("unpack", "bytes read", f, st.Size()))
}

func (b *build) fromTar(ctx context.Context, r io.Reader) error {
	b.say("unpack", "unpacking the archive")
	plain, err := unpack.Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	t, err := tree.Open(b.root)
	if err != nil {
		return err
	}
	defer t.Close()
	u := unpack.New(t, b.cfg.Limits, true, b.note("unpack"))
	if err := u.Tar(ctx, plain); err != nil {
		return err
	}
	if u.Entries() == 0 {
		return errors.New(errors.InvalidArgument, "the archive has no entries").WithField("source.tar")
	}
	return nil
}

func (b *build) fromDir(ctx context.Context, dir string) error {
	b.say("copy", "copying the directory")
	var own unix.Stat_t
	if err := unix.Stat(b.cfg.Dir, &own); err != nil {
		return err
	}
	return copytree.Copy(ctx, dir, b.root, copytree.Options{
		Limits: b.cfg.Limits, KeepOwner: true, Note: b.note("copy"),
		// The store may lie inside the source.
		Skip: func(st *unix.Stat_t) bool { return st.Dev == own.Dev && st.Ino == own.Ino },
	})
}

func (b *build) note(step string) func(string) { return func(text string) { b.say(step, "%s", text) } }

// reporter makes the two ways to report: a line of text, and a count that is
// passed on at most five times a second.
func reporter(progress Progress) (func(step, format string, args ...any), func(step, text string, done, total int64)) {
	if progress == nil {
		progress = func(Line) {}
	}
	var mu sync.Mutex
	var last time.Time
	say := func(step, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		progress(Line{Time: time.Now().UTC(), Step: step, Text: printable(fmt.Sprintf(format, args...))})
	}
	tick := func(step, text string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if done < total && now.Sub(last) < 200*time.Millisecond {
			return
		}
		last = now
		progress(Line{Time: now.UTC(), Step: step, Text: text, Done: done, Total: total})
	}
	return say, tick
}

const maxLine = 1000

// printable keeps a stranger's text from steering a terminal or filling a log.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

// metered reports how much of r was read.
func (b *build) metered(step, text string, r io.Reader, total int64) io.Reader {
	return &meter{r: r, tick: func(done int64) { b.tick(step, text, done, total) }}
}

type meter struct {
	r    io.Reader
	done int64
	tick func(int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.done += int64(n)
		m.tick(m.done)
	}
	return n, err
}
