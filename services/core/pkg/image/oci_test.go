package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	stdlog "log"
	"runtime"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

// serve runs an in-memory registry on loopback behind a filter.
func serve(t *testing.T, filter func(next http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(stdlog.New(io.Discard, "", 0)))
	if filter != nil {
		h = filter(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

type entry struct {
	name, content, link string
	kind                byte
	mode                int64
}

func layer(t *testing.T, entries ...entry) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Size: int64(len(e.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, arch string, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, cfg
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, reference string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func TestPull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	host := serve(t, nil)
	ours := imageOf(t, runtime.GOARCH, v1.Config{
		Env: []string{"PATH=/app/bin:/usr/bin", "GREETING=hi=there", "BROKEN"}, WorkingDir: "/app", User: "app:app",
	},
		layer(t, entry{name: "etc/passwd", content: "root:x:0:0::/root:/bin/sh\napp:x:7:7::/app:/bin/sh\n"}, entry{name: "bin/sh", content: "sh"},
			entry{name: "app/old", content: "1"}, entry{name: "bin/su", content: "su", mode: 0o4755}),
		layer(t, entry{name: "app/.wh.old"}, entry{name: "app/new", content: "2"}, entry{name: "bin/ash", kind: tar.TypeLink, link: "bin/sh"}),
	)
	theirs := imageOf(t, otherArch(), v1.Config{}, layer(t, entry{name: "wrong"}))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: theirs, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: otherArch()}}},
		mutate.IndexAddendum{Add: ours, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	ref, err := name.ParseReference(host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	s := open(t, image.Config{})
	var l log
	r, err := s.Build(t.Context(), "x", domain.TemplateSource{Image: host + "/team/app:v1"}, l.add)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := ours.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if r.Pinned != host+"/team/app@"+digest.String() || r.WorkDir != "/app" || r.User != "app:app" ||
		r.Env["PATH"] != "/app/bin:/usr/bin" || r.Env["GREETING"] != "hi=there" || r.Env["LANG"] != "C.UTF-8" || len(r.Env) != 3 {
		t.Errorf("%+v", r)
	}
	for at, want := range map[string]string{"app/new": "2", "bin/ash": "sh"} {
		if b, err := os.ReadFile(filepath.Join(r.RootFS, at)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", at, b, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(r.RootFS, "app/old")); !os.IsNotExist(err) {
		t.Error("the whiteout was not applied:", err)
	}
	if st, err := os.Stat(filepath.Join(r.RootFS, "bin/su")); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Error("the setuid bit was lost:", st.Mode(), err)
	}
	if !l.has("pull", "downloaded") || !l.has("unpack", "layer 2 of 2") || !l.has("pull", r.Pinned) {
		t.Errorf("progress %v", l.lines)
	}
	// The pinned reference gives the same content again.
	again, err := s.Build(t.Context(), "y", domain.TemplateSource{Image: r.Pinned}, nil)
	if err != nil || again.Digest != r.Digest {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestPullRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var status atomic.Int64
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.URL.Path, "/private/"):
				w.WriteHeader(http.StatusUnauthorized)
			case strings.Contains(r.URL.Path, "/denied/"):
				w.WriteHeader(http.StatusForbidden)
			case strings.Contains(r.URL.Path, "/limited/"):
				w.WriteHeader(http.StatusTooManyRequests)
			case strings.Contains(r.URL.Path, "/lying/blobs/") && r.Method == http.MethodGet && status.Load() == 1:
				_, _ = io.WriteString(w, "not what was asked for")
			default:
				next.ServeHTTP(w, r)
			}
		})
	})
	good := imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, entry{name: "a", content: strings.Repeat("a", 2000)}))
	push(t, host+"/lying:v1", good)
	push(t, host+"/other:v1", imageOf(t, otherArch(), v1.Config{}, layer(t, entry{name: "a"})))
	push(t, host+"/evil:v1", imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, entry{name: "../../escaped", content: "x"})))
	push(t, host+"/foreign:v1", imageOf(t, runtime.GOARCH, v1.Config{}, static.NewLayer([]byte("x"), types.MediaType("application/x-surprise"))))
	status.Store(1)
	gone := httptest.NewServer(http.NotFoundHandler())
	away := strings.TrimPrefix(gone.URL, "http://")
	gone.Close()
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, image.Config{Dir: dir, Limits: image.Limits{Bytes: 1500}})
	for _, tc := range []struct {
		name, ref string
		code      errors.Code
	}{
		{"no such image", host + "/none:v1", errors.NotFound},
		{"another architecture", host + "/other:v1", errors.InvalidArgument},
		{"needs credentials", host + "/private/x:v1", errors.Unauthenticated},
		{"denied", host + "/denied/x:v1", errors.PermissionDenied},
		{"too many pulls", host + "/limited/x:v1", errors.RateLimited},
		{"another blob than promised", host + "/lying:v1", errors.Unavailable},
		{"an escape", host + "/evil:v1", errors.InvalidArgument},
		{"a foreign layer", host + "/foreign:v1", errors.InvalidArgument},
		{"no registry", away + "/x:v1", errors.Unavailable},
	} {
		_, err := s.Build(t.Context(), "x", domain.TemplateSource{Image: tc.ref}, nil)
		if !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
	status.Store(0)
	if _, err := s.Build(t.Context(), "x", domain.TemplateSource{Image: host + "/lying:v1"}, nil); !errors.HasCode(err, errors.TooLarge) {
		t.Errorf("a layer that unpacks to too much: %v", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	if _, err := os.Stat(filepath.Join(dir, "escaped")); !os.IsNotExist(err) {
		t.Error("an entry escaped:", err)
	}
}

// A pull that is canceled while a layer is on its way ends at once.
// Who builds templates must not make the host ask its own network, nor have
// what the host's credentials give.
func TestUntrustedImages(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var asked atomic.Int64
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			next.ServeHTTP(w, r)
		})
	})
	push(t, host+"/a:v1", imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, entry{kind: tar.TypeReg, name: "f", content: "x"})))
	asked.Store(0)
	_, port, _ := net.SplitHostPort(host)
	s := open(t, image.Config{})
	for i, registry := range []string{host, "localhost:" + port} {
		id := fmt.Sprintf("no%d", i)
		if _, err := s.Build(t.Context(), id, domain.TemplateSource{Image: registry + "/a:v1", Untrusted: true}, nil); !errors.HasCode(err, errors.PermissionDenied) {
			t.Errorf("build from %s: %v", registry, err)
		}
		if _, err := s.Pull(t.Context(), registry+"/a:v1", image.Access{Untrusted: true}, nil); !errors.HasCode(err, errors.PermissionDenied) {
			t.Errorf("pull from %s: %v", registry, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the host's network was asked %d times", n)
	}
	if _, err := s.Build(t.Context(), "trusted", domain.TemplateSource{Image: host + "/a:v1"}, nil); err != nil {
		t.Error(err)
	}
	opened := open(t, image.Config{Registries: []string{host}})
	if _, err := opened.Build(t.Context(), "opened", domain.TemplateSource{Image: host + "/a:v1", Untrusted: true}, nil); err != nil {
		t.Error(err)
	}
}

// Who names a user and a password is asked for nothing else, and they are kept nowhere.
func TestPullWithALogin(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const user, password = "robot", "pass: w0rd"
	var closed atomic.Bool
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); closed.Load() && (u != user || p != password) {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	push(t, host+"/a:v1", imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, entry{kind: tar.TypeReg, name: "f", content: "x"})))
	closed.Store(true)
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, image.Config{Dir: dir, Registries: []string{host}})
	for _, how := range []image.Access{{}, {Untrusted: true}, {Username: user, Password: "other"}, {Username: "other", Password: password, Untrusted: true}} {
		_, err := s.Pull(t.Context(), host+"/a:v1", how, nil)
		if !errors.HasCode(err, errors.Unauthenticated) || strings.Contains(err.Error(), password) {
			t.Errorf("%+v: %v", how, err)
		}
	}
	var l log
	for _, how := range []image.Access{{Username: user, Password: password}, {Username: user, Password: password, Untrusted: true}} {
		if _, err := s.Pull(t.Context(), host+"/a:v1", how, l.add); err != nil {
			t.Errorf("%+v: %v", how, err)
		}
	}
	if text := fmt.Sprint(l.lines); strings.Contains(text, password) || strings.Contains(text, user) {
		t.Errorf("it says %s", text)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte(password)) {
			t.Errorf("%s holds it: %v", path, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// It opens no address that is not public.
	if _, err := open(t, image.Config{}).Pull(t.Context(), host+"/a:v1", image.Access{Username: user, Password: password, Untrusted: true}, nil); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("at a private address: %v", err)
	}
}

func TestPullCanceled(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pushed atomic.Bool
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if pushed.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(r.Header.Get("Accept"), "manifest") {
				cancel()
				<-r.Context().Done() // until the client hangs up
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	push(t, host+"/slow:v1", imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, entry{name: "a", content: "a"})))
	pushed.Store(true)
	dir := filepath.Join(t.TempDir(), "images")
	if _, err := open(t, image.Config{Dir: dir}).Build(ctx, "x", domain.TemplateSource{Image: host + "/slow:v1"}, nil); !errors.HasCode(err, errors.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}
