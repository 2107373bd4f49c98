package gateway_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	files := "/vms/" + l.vm().ID + "/files"
	info := get[wire.FileInfo](l, 200, req{method: "PUT", path: files + "?path=/data/a.txt&mode=0640", body: []byte("0123456789")})
	if info.SizeBytes != 10 || info.Mode != "0640" || info.Path != "/data/a.txt" {
		t.Fatalf("info %+v", info)
	}
	if got := get[wire.FileInfo](l, 200, req{method: "GET", path: files + "/stat?path=/data/a.txt&user=user"}); got.Name != "a.txt" || got.Mode != "0640" {
		t.Fatalf("stat %+v", got)
	}
	head, _ := l.want(200, req{method: "HEAD", path: files + "?path=/data/a.txt"})
	tag := head.Header.Get("ETag")
	if head.Header.Get("Content-Length") != "10" || head.Header.Get("X-File-Mode") != "0640" || tag == "" {
		t.Fatalf("head %v", head.Header)
	}
	for _, tc := range []struct {
		name, ranges string
		header       map[string]string
		status       int
		body, cr     string
	}{
		{name: "whole", status: 200, body: "0123456789"},
		{name: "beginning", ranges: "bytes=0-3", status: 206, body: "0123", cr: "bytes 0-3/10"},
		{name: "from", ranges: "bytes=7-", status: 206, body: "789", cr: "bytes 7-9/10"},
		{name: "end", ranges: "bytes=-4", status: 206, body: "6789", cr: "bytes 6-9/10"},
		{name: "past the end", ranges: "bytes=8-99", status: 206, body: "89", cr: "bytes 8-9/10"},
		{name: "outside", ranges: "bytes=10-", status: 416, cr: "bytes */10"},
		{name: "several", ranges: "bytes=0-1,4-5", status: 200, body: "0123456789"},
		{name: "nonsense", ranges: "bytes=5-2", status: 200, body: "0123456789"},
		{name: "other unit", ranges: "lines=1-2", status: 200, body: "0123456789"},
		{name: "same", header: map[string]string{"If-None-Match": tag}, status: 304},
		{name: "changed", ranges: "bytes=1-2", header: map[string]string{"If-Range": `"other"`}, status: 200, body: "0123456789"},
		{name: "unchanged", ranges: "bytes=1-2", header: map[string]string{"If-Range": tag}, status: 206, body: "12", cr: "bytes 1-2/10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := map[string]string{}
			for k, v := range tc.header {
				h[k] = v
			}
			if tc.ranges != "" {
				h["Range"] = tc.ranges
			}
			resp, body := l.want(tc.status, req{method: "GET", path: files + "?path=/data/a.txt", header: h})
			if tc.status < 400 && string(body) != tc.body || resp.Header.Get("Content-Range") != tc.cr {
				t.Fatalf("%q, Content-Range %q", body, resp.Header.Get("Content-Range"))
			}
			if tc.status == 200 && (resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Content-Security-Policy") != "sandbox") {
				t.Fatalf("a browser might run the file: %v", resp.Header)
			}
		})
	}
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: files + "?path=/data/a.txt&user=Bad%20User"})
	l.problem(404, errors.NotFound, req{method: "GET", path: files + "?path=/none"})
	l.problem(404, errors.NotFound, req{method: "GET", path: files + "?path=/data/a.txt", key: l.other})

	get[wire.FileInfo](l, 200, req{method: "POST", path: files + "/mkdir", body: `{"path":"/data/dir"}`})
	l.problem(409, errors.AlreadyExists, req{method: "POST", path: files + "/mkdir", body: `{"path":"/data/dir"}`})
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: files + "?path=/data/dir"})
	get[wire.FileInfo](l, 200, req{method: "POST", path: files + "/move", body: `{"from":"/data/a.txt","to":"/data/dir/b.txt"}`})
	list := get[wire.List[wire.FileInfo]](l, 200, req{method: "GET", path: files + "/list?path=/data/dir"})
	if len(list.Items) != 1 || list.Items[0].Name != "b.txt" {
		t.Fatalf("list %+v", list)
	}
	l.want(204, req{method: "DELETE", path: files + "?path=/data/dir/b.txt"})
	l.problem(404, errors.NotFound, req{method: "GET", path: files + "/stat?path=/data/dir/b.txt"})
}

func TestTar(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	files := "/vms/" + l.vm().ID + "/files"
	pack := func(names ...string) []byte {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, n := range names {
			_ = tw.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(n))})
			_, _ = tw.Write([]byte(n))
		}
		_ = tw.Close()
		return buf.Bytes()
	}
	l.want(204, req{method: "PUT", path: files + "/tar?path=/in", body: pack("a", "b/c")})
	resp, body := l.want(200, req{method: "GET", path: files + "/tar?path=/in"})
	if resp.Header.Get("Content-Type") != "application/x-tar" {
		t.Fatalf("headers %v", resp.Header)
	}
	found := map[string]string{}
	for tr := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(tr)
		found[h.Name] = string(content)
	}
	if len(found) != 2 || found["a"] != "a" || found["b/c"] != "b/c" {
		t.Fatalf("tar %v", found)
	}
	l.problem(400, errors.InvalidArgument, req{method: "PUT", path: files + "/tar?path=/in", body: pack("../out")})
	l.problem(404, errors.NotFound, req{method: "GET", path: files + "/tar?path=/none"})
}

