package fleet

import (
	"archive/tar"
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// What is sent to one gateway is built from by way of another, on whichever worker, as
// an archive, as files that steps copy, and by the requests of E2B's SDKs, each to
// another gateway. No gateway keeps any of it.
func TestUploadsToAFleet(t *testing.T) {
	t.Parallel()
	f := newField(t)
	one, other := f.gateway("one"), f.gateway("other")
	f.worker("worker-1", one)
	f.worker("worker-2", one)
	c, beside := f.client(one), f.client(other)
	workers := map[string]string{"worker-1": "worker-2", "worker-2": "worker-1"}
	// built builds on a worker, by way of the gateway to which nothing was sent.
	built := func(worker string, req api.BuildTemplate) {
		t.Helper()
		_, err := c.CordonWorker(f.ctx, workers[worker])
		must(t, err)
		task, err := beside.BuildTemplate(f.ctx, req)
		must(t, err)
		if task, err = beside.WaitTask(f.ctx, task.ID); err != nil || task.State != "succeeded" {
			t.Fatalf("%s: %+v, %v", req.Name, task, err)
		}
		_, err = c.UncordonWorker(f.ctx, workers[worker])
		must(t, err)
	}
	says := func(template, path, want string) {
		t.Helper()
		for worker := range workers {
			if out, err := one.CLI(f.ctx, "run", "--network", "none", "--template", template+worker, "--", "cat", path); err != nil || out != want {
				t.Errorf("%s%s says %q, %v", template, worker, out, err)
			}
		}
	}

	archive := filepath.Join(t.TempDir(), "rootfs.tar")
	if out, err := exec.CommandContext(f.ctx, "tar", "--numeric-owner", "-C", f.rootfs, "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	in, err := os.Open(archive) //nolint:gosec // of the test
	must(t, err)
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	must(t, err)
	whole, err := c.Upload(f.ctx, in, info.Size())
	must(t, err)
	for worker := range workers { // one of which has not been sent it
		built(worker, api.BuildTemplate{Name: "whole-" + worker, Source: api.TemplateSource{Tar: whole.ID}})
	}
	version, err := os.ReadFile(filepath.Join(f.rootfs, "etc/debian_version")) //nolint:gosec // of the test
	must(t, err)
	says("whole-", "/etc/debian_version", string(version))

	files := tarOf(t, map[string]string{"src/said": "by a file\n"})
	copied, err := c.Upload(f.ctx, bytes.NewReader(files), int64(len(files)))
	must(t, err)
	for worker := range workers { // FROM finds what the worker has
		steps := "FROM whole-" + worker + "\nCOPY src/said /said\n"
		built(worker, api.BuildTemplate{Name: "steps-" + worker, Source: api.TemplateSource{Steps: steps, Context: copied.ID}})
	}
	says("steps-", "/said", "by a file\n")

	f.asSDKs(one, other, files)
	for _, g := range []*server.Server{one, other} {
		if left, err := filepath.Glob(filepath.Join(g.DataDir, "uploads", "*", "*")); err != nil || len(left) > 0 {
			t.Errorf("a gateway keeps %v, %v", left, err)
		}
	}
}

// asSDKs builds a template of files with each request to the other gateway.
func (f *field) asSDKs(one, other *server.Server, files []byte) {
	t := f.t
	t.Helper()
	a, b := sandboxesOf(f, one), sandboxesOf(f, other)
	var made struct{ TemplateID, BuildID string }
	_, err := f.client(one).CordonWorker(f.ctx, "worker-2")
	must(t, err)
	a.control(202, http.MethodPost, "/v3/templates", `{"name":"sdk"}`, &made)
	var where struct {
		Present bool
		URL     string
	}
	b.control(201, http.MethodGet, "/templates/sdk/files/abc123", "", &where)
	if where.Present {
		t.Error("files are there that were not sent")
	}
	path := strings.TrimPrefix(where.URL, other.URL)
	if status, text := a.ask(http.MethodPut, path, string(files), nil); status != 200 {
		t.Fatalf("sending files: %d %s", status, text)
	}
	if status, _ := b.ask(http.MethodPut, path, string(files), nil); status != 404 {
		t.Errorf("sending files by an address again: %d", status)
	}
	b.control(201, http.MethodGet, "/templates/sdk/files/abc123", "", &where)
	if !where.Present {
		t.Error("files are not there that were sent")
	}
	b.control(202, http.MethodPost, "/v2/templates/sdk/builds/"+made.BuildID,
		`{"fromTemplate":"whole-worker-1","steps":[{"type":"USER","args":["root"]},{"type":"COPY","args":["src/said","/sdk","",""],"filesHash":"abc123"}]}`, nil)
	var is struct {
		Status string
		Logs   []string
	}
	for is.Status != "ready" {
		a.control(200, http.MethodGet, "/templates/sdk/builds/"+made.BuildID+"/status", "", &is)
		if is.Status == "error" {
			t.Fatalf("%+v", is)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-f.ctx.Done():
			t.Fatal(f.ctx.Err())
		}
	}
	if out, err := other.CLI(f.ctx, "run", "--network", "none", "--template", "sdk", "--", "cat", "/sdk"); err != nil || out != "by a file\n" {
		t.Errorf("it says %q, %v", out, err)
	}
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range files {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}
