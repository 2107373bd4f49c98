package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// contextDir is a directory to build from.
func contextDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// built builds a template by the command line and returns the log.
func built(t *testing.T, args ...string) string {
	t.Helper()
	stdout, log, code := invoke(t, "", append([]string{"template", "build"}, args...)...)
	if code != 0 || strings.TrimSpace(stdout) != args[0] {
		t.Fatalf("exit code %d\n%s%s", code, stdout, log)
	}
	t.Cleanup(func() { invoke(t, "", "template", "rm", args[0]) })
	return log
}

// inTemplate runs a shell line in a VM of a template.
func inTemplate(t *testing.T, name, line string) string {
	t.Helper()
	stdout, stderr, code := invoke(t, "", "run", "--template", name, "--network", "none", "--", "sh", "-c", line)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	return stdout
}

const appSteps = `# an application
FROM base
ENV APP=/srv/app \
    GREETING="hello there"
WORKDIR $APP
RUN useradd --system --create-home app && \
    # a comment between
    echo "made as $(id -un) in $PWD, $GREETING" | tee made
COPY --chown=app:app src/ .
COPY src/*.txt conf/one.conf /etc/app/
RUN ["python3", "-c", "open('ran', 'w').write('exec form')"]
USER app
RUN id -un > /home/app/who
`

func appFiles() map[string]string {
	return map[string]string{
		"Aetherfile": appSteps, "src/app.py": "print('app')\n", "src/sub/deep.txt": "deep\n", "src/note.txt": "note\n",
		"conf/one.conf": "one\n", "unused": "u\n", ".dockerignore": "*.secret\nsrc/left-out\n", "src/left-out": "x\n", "src/a.secret": "kept: only the top is meant\n",
	}
}

