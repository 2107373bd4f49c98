package e2b

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Who may have what is below closed/ in the registry of a test.
const (
	registryUser     = "robot"
	registryPassword = "pass: w0rd"
)

// images runs a registry on loopback with one image, open/shell and closed/shell,
// and gives its host and port. hold, if set, sees each request first.
func images(t *testing.T, hold func(*http.Request)) string {
	t.Helper()
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hold != nil {
			hold(r)
		}
		if user, password, _ := r.BasicAuth(); strings.HasPrefix(r.URL.Path, "/v2/closed/") && (user != registryUser || password != registryPassword) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	image := shell(t)
	for _, repository := range []string{"open/shell", "closed/shell"} {
		ref, err := name.ParseReference(host + "/" + repository + ":v1")
		must(t, err)
		must(t, remote.Write(ref, image, remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword})))
	}
	return host
}

// shell is an image of a few of this host's programs.
func shell(t *testing.T) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	known := map[string]bool{}
	add := func(to, content string, mode int64) {
		t.Helper()
		if known[to] {
			return
		}
		known[to] = true
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(to, "/"), Size: int64(len(content)), Mode: mode}))
		_, err := io.WriteString(w, content)
		must(t, err)
	}
	program := func(from, to string) {
		t.Helper()
		content, err := os.ReadFile(from)
		must(t, err)
		add(to, string(content), 0o755)
	}
	for _, tool := range []string{"bash", "sh", "cat", "id"} {
		path, err := exec.LookPath(tool)
		must(t, err)
		program(path, "/usr/bin/"+tool)
		out, err := exec.CommandContext(t.Context(), "ldd", path).Output()
		must(t, err)
		for field := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(field, "/") { // as ldd(1) tells
				program(field, field)
			}
		}
	}
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin", Linkname: "usr/bin", Mode: 0o777}))
	add("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/bash\n", 0o644)
	add("/etc/group", "root:x:0:\nuser:x:1000:\n", 0o644)
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "home/user/", Mode: 0o755, Uid: 1000, Gid: 1000}))
	must(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	must(t, err)
	file, err := image.ConfigFile()
	must(t, err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config.Env = []string{"PATH=/usr/bin", "OF_IMAGE=yes"}
	image, err = mutate.ConfigFile(image, file)
	must(t, err)
	return image
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
