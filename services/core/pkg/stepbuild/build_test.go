package stepbuild_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/buildctx"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
	"github.com/aetherium/aetherium/services/core/pkg/stepbuild"
)

// node is a node in memory: its machines do what a test says and note it.
type node struct {
	t      *testing.T
	digest string
	kept   map[steps.Layer]string // to the step that made it
	did    []string
	booted int
	closed int
	exit   func(command string) stepbuild.Exit
	dirs   map[string]bool
}

func newNode(t *testing.T) *node {
	return &node{t: t, digest: "sha256:base", kept: map[steps.Layer]string{}, dirs: map[string]bool{"/": true, "/etc": true}}
}

func (n *node) Base(_ context.Context, from string, _ stepbuild.Say) (stepbuild.Base, error) {
	if from == "absent" {
		return stepbuild.Base{}, errors.New(errors.NotFound, "there is no template %q", from).WithHint("look")
	}
	return stepbuild.Base{BuildID: "b", Digest: n.digest, Env: map[string]string{"PATH": "/bin"}, WorkDir: "/home/user", User: "user"}, nil
}

func (n *node) HasLayer(_ context.Context, l steps.Layer) (bool, error) {
	_, ok := n.kept[l]
	return ok, nil
}

func (n *node) Boot(_ context.Context, _ stepbuild.Base, l steps.Layer) (stepbuild.Machine, error) {
	if _, ok := n.kept[l]; !ok && l != "" {
		n.t.Errorf("booted from a layer that is not kept")
	}
	n.booted++
	n.did = append(n.did, "boot "+n.kept[l])
	return &machine{n}, nil
}

type machine struct{ n *node }

func (m *machine) Run(ctx context.Context, a steps.Action, out func([]byte)) (stepbuild.Exit, error) {
	command := a.Args[len(a.Args)-1]
	m.n.did = append(m.n.did, fmt.Sprintf("run %s as %s in %s", command, a.User, a.Cwd))
	if command == "absent" {
		return stepbuild.Exit{}, errors.New(errors.InvalidArgument, "the program was not found")
	}
	if command == "hang" {
		<-ctx.Done()
		return stepbuild.Exit{}, ctx.Err()
	}
	out([]byte("out of \x1b[31m" + command + "\x1b[0m\r"))
	out([]byte("half a "))
	out([]byte("line\nlast" + strings.Repeat("!", 2000)))
	if m.n.exit != nil {
		return m.n.exit(command), nil
	}
	return stepbuild.Exit{}, nil
}

func (m *machine) IsDir(_ context.Context, path string) (bool, error) { return m.n.dirs[path], nil }

func (m *machine) MakeDir(_ context.Context, path string) error {
	m.n.did = append(m.n.did, "mkdir "+path)
	return nil
}

