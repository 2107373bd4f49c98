package image_test

import (
	"archive/tar"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

// baseLike has everything that base promises, by name.
func baseLike() []entry {
	out := []entry{
		{name: "etc/passwd", content: "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/bash\n"}, {name: "etc/sudoers", content: "@includedir /etc/sudoers.d\n"},
		{name: "etc/ssl/certs/ca-certificates.crt", content: "x"}, {name: "usr/lib/git-core/git-daemon", content: "x"},
		{name: "bin", kind: tar.TypeSymlink, link: "usr/bin"}, {name: "usr/bin/python3", kind: tar.TypeSymlink, link: "python3.11"}, {name: "usr/bin/python3.11", content: "x"},
	}
	for _, p := range []string{"bash", "sh", "ls", "cp", "env", "git", "curl", "sudo", "tput", "ps"} {
		out = append(out, entry{name: "usr/bin/" + p, content: p})
	}
	return append(out, entry{name: "usr/local/bin/node", content: "x"})
}

func TestBaseFromImage(t *testing.T) {
	t.Parallel()
	needRoot(t)
	host := serve(t, nil)
	push(t, host+"/base:v1", imageOf(t, runtime.GOARCH, v1.Config{User: "node", WorkingDir: "/srv"}, layer(t, baseLike()...)))
	lacking := slices.DeleteFunc(baseLike(), func(e entry) bool { return e.name == "usr/bin/sudo" || e.name == "usr/lib/git-core/git-daemon" })
	push(t, host+"/lacking:v1", imageOf(t, runtime.GOARCH, v1.Config{}, layer(t, lacking...)))

	s := open(t, image.Config{BaseImage: host + "/base:v1"})
	r, err := s.BuildBase(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.User != "user" || r.WorkDir != "" || r.Pinned == "" {
		t.Errorf("%+v", r)
	}
	dir := filepath.Join(t.TempDir(), "images")
	_, err = open(t, image.Config{Dir: dir, BaseImage: host + "/lacking:v1"}).BuildBase(t.Context(), "x", nil)
	if !errors.HasCode(err, errors.PreconditionFailed) || errors.Public(err).Message != "the base template lacks sudo, /usr/lib/git-core/git-daemon" {
		t.Errorf("got %v", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestBaseSource(t *testing.T) {
	t.Parallel()
	if src := open(t, image.Config{BaseImage: "example.test/base"}).BaseSource(); src.Image != "example.test/base" {
		t.Errorf("%+v", src)
	}
	src := open(t, image.Config{}).BaseSource()
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		if src.Image != image.FallbackBaseImage {
			t.Errorf("without mmdebstrap: %+v", src)
		}
	} else if !slices.Contains(src.Packages, "git") || src.Suite != image.DefaultSuite {
		t.Errorf("with mmdebstrap: %+v", src)
	}
}

// mirror skips when Debian cannot be reached from here.
func needDebian(t *testing.T) {
	t.Helper()
	needRoot(t)
	if testing.Short() {
		t.Skip("downloads a Debian system")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://deb.debian.org/debian/dists/bookworm/InRelease", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Skip("needs a Debian mirror:", err)
	}
	_ = resp.Body.Close()
}

// TestDebian makes the smallest system that mmdebstrap makes and looks at all
// that is promised of packages, in one build.
func TestDebian(t *testing.T) {
	t.Parallel()
	needDebian(t)
	s := open(t, image.Config{})
	var l log
	r, err := s.Build(t.Context(), "x", domain.TemplateSource{Packages: []string{"ncurses-bin"}}, l.add)
	if err != nil {
		t.Fatal(err)
	}
	passwd, err := os.ReadFile(filepath.Join(r.RootFS, "etc/passwd"))
	if err != nil || !strings.Contains(string(passwd), "\nuser:x:1000:1000::/home/user:/bin/bash\n") {
		t.Errorf("%q, %v", passwd, err)
	}
	for _, p := range []string{"usr/bin/sudo", "etc/ssl/certs/ca-certificates.crt", "usr/bin/tput", "etc/sudoers.d/aetherium", "home/user/.bashrc"} {
		if _, err := os.Stat(filepath.Join(r.RootFS, p)); err != nil {
			t.Error(err)
		}
	}
	if st, err := os.Stat(filepath.Join(r.RootFS, "usr/bin/sudo")); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Error("sudo is not setuid", err)
	}
	if names := entries(t, filepath.Join(r.RootFS, "dev")); len(names) != 0 {
		t.Errorf("/dev has %v", names)
	}
	if !l.has("packages", "downloading packages") || !l.has("packages", "success in") {
		t.Errorf("progress %v", l.lines)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), filepath.Dir(filepath.Dir(r.RootFS))) {
		t.Error("a mount was left behind", err)
	}
}

// TestMirror: what a mirror that has nothing, or is away, comes to.
func TestMirror(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap")
	}
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	dir := filepath.Join(t.TempDir(), "images")
	s := open(t, image.Config{Dir: dir, DebianMirror: srv.URL})
	if _, err := s.Build(t.Context(), "x", domain.TemplateSource{Packages: []string{"git"}}, nil); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("an empty mirror: %v", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}