func TestBodyBounds(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.MaxFileBytes, c.MaxUploadBytes = 1000, 1000 })
	files := "/vms/" + l.vm().ID + "/files"
	exact, over := bytes.Repeat([]byte("x"), 1000), bytes.Repeat([]byte("x"), 1001)
	get[wire.FileInfo](l, 200, req{method: "PUT", path: files + "?path=/a", body: exact})
	l.problem(413, errors.TooLarge, req{method: "PUT", path: files + "?path=/a", body: over})
	// A body that does not say how long it is.
	l.problem(413, errors.TooLarge, req{method: "PUT", path: files + "?path=/a", body: io.MultiReader(bytes.NewReader(over))})
	l.problem(413, errors.TooLarge, req{method: "PUT", path: "/uploads", body: io.MultiReader(bytes.NewReader(over))})
	l.problem(413, errors.TooLarge, req{method: "POST", path: "/vms", body: `{"metadata":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`})
	// What was there is untouched.
	if _, body := l.want(200, req{method: "GET", path: files + "?path=/a"}); !bytes.Equal(body, exact) {
		t.Fatalf("%d bytes", len(body))
	}
}

func TestLargeFileBothWays(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	files := "/vms/" + l.vm().ID + "/files?path=/big"
	content := make([]byte, 40<<20)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	get[wire.FileInfo](l, 200, req{method: "PUT", path: files, body: io.MultiReader(bytes.NewReader(content))})
	resp, body := l.want(200, req{method: "GET", path: files})
	if !bytes.Equal(body, content) || resp.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
		t.Fatalf("%d bytes came back", len(body))
	}
}

func TestUploadsAndTemplates(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	up := get[wire.Upload](l, 201, req{method: "PUT", path: "/uploads", body: []byte("a tar, says its sender")})
	if up.SizeBytes != 22 || len(up.SHA256) != 64 {
		t.Fatalf("upload %+v", up)
	}
	l.problem(400, errors.InvalidArgument, req{method: "PUT", path: "/uploads", body: []byte{}})
	resp, _ := l.want(202, req{method: "POST", path: "/templates", key: l.user, body: wire.BuildTemplate{Name: "mine", Source: wire.TemplateSource{Tar: up.ID}}})
	built := l.core.Built()
	if len(built) != 1 || built[0].Source.Tar != up.ID || !strings.HasPrefix(resp.Header.Get("Location"), wire.BasePath+"/tasks/") {
		t.Fatalf("built %+v", built)
	}
	got := get[wire.Template](l, 200, req{method: "GET", path: "/templates/mine"})
	if len(got.Builds) != 1 || strings.Contains(got.Builds[0].Source.Tar, "/") {
		t.Fatalf("a path on the server shows: %+v", got)
	}
	_, log := l.want(200, req{method: "GET", path: "/templates/builds/" + got.Builds[0].ID + "/log?offset=7"})
	if string(log) != "step 2\n" {
		t.Fatalf("log %q", log)
	}
	for _, tc := range []struct {
		name   string
		source wire.TemplateSource
		key    string
		status int
		code   errors.Code
	}{
		{"another project's upload", wire.TemplateSource{Tar: up.ID}, l.other, 404, errors.NotFound},
		{"another project's context", wire.TemplateSource{Steps: "FROM base", Context: up.ID}, l.other, 404, errors.NotFound},
		{"a context's path, no administrator", wire.TemplateSource{Steps: "FROM base", Context: "/etc/x.tar"}, l.user, 403, errors.PermissionDenied},
		{"a context that is no step's", wire.TemplateSource{Image: "a", Context: up.ID}, l.user, 400, errors.InvalidArgument},
		{"steps and packages", wire.TemplateSource{Steps: "FROM base", Packages: []string{"git"}}, l.user, 400, errors.InvalidArgument},
		{"a directory, no administrator", wire.TemplateSource{Dir: "/etc"}, l.user, 403, errors.PermissionDenied},
		{"a tar path, no administrator", wire.TemplateSource{Tar: "/etc/x.tar"}, l.user, 403, errors.PermissionDenied},
		{"a relative path", wire.TemplateSource{Dir: "etc"}, l.admin, 400, errors.InvalidArgument},
		{"a path that climbs", wire.TemplateSource{Dir: "/srv/../etc"}, l.admin, 400, errors.InvalidArgument},
		{"two sources", wire.TemplateSource{Dir: "/srv", Image: "debian"}, l.admin, 400, errors.InvalidArgument},
		{"none", wire.TemplateSource{}, l.admin, 400, errors.InvalidArgument},
	} {
		l.problem(tc.status, tc.code, req{method: "POST", path: "/templates", key: tc.key, body: wire.BuildTemplate{Name: "x", Source: tc.source}})
	}
	l.want(202, req{method: "POST", path: "/templates", body: wire.BuildTemplate{Name: "root", Source: wire.TemplateSource{Dir: "/srv/rootfs"}}})
	if list := get[wire.List[wire.Template]](l, 200, req{method: "GET", path: "/templates"}); len(list.Items) != 3 {
		t.Fatalf("templates %+v", list)
	}
	l.want(http.StatusNoContent, req{method: "DELETE", path: "/templates/root"})
	l.problem(404, errors.NotFound, req{method: "GET", path: "/templates/root"})
}