func TestTemplateBySteps(t *testing.T) {
	t.Parallel()
	files := appFiles()
	dir := contextDir(t, files)
	log := built(t, "steps-app", dir)
	if !strings.Contains(log, "4/9: made as root in /srv/app, hello there\n") {
		t.Errorf("the log does not have the commands' output:\n%s", log)
	}
	got := inTemplate(t, "steps-app", `id -un; pwd; echo "$GREETING"; cat made ran /home/app/who; echo; stat -c '%U:%G %n' . made app.py sub/deep.txt /etc/app/*; python3 app.py; ls src 2>&1 | wc -l; ls left-out 2>/dev/null; cat /etc/app/one.conf`)
	want := `app
/srv/app
hello there
made as root in /srv/app, hello there
exec formapp

root:root .
root:root made
app:app app.py
app:app sub/deep.txt
root:root /etc/app/note.txt
root:root /etc/app/one.conf
app
1
one
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// What a step does not depend on does not matter; what it does, does.
	steps := func(log string) (cached, run int) {
		for line := range strings.Lines(log) {
			_, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
			for _, name := range []string{"RUN ", "COPY ", "WORKDIR "} {
				if !strings.HasPrefix(text, name) {
					continue
				}
				if strings.HasSuffix(text, " (cached)") {
					cached++
				} else {
					run++
				}
			}
		}
		return cached, run
	}
	for _, tc := range []struct {
		name        string
		change      map[string]string
		args        []string
		cached, run int
	}{
		{"the same again", nil, nil, 6, 0},
		{"a file that no step takes", map[string]string{"unused": "changed"}, nil, 6, 0},
		{"a file of the second COPY", map[string]string{"conf/one.conf": "two\n"}, nil, 3, 3},
		{"a step", map[string]string{"Aetherfile": strings.Replace(appSteps, "exec form", "other form", 1)}, nil, 4, 2},
		{"no cache", nil, []string{"--no-cache"}, 0, 6},
	} {
		for name, content := range appFiles() {
			if other, ok := tc.change[name]; ok {
				content = other
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		log := built(t, append([]string{"steps-app", dir}, tc.args...)...)
		if cached, run := steps(log); cached != tc.cached || run != tc.run {
			t.Errorf("%s: %d steps cached, %d run; want %d and %d\n%s", tc.name, cached, run, tc.cached, tc.run, log)
		}
	}

	// One template on another: its defaults and files are there.
	built(t, "steps-top", "-f", filepath.Join(contextDir(t, map[string]string{"f": "FROM steps-app:latest\nENV MORE=$GREETING!\nRUN echo $MORE > more\n"}), "f"))
	if got := inTemplate(t, "steps-top", "id -un; cat more; echo $MORE"); got != "app\nhello there!\nhello there!\n" {
		t.Errorf("on top: %q", got)
	}
}

// buildSteps starts a build by the API and waits for its end.
func buildSteps(t *testing.T, c *client.Client, name, steps string, files []byte) (api.Task, string) {
	t.Helper()
	ctx := limited(t)
	req := api.BuildTemplate{Name: name, Source: api.TemplateSource{Steps: steps}}
	if files != nil {
		up, err := c.Upload(ctx, bytes.NewReader(files), int64(len(files)))
		if err != nil {
			t.Fatal(err)
		}
		req.Source.Context = up.ID
	}
	task, err := c.BuildTemplate(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.DeleteTemplate(context.Background(), name) })
	var log bytes.Buffer
	if err := c.FollowBuildLog(ctx, task.Subject, &log); err != nil {
		t.Fatal(err)
	}
	if task, err = c.WaitTask(ctx, task.ID); err != nil && task.ID == "" {
		t.Fatal(err)
	}
	return task, log.String()
}

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("x")[:h.Size])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTemplateStepsFail(t *testing.T) {
	t.Parallel()
	c := connect(t)
	reg, sym, hard := byte(tar.TypeReg), byte(tar.TypeSymlink), byte(tar.TypeLink)
	plain := tarOf(t, tar.Header{Typeflag: reg, Name: "a"})
	for name, tc := range map[string]struct {
		steps   string
		context []byte
		want    string // in the task's error
	}{
		"run":              {"FROM base\n\nRUN echo one; echo two >&2; exit 3\n", nil, "line 3: RUN echo one; echo two >&2; exit 3: the command failed with exit code 3 (step_failed); its last output: "},
		"program":          {"FROM base\nRUN [\"/none\"]\n", nil, "line 2: "},
		"memory":           {"FROM base\nRUN [\"python3\", \"-c\", \"bytearray(8 << 30)\"]\n", nil, "(step_failed)"},
		"first process":    {"FROM base\nRUN kill -9 1; kill -9 -1; exit 9\n", nil, "(step_failed)"},
		"no base":          {"FROM none-such:tag\nRUN true\n", nil, "(no_such_base)"},
		"no user":          {"FROM base\nCOPY --chown=none a /\n", plain, "(bad_user)"},
		"no source":        {"FROM base\nCOPY b /\n", plain, "(not_in_context)"},
		"variable source":  {"FROM base\nENV UP=..\nCOPY $UP/a /\n", plain, "line 3: \"../a\" leaves the context (path_escapes)"},
		"climbing entry":   {"FROM base\nCOPY . /x\n", tarOf(t, tar.Header{Typeflag: reg, Name: "../evil"}), "(path_escapes)"},
		"absolute entry":   {"FROM base\nCOPY . /x\n", tarOf(t, tar.Header{Typeflag: reg, Name: "/etc/evil"}), "(path_escapes)"},
		"through a link":   {"FROM base\nCOPY . /x\n", tarOf(t, tar.Header{Typeflag: sym, Name: "l", Linkname: "/etc"}, tar.Header{Typeflag: reg, Name: "l/evil"}), "(path_escapes)"},
		"followed outside": {"FROM base\nCOPY l /x\n", tarOf(t, tar.Header{Typeflag: sym, Name: "l", Linkname: "../../etc/shadow"}), "(path_escapes)"},
		"hard link":        {"FROM base\nCOPY . /x\n", tarOf(t, tar.Header{Typeflag: hard, Name: "l", Linkname: "/etc/shadow"}), "hard link"},
		"device":           {"FROM base\nCOPY . /x\n", tarOf(t, tar.Header{Typeflag: tar.TypeBlock, Name: "d"}), "device"},
		"no tar":           {"FROM base\nCOPY . /x\n", []byte(strings.Repeat("not a tar ", 200)), "not a complete tar"},
	} {
		t.Run(name, func(t *testing.T) {
			task, log := buildSteps(t, c, "fails-"+strings.ReplaceAll(name, " ", "-"), tc.steps, tc.context)
			if task.State != "failed" || task.Error == nil || !strings.Contains(task.Error.Message, tc.want) || task.Error.Code == string(errors.Internal) {
				t.Errorf("%s %+v\n%s", task.State, task.Error, log)
			}
		})
	}
	// What is wrong with the text is told at once, with its line.
	ctx := limited(t)
	for steps, want := range map[string]string{
		"FROM base\nRUN true\nFLY\n":                     "line 3: there is no instruction \"FLY\" (unknown_instruction)",
		"FROM base\nCOPY ../a /\n":                       "line 2: \"../a\" leaves the context (path_escapes)",
		"RUN true\n":                                     "line 1: the first step must be FROM (missing_from)",
		"FROM base\n" + strings.Repeat("RUN x\n", 201):   "line 202: there are more than 200 steps (too_many)",
		"FROM base\nRUN " + strings.Repeat("x", 17<<10):  "line 2: the line has more than 16384 bytes (too_large)",
		"FROM base\nRUN --mount=type=bind,source=/ ls /": "line 2: RUN has no flag --mount (unsupported_flag)",
	} {
		_, err := c.BuildTemplate(ctx, api.BuildTemplate{Name: "bad-text", Source: api.TemplateSource{Steps: steps}})
		if e := errors.Public(err); err == nil || e.Message != want || e.Code != errors.InvalidArgument && e.Code != errors.TooLarge {
			t.Errorf("%.40q: %v", steps, err)
		}
	}
	_, err := c.BuildTemplate(ctx, api.BuildTemplate{Name: "bad-text", Source: api.TemplateSource{Steps: strings.Repeat("#", 65<<10)}})
	if !errors.HasCode(err, errors.InvalidArgument) && !errors.HasCode(err, errors.TooLarge) {
		t.Errorf("a large text: %v", err)
	}
	if _, err := c.Template(ctx, "bad-text"); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("refused text made a template: %v", err)
	}
}

// running reports whether a process with an argument runs on this host.
func running(t *testing.T, argument string) bool {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		text, err := os.ReadFile(name)
		if err == nil && bytes.Contains(text, []byte("\x00"+argument+"\x00")) {
			return true
		}
	}
	return false
}

// logged waits until a build's log has a line; it returns the log so far.
func logged(t *testing.T, c *client.Client, build, line string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	w := &until{text: line, done: cancel}
	err := c.FollowBuildLog(ctx, build, w)
	if !w.found {
		t.Fatalf("the log has no line %q (%v):\n%s", line, err, w.seen.String())
	}
	return w.seen.String()
}

type until struct {
	text  string
	done  func()
	seen  strings.Builder
	found bool
}

func (u *until) Write(p []byte) (int, error) {
	u.seen.Write(p)
	if !u.found && strings.Contains(u.seen.String(), u.text) {
		u.found = true
		u.done()
	}
	return len(p), nil
}

func TestTemplateStepsCancel(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ctx := limited(t)
	const nap = "86399.125"
	task, err := c.BuildTemplate(ctx, api.BuildTemplate{Name: "steps-cancel", Source: api.TemplateSource{
		Steps: "FROM base\nRUN echo first\nRUN sleep " + nap + " & echo begun; exec sleep " + nap + "\n",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.DeleteTemplate(context.Background(), "steps-cancel") })
	logged(t, c, task.Subject, "3/3: begun\n")
	// It may have said so before it is what it will be.
	for begun := limited(t); !running(t, nap); time.Sleep(10 * time.Millisecond) {
		if begun.Err() != nil {
			t.Fatal("the command does not run")
		}
	}
	if _, err := c.CancelTask(ctx, task.ID); err != nil {
		t.Fatal(err)
	}
	if task, err = c.WaitTask(ctx, task.ID); task.State != "canceled" {
		t.Errorf("%+v, %v", task, err)
	}
	if running(t, nap) {
		t.Error("the command outlived its build")
	}
	tmpl, err := c.Template(ctx, "steps-cancel")
	if err != nil || len(tmpl.Tags) != 0 || len(tmpl.Builds) != 1 || tmpl.Builds[0].State != "error" {
		t.Errorf("%+v, %v", tmpl, err)
	}
}

// The server is killed in the middle of a step. Nothing of the build's machine
// is left, nothing is published half, and the build goes on by itself from
// the step that was cut short.
func TestTemplateStepsKillNine(t *testing.T) {
	t.Parallel()
	s := own(t)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const nap = "86398.125"
	task, err := c.BuildTemplate(limited(t), api.BuildTemplate{Name: "steps-kill", Source: api.TemplateSource{
		// The second time it finds what the first run was not to leave.
		Steps: "FROM base\nRUN echo one > /one\nRUN [ ! -e /two ] && echo half > /two && echo begun && sleep " + nap + "\n",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		log := again(t, c, task.Subject, round)
		if cached := strings.Contains(log, "2/3: RUN echo one > /one (cached)\n"); cached != (round > 0) {
			t.Errorf("round %d: the first step is cached: %v\n%s", round, cached, log)
		}
		tmpl, err := c.Template(limited(t), "steps-kill")
		if err != nil || len(tmpl.Tags) != 0 {
			t.Errorf("published before it was ready: %+v, %v", tmpl, err)
		}
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	again(t, c, task.Subject, 3)
	if _, err := c.CancelTask(limited(t), task.ID); err != nil {
		t.Fatal(err)
	}
	if task, err = c.WaitTask(limited(t), task.ID); task.State != "canceled" || task.Attempts != 4 {
		t.Errorf("%+v, %v", task, err)
	}
	if running(t, nap) {
		t.Error("a command outlived its build")
	}
	left, err := filepath.Glob(filepath.Join(s.DataDir, "build-work", "*"))
	tmp, terr := filepath.Glob(filepath.Join(s.DataDir, "images", ".tmp-*"))
	if len(left)+len(tmp) > 0 || err != nil || terr != nil {
		t.Errorf("left: %v %v", left, tmp)
	}
	volumes, err := filepath.Glob(filepath.Join(s.DataDir, "vmdata", "volumes", "oci-s-*"))
	if err != nil || len(volumes) != 1 {
		t.Errorf("one layer was to be kept: %v, %v", volumes, err)
	}
}

// again waits until a build is in its last step; after the first round that
// is one that has found a layer of the round before. Until it begins, the
// build's log is still that of the round before.
func again(t *testing.T, c *client.Client, build string, round int) string {
	t.Helper()
	for ctx := limited(t); ; {
		log := logged(t, c, build, "3/3: begun\n")
		if round == 0 || strings.Contains(log, "(cached)") && ctx.Err() == nil {
			return log
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it does not go on:\n%s", log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// registry serves one image without a layer that has a program.
func registry(t *testing.T) string {
	t.Helper()
	blobs := map[string][]byte{}
	add := func(content []byte) (string, int) {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
		blobs[digest] = content
		return digest, len(content)
	}
	layer, layerSize := add(tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "from-image"}))
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": runtime.GOARCH, "config": map[string]any{"Env": []string{"IMAGE=yes", "PATH=/bin"}, "WorkingDir": "/image"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer}},
	})
	if err != nil {
		t.Fatal(err)
	}
	configDigest, configSize := add(config)
	const media = "application/vnd.oci.image."
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": media + "manifest.v1+json",
		"config": map[string]any{"mediaType": media + "config.v1+json", "digest": configDigest, "size": configSize},
		"layers": []any{map[string]any{"mediaType": media + "layer.v1.tar", "digest": layer, "size": layerSize}},
	})
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := add(manifest)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		switch {
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", media+"manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", digest)
			_, _ = w.Write(manifest)
		case blobs[name] != nil:
			_, _ = w.Write(blobs[name])
		case r.URL.Path == "/v2/":
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// An image of a registry, and nothing at all, can be begun with. Neither has a
// shell: files are laid by the guest agent.
func TestTemplateStepsFromImage(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ctx := limited(t)
	steps := "ENV X=$IMAGE\nCOPY --chown=7:8 a sub/\n"
	for name, from := range map[string]string{"steps-image": registry(t) + "/app:v1", "steps-scratch": "scratch"} {
		task, log := buildSteps(t, c, name, "FROM "+from+"\n"+steps, tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "a"}))
		if task.State != "succeeded" {
			t.Errorf("%s: %+v\n%s", name, task.Error, log)
			continue
		}
		vm, err := c.CreateVM(ctx, api.CreateVM{Template: name, Network: "none"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		dir := map[string]string{"steps-image": "/image/", "steps-scratch": "/"}[name]
		info, err := c.StatFile(ctx, client.File{VM: vm.ID, Path: dir + "sub/a", User: "root"})
		if err != nil || info.SizeBytes != 1 {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		_, err = c.StatFile(ctx, client.File{VM: vm.ID, Path: "/from-image", User: "root"})
		if fromImage := err == nil; fromImage != (name == "steps-image") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
			t.Error(err)
		}
	}
}