func (m *machine) Unpack(_ context.Context, dir, owner string, r io.Reader) error {
	var names []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := h.Name
		if own := map[byte]int64{tar.TypeReg: 0o644, tar.TypeDir: 0o755}[h.Typeflag]; h.Mode != own {
			name += fmt.Sprintf("=%o", h.Mode)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	m.n.did = append(m.n.did, fmt.Sprintf("unpack %v in %s for %q", names, dir, owner))
	return nil
}

func (m *machine) Keep(_ context.Context, l, below steps.Layer, step string) error {
	if _, ok := m.n.kept[below]; !ok && below != "" {
		m.n.t.Errorf("kept a layer on one that is not kept")
	}
	m.n.kept[l] = step
	return nil
}

func (m *machine) Close() { m.n.closed++ }

// build makes a build on a node and gives what was done in its machine.
func (n *node) build(text string, files map[string]string, change ...func(*stepbuild.Request)) (stepbuild.Outcome, []string, string, error) {
	n.t.Helper()
	file, err := steps.Parse(text)
	if err != nil {
		n.t.Fatal(err)
	}
	var log strings.Builder
	req := stepbuild.Request{File: file, Scope: "p/d", Say: func(step, text string) { fmt.Fprintf(&log, "%s: %s\n", step, text) }}
	if files != nil {
		req.Context = contextOf(n.t, files)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, f := range change {
		f(&req)
	}
	n.did = nil
	out, err := stepbuild.Run(ctx, n, req)
	if n.booted != n.closed {
		n.t.Errorf("%d machines were made, %d removed", n.booted, n.closed)
	}
	return out, n.did, log.String(), err
}

func contextOf(t *testing.T, files map[string]string) *buildctx.Context {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, content)
	}
	_ = w.Close()
	file := filepath.Join(t.TempDir(), "c.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := buildctx.Open(context.Background(), file, buildctx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const text = `FROM base
RUN one
ENV A=1
COPY a.txt b/ /etc/
RUN two
USER app
WORKDIR sub
RUN three
`

var files = map[string]string{"a.txt": "a", "b/c.txt": "c", "other": "o"}

func TestBuild(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	out, did, log, err := n.build(text, files)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"boot ", "run one as root in /home/user", `unpack [./ a.txt c.txt] in /etc for ""`, "run two as root in /home/user",
		"mkdir /home/user/sub", "run three as app in /home/user/sub",
	}
	if !slices.Equal(did, want) {
		t.Errorf("did %q", did)
	}
	if out.User != "app" || out.WorkDir != "/home/user/sub" || out.Env["A"] != "1" || out.Env["PATH"] != "/bin" || n.kept[out.Layer] != "RUN three" {
		t.Errorf("%+v", out)
	}
	for _, line := range []string{
		"1/8: FROM base", "2/8: RUN one", "2/8: out of one", "2/8: half a line", "8/8: last" + strings.Repeat("!", 996) + "…",
	} {
		if !strings.Contains(log, line+"\n") {
			t.Errorf("the log has no line %q:\n%s", line, log)
		}
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	first, _, _, err := n.build(text, files)
	if err != nil {
		t.Fatal(err)
	}
	same, did, log, err := n.build("# again\n"+text, files)
	if err != nil || len(did) != 0 || same.Layer != first.Layer || n.booted != 1 {
		t.Errorf("an equal build did %q, %v", did, err)
	}
	if !strings.Contains(log, "2/8: RUN one (cached)\n") || !strings.Contains(log, "8/8: RUN three (cached)\n") {
		t.Errorf("log:\n%s", log)
	}
	for what, tc := range map[string]struct {
		text  string
		files map[string]string
		want  []string
	}{
		"a changed step": {strings.Replace(text, "RUN two", "RUN 2", 1), files, []string{
			"boot COPY a.txt b/ /etc/", "run 2 as root in /home/user", "mkdir /home/user/sub", "run three as app in /home/user/sub",
		}},
		"changed files": {text, map[string]string{"a.txt": "changed", "b/c.txt": "c", "other": "o"}, []string{
			"boot RUN one", `unpack [./ a.txt c.txt] in /etc for ""`, "run two as root in /home/user", "mkdir /home/user/sub", "run three as app in /home/user/sub",
		}},
		"files that no step takes": {text, map[string]string{"a.txt": "a", "b/c.txt": "c", "other": "changed", "new": "n"}, nil},
		"one more step":            {text + "RUN four\n", files, []string{"boot RUN three", "run four as app in /home/user/sub"}},
		"defaults only":            {text + "ENV B=2\nUSER root\n", files, nil},
	} {
		if _, did, _, err := n.build(tc.text, tc.files); err != nil || !slices.Equal(did, tc.want) {
			t.Errorf("%s: did %q, %v", what, did, err)
		}
	}
	if _, did, _, err := n.build(text, files, func(r *stepbuild.Request) { r.NoCache = true }); err != nil || len(did) != 6 {
		t.Errorf("without cache: did %q, %v", did, err)
	}
	if _, did, _, err := n.build(text, files, func(r *stepbuild.Request) { r.Scope = "other" }); err != nil || len(did) != 6 {
		t.Errorf("in another project: did %q, %v", did, err)
	}
	n.digest = "sha256:other"
	if _, did, _, err := n.build(text, files); err != nil || len(did) != 6 {
		t.Errorf("on another base: did %q, %v", did, err)
	}
}

// A build that failed goes on from the last step that did not.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.exit = func(command string) stepbuild.Exit {
		if command == "two" {
			return stepbuild.Exit{Code: 7}
		}
		return stepbuild.Exit{}
	}
	_, _, _, err := n.build(text, files)
	public := errors.Public(err)
	if public.Code != errors.InvalidArgument || !strings.HasPrefix(public.Message, "line 5: RUN two: the command failed with exit code 7 (step_failed); its last output: out of two | half a line | last!") {
		t.Errorf("%+v", public)
	}
	n.exit = nil
	if _, did, _, err := n.build(text, files); err != nil || did[0] != "boot COPY a.txt b/ /etc/" || len(did) != 4 {
		t.Errorf("did %q, %v", did, err)
	}
}

func TestDestinations(t *testing.T) {
	t.Parallel()
	for step, want := range map[string]string{
		"COPY a.txt /x":                `unpack [x] in / for ""`,
		"COPY a.txt x/y":               `unpack [y] in /home/user/x/ for ""`,
		"COPY a.txt /etc":              `unpack [a.txt] in /etc for ""`,
		"COPY a.txt /new/":             `unpack [a.txt] in /new for ""`,
		"COPY a.txt .":                 `unpack [a.txt] in /home/user for ""`,
		"COPY b /new":                  `unpack [./ c.txt] in /new for ""`,
		"COPY . /new":                  `unpack [./ a.txt b/ b/c.txt other] in /new for ""`,
		"COPY --chown=u:g b/* /x/":     `unpack [c.txt] in /x for "u:g"`,
		"COPY --chmod=0700 b /x/":      `unpack [./=700 c.txt=700] in /x for ""`,
		"COPY --chmod=0644 a.txt /x/":  `unpack [a.txt] in /x for ""`,
		"COPY a.txt b/c.txt /etc/new/": `unpack [a.txt c.txt] in /etc/new for ""`,
	} {
		_, did, _, err := newNode(t).build("FROM base\n"+step, files)
		if err != nil || len(did) != 2 || did[1] != want {
			t.Errorf("%s: did %q, %v", step, did, err)
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for step, want := range map[string]struct {
		code    errors.Code
		message string
	}{
		"COPY none /x":      {errors.NotFound, `line 2: COPY none /x: "none" names nothing in the context (not_in_context)`},
		"COPY * /x":         {errors.InvalidArgument, "line 2: several files need a directory as destination (needs_directory)"},
		"COPY $PATH/../x /": {errors.InvalidArgument, `line 2: "/bin/../x" leaves the context (path_escapes)`},
		"RUN absent":        {errors.InvalidArgument, "line 2: RUN absent: the program was not found (step_failed)"},
	} {
		_, _, _, err := newNode(t).build("FROM base\n"+step, files)
		if public := errors.Public(err); public.Code != want.code || public.Message != want.message {
			t.Errorf("%s: %+v", step, public)
		}
	}
	_, did, _, err := newNode(t).build("FROM base\nRUN one\nCOPY none /x", files)
	if err == nil || len(did) != 0 {
		t.Errorf("what is missing is found before anything runs; did %q", did)
	}
	if _, _, _, err = newNode(t).build("FROM base\nCOPY x /x", nil); errors.Public(err).Hint == "" || !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("without a context: %v", err)
	}
	if _, _, _, err = newNode(t).build("FROM absent\n", nil); errors.Public(err).Message != `line 1: FROM absent: there is no template "absent"` || errors.Public(err).Hint != "look" {
		t.Errorf("without a base: %+v", errors.Public(err))
	}
	n := newNode(t)
	n.exit = func(string) stepbuild.Exit { return stepbuild.Exit{Code: 137, OOM: true} }
	if _, _, _, err = n.build("FROM base\nRUN x", nil); !strings.Contains(errors.Public(err).Message, "exit code 137, out of memory (step_failed)") {
		t.Errorf("%+v", errors.Public(err))
	}
	n.exit = func(string) stepbuild.Exit { return stepbuild.Exit{Lost: "its first process ended"} }
	if _, _, _, err = n.build("FROM base\nRUN x", nil); !strings.Contains(errors.Public(err).Message, "was lost: its first process ended (step_failed)") {
		t.Errorf("%+v", errors.Public(err))
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	file, err := steps.Parse("FROM base\nRUN hang\n")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err = stepbuild.Run(ctx, n, stepbuild.Request{File: file, Say: func(step, _ string) {
		if step == "2/2" {
			cancel()
		}
	}})
	if !errors.HasCode(err, errors.Canceled) || n.closed != 1 || len(n.kept) != 0 {
		t.Errorf("%v; %d machines removed, kept %v", err, n.closed, n.kept)
	}
}
