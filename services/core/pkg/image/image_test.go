package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a root filesystem's files belong to many users")
	}
}

func open(t *testing.T, cfg image.Config) *image.Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "images")
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := image.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// rootTar is a small root filesystem.
func rootTar(t *testing.T, extra ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range append([]string{"etc/passwd", "bin/sh", "data/file"}, extra...) {
		content := "#!" + name
		if name == "etc/passwd" {
			content = "root:x:0:0:root:/root:/bin/sh\n"
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entries lists the store's directory.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

type log struct {
	mu    sync.Mutex
	lines []image.Line
}

func (l *log) add(line image.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) has(step, text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(x image.Line) bool { return x.Step == step && strings.Contains(x.Text, text) })
}

func TestLifeOfABuild(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, image.Config{Dir: dir})
	var l log
	r, err := s.BuildTar(ctx, "one", bytes.NewReader(rootTar(t)), l.add)
	if err != nil {
		t.Fatal(err)
	}
	if r.RootFS != s.Path("one") || !strings.HasPrefix(r.Digest, "sha256:") || r.Bytes == 0 || r.User != "user" || r.Env["PATH"] == "" || !strings.HasPrefix(r.Platform, "linux/") {
		t.Errorf("%+v", r)
	}
	if b, err := os.ReadFile(filepath.Join(r.RootFS, "data/file")); err != nil || string(b) != "#!data/file" {
		t.Errorf("%q, %v", b, err)
	}
	if !l.has("unpack", "archive") || !l.has("digest", r.Digest) {
		t.Errorf("progress %v", l.lines)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Error("others may enter the store:", st.Mode(), err)
	}
	// Again is success, without a second build; another store sees it, too.
	again, err := open(t, image.Config{Dir: dir}).Build(ctx, "one", domain.TemplateSource{Tar: "/none"}, nil)
	if err != nil || again.Digest != r.Digest || !again.CreatedAt.Equal(r.CreatedAt) || again.RootFS != r.RootFS {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := s.BuildTar(ctx, "two", bytes.NewReader(rootTar(t)), nil); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 2 || list[0].ID != "one" || list[1].ID != "two" || list[0].Digest != list[1].Digest {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := s.Verify(ctx, "two"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(s.Path("two"), "bin/sh"), []byte("#!evil/x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, "two"); !errors.HasCode(err, errors.PreconditionFailed) || !strings.Contains(err.Error(), "bin/sh") {
		t.Errorf("a changed build: %v", err)
	}
	for range 2 { // absent is success
		if err := s.Delete(ctx, "two"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get(ctx, "two"); !errors.HasCode(err, errors.NotFound) {
		t.Error(err)
	}
	if err := s.Verify(ctx, "two"); !errors.HasCode(err, errors.NotFound) {
		t.Error(err)
	}
	if names := entries(t, dir); !slices.Equal(names, []string{"one"}) {
		t.Errorf("the store has %v", names)
	}
}

func TestTarAndDirSources(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx := t.Context()
	work := t.TempDir()
	s := open(t, image.Config{Dir: filepath.Join(work, "src", "images")}) // the store lies in the source
	raw := rootTar(t)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(raw)
	_ = z.Close()
	for name, content := range map[string][]byte{"a.tar": raw, "a.tar.gz": gz.Bytes()} {
		if err := os.WriteFile(filepath.Join(work, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, err := s.Build(ctx, "plain", domain.TemplateSource{Tar: filepath.Join(work, "a.tar")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var l log
	packed, err := s.Build(ctx, "packed", domain.TemplateSource{Tar: filepath.Join(work, "a.tar.gz")}, l.add)
	if err != nil || packed.Digest != plain.Digest {
		t.Errorf("%v, %v", packed, err)
	}
	if !slices.ContainsFunc(l.lines, func(x image.Line) bool { return x.Total == int64(gz.Len()) && x.Done == x.Total }) {
		t.Errorf("no count reached its total: %v", l.lines)
	}
	copied, err := s.Build(ctx, "copied", domain.TemplateSource{Dir: plain.RootFS}, nil)
	if err != nil || copied.Digest != plain.Digest {
		t.Errorf("%v, %v", copied, err)
	}
	if err := os.WriteFile(filepath.Join(work, "src", "marker"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	around, err := s.Build(ctx, "around", domain.TemplateSource{Dir: filepath.Join(work, "src")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(around.RootFS, "marker")); err != nil {
		t.Error(err)
	}
	if names := entries(t, filepath.Join(around.RootFS, "images")); len(names) != 0 {
		t.Errorf("the store was copied into itself: %v", names)
	}
}

func TestRefusedSources(t *testing.T) {
	t.Parallel()
	needRoot(t)
	work := t.TempDir()
	dir := filepath.Join(work, "images")
	s := open(t, image.Config{Dir: dir, Limits: image.Limits{Bytes: 1000, Entries: 10}})
	if err := os.Symlink("/etc", filepath.Join(work, "link")); err != nil {
		t.Fatal(err)
	}
	many := filepath.Join(work, "many.tar")
	if err := os.WriteFile(many, rootTar(t, "1", "2", "3", "4", "5", "6", "7", "8"), 0o600); err != nil {
		t.Fatal(err)
	}
	junk := filepath.Join(work, "junk")
	if err := os.WriteFile(junk, []byte(strings.Repeat("not a tar ", 200)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		src  domain.TemplateSource
		code errors.Code
	}{
		{"none", domain.TemplateSource{}, errors.InvalidArgument},
		{"two", domain.TemplateSource{Tar: "a", Dir: "b"}, errors.InvalidArgument},
		{"suite alone", domain.TemplateSource{Suite: "bookworm"}, errors.InvalidArgument},
		{"no such tar", domain.TemplateSource{Tar: filepath.Join(work, "none")}, errors.NotFound},
		{"a directory as tar", domain.TemplateSource{Tar: work}, errors.InvalidArgument},
		{"no such directory", domain.TemplateSource{Dir: filepath.Join(work, "none")}, errors.NotFound},
		{"a link as directory", domain.TemplateSource{Dir: filepath.Join(work, "link")}, errors.InvalidArgument},
		{"junk", domain.TemplateSource{Tar: junk}, errors.InvalidArgument},
		{"too many entries", domain.TemplateSource{Tar: many}, errors.TooLarge},
		{"a package that is an option", domain.TemplateSource{Packages: []string{"--hook"}}, errors.InvalidArgument},
		{"a package that is a path", domain.TemplateSource{Packages: []string{"./evil.deb"}}, errors.InvalidArgument},
		{"a package that is two", domain.TemplateSource{Packages: []string{"git,./evil.deb"}}, errors.InvalidArgument},
		{"a package to remove", domain.TemplateSource{Packages: []string{"bash-"}}, errors.InvalidArgument},
		{"an apt pattern", domain.TemplateSource{Packages: []string{"?installed"}}, errors.InvalidArgument},
		{"a suite that is an option", domain.TemplateSource{Packages: []string{"git"}, Suite: "--mode=x"}, errors.InvalidArgument},
		{"a suite that is a path", domain.TemplateSource{Packages: []string{"git"}, Suite: "../x"}, errors.InvalidArgument},
		{"a bad reference", domain.TemplateSource{Image: "UPPER CASE"}, errors.InvalidArgument},
	} {
		if _, err := s.Build(t.Context(), "x", tc.src, nil); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
	for _, id := range []string{"", "..", "a/b", ".tmp-x", "A", strings.Repeat("a", 65)} {
		if _, err := s.BuildTar(t.Context(), id, bytes.NewReader(rootTar(t)), nil); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("build ID %q: %v", id, err)
		}
		if err := s.Delete(t.Context(), id); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("deleting %q: %v", id, err)
		}
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestCancelAndConflict(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, image.Config{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		_, err := s.BuildTar(ctx, "x", r, nil)
		_ = r.CloseWithError(err)
		failed <- err
	}()
	raw := rootTar(t)
	if _, err := w.Write(raw[:1500]); err != nil { // the build is in the middle of its archive now
		t.Fatal(err)
	}
	if _, err := s.BuildTar(t.Context(), "x", bytes.NewReader(raw), nil); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("the same build twice at once: %v", err)
	}
	// A second store must not sweep a build that is under way.
	open(t, image.Config{Dir: dir})
	if names := entries(t, dir); len(names) != 1 || !strings.HasPrefix(names[0], ".tmp-x-") {
		t.Errorf("the store has %v", names)
	}
	cancel()
	_, _ = w.Write(raw[1500:])
	if err := <-failed; !errors.HasCode(err, errors.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	if _, err := s.BuildTar(t.Context(), "x", bytes.NewReader(raw), nil); err != nil {
		t.Errorf("the build cannot be made again: %v", err)
	}
}

func TestBuildsSideBySide(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := open(t, image.Config{})
	var wg sync.WaitGroup
	digests := make([]string, 8)
	for i := range digests {
		wg.Go(func() {
			r, err := s.BuildTar(t.Context(), fmt.Sprintf("b%d", i), bytes.NewReader(rootTar(t)), func(image.Line) {})
			if err != nil {
				t.Error(err)
			}
			digests[i] = r.Digest
		})
	}
	wg.Wait()
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("digests %v", digests)
	}
}

func TestNeedsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("runs as an ordinary user only")
	}
	if _, err := open(t, image.Config{}).BuildTar(t.Context(), "x", bytes.NewReader(rootTar(t)), nil); !errors.HasCode(err, errors.Unsupported) {
		t.Error(err)
	}
}
