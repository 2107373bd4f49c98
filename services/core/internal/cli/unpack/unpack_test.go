package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/unpack"
)

// entry is one entry of an archive.
type entry struct {
	kind       byte
	name, link string
	mode       int64
	body       string
}

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)), ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, body string) entry {
	return entry{kind: tar.TypeReg, name: name, mode: 0o644, body: body}
}
func dir(name string) entry { return entry{kind: tar.TypeDir, name: name, mode: 0o755} }
func link(name, to string) entry {
	return entry{kind: tar.TypeSymlink, name: name, link: to, mode: 0o777}
}
func hard(name, to string) entry { return entry{kind: tar.TypeLink, name: name, link: to, mode: 0o644} }

// world is a directory with the target in it and something precious beside it.
type world struct{ dir, target, secret string }

const precious = "precious"

func newWorld(t *testing.T) world {
	t.Helper()
	d := t.TempDir()
	w := world{d, filepath.Join(d, "target"), filepath.Join(d, "secret")}
	if err := os.Mkdir(w.target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.secret, []byte(precious), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w world) extract(t *testing.T, data []byte, o unpack.Options) (unpack.Result, error) {
	t.Helper()
	root, err := os.OpenRoot(w.target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	return unpack.Extract(t.Context(), root, bytes.NewReader(data), o)
}

// unharmed checks that nothing outside the target is new or changed, and that
// nothing in it leads outside.
func (w world) unharmed(t *testing.T, linksMayLeave bool) {
	t.Helper()
	list, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "target" && e.Name() != "secret" {
			t.Errorf("%s was made outside of the target", e.Name())
		}
	}
	if got, err := os.ReadFile(w.secret); err != nil || string(got) != precious {
		t.Errorf("the file outside now is %q, %v", got, err)
	}
	if info, err := os.Stat(w.secret); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the file outside now has the mode %v, %v", info.Mode(), err)
	}
	err = filepath.WalkDir(w.target, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink == 0 || linksMayLeave {
			return nil
		}
		real, err := filepath.EvalSymlinks(name)
		if err == nil && real != w.target && !strings.HasPrefix(real, w.target+"/") {
			t.Errorf("the link %s leads to %s", name, real)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostileArchivesStayInside(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string][]entry{
		"absolute name":                      {file("/secret", "x")},
		"climbing name":                      {file("../secret", "x")},
		"climbing in the middle":             {file("a/../../secret", "x")},
		"climbing back in":                   {file("a/../b", "x")},
		"climbing directory":                 {dir("../made")},
		"dot dot alone":                      {dir("..")},
		"through a link to the parent":       {link("l", ".."), file("l/secret", "x")},
		"through an absolute link":           {link("l", "/"), file("l/secret", "x")},
		"through a link inside":              {dir("d"), link("l", "d"), file("l/x", "x")},
		"over a link to the secret":          {link("s", "../secret"), file("s", "x")},
		"link to the secret":                 {link("s", "../secret")},
		"absolute link":                      {link("s", "/etc/passwd")},
		"link that climbs behind a name":     {dir("d"), link("s", "d/../../secret")},
		"link deep that climbs too far":      {dir("a"), dir("a/b"), link("a/b/s", "../../../secret")},
		"link that climbs behind a link":     {dir("a"), dir("a/b"), link("a/b/l", "../.."), link("x", "a/b/l/../secret")},
		"link that climbs in a link":         {dir("a"), dir("a/b"), link("a/b/l", "../.."), link("a/b/x", "l/../secret")},
		"link and link below it":             {dir("a"), dir("a/b"), link("a/b/l", "../.."), link("a/b/l/m", "../secret")},
		"directory replaced by a link":       {dir("a"), link("a", ".."), file("a/secret", "x")},
		"link replaced by a directory":       {link("a", ".."), dir("a"), file("a/secret", "x")},
		"hard link to the secret":            {hard("h", "../secret"), file("h", "x")},
		"absolute hard link":                 {hard("h", "/etc/passwd")},
		"hard link through a link":           {link("l", ".."), hard("h", "l/secret"), file("h", "x")},
		"hard link moves a link":             {dir("a"), link("a/l", "../secret"), hard("l", "a/l")},
		"file then hard link then overwrite": {file("f", "x"), hard("h", "f"), file("f", "y")},
		"empty link":                         {entry{kind: tar.TypeSymlink, name: "e", link: "."}, link("e2", "./.././secret")},
		"pipe":                               {{kind: tar.TypeFifo, name: "p", mode: 0o644}},
		"device":                             {{kind: tar.TypeChar, name: "null", mode: 0o666}},
		"very long name":                     {file(strings.Repeat("a/", 3000)+"x", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			data := archive(t, entries...)
			_, _ = w.extract(t, data, unpack.Options{}) // refusing and leaving out are both fine; getting out is not
			w.unharmed(t, false)
			_, _ = w.extract(t, data, unpack.Options{Links: unpack.LinksKeep}) // again, over what is there
			w.unharmed(t, true)
			_ = filepath.WalkDir(w.target, func(name string, d fs.DirEntry, _ error) error {
				if d.Type()&(fs.ModeNamedPipe|fs.ModeDevice) != 0 {
					t.Errorf("%s is a %v", name, d.Type())
				}
				return nil
			})
		})
	}
}

func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	told := map[string]string{}
	result, err := w.extract(t, archive(t, link("out", "/etc"), file("ok", "x"), entry{kind: tar.TypeFifo, name: "pipe"}), unpack.Options{
		Refused: func(name, why string) { told[name] = why },
	})
	if err != nil || result.Refused != 2 || result.Files != 1 || told["out"] == "" || told["pipe"] == "" {
		t.Errorf("%+v, %v, %v", result, told, err)
	}
	_, err = w.extract(t, archive(t, file("../x", "x")), unpack.Options{})
	if !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("got %v", err)
	}
}

func TestHonestTreeComesWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	result, err := w.extract(t, archive(t,
		dir("."), dir("d"), file("d/f", "body"), entry{kind: tar.TypeReg, name: "d/run", mode: 0o4755, body: "#!"},
		entry{kind: tar.TypeDir, name: "ro", mode: 0o555}, file("ro/f", "in a read-only directory"),
		link("d/up", "../top"), link("near", "d/f"), file("no/parent/entry", "x"), hard("d/hard", "d/f"), file("top", "t"),
	), unpack.Options{})
	if err != nil || result.Refused != 0 || result.Files != 8 {
		t.Fatalf("%+v, %v", result, err)
	}
	for name, want := range map[string]string{"d/f": "body", "near": "body", "d/up": "t", "ro/f": "in a read-only directory", "no/parent/entry": "x", "d/hard": "body"} {
		if got, err := os.ReadFile(filepath.Join(w.target, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	info, err := os.Stat(filepath.Join(w.target, "d/run"))
	if err != nil || info.Mode()&0o111 == 0 || info.Mode()&fs.ModeSetuid != 0 || !info.ModTime().Equal(time.Unix(1e9, 0)) {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(w.target, "ro")); err != nil || info.Mode().Perm()&0o200 != 0 || !info.ModTime().Equal(time.Unix(1e9, 0)) {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chmod(filepath.Join(w.target, "ro"), 0o755); err != nil { // for the clean-up
		t.Fatal(err)
	}
}

func TestUsersLinksAreNotWrittenThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Symlink(w.secret, filepath.Join(w.target, "mine")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(w.dir, filepath.Join(w.target, "dir")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.extract(t, archive(t, file("mine", "x")), unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.extract(t, archive(t, file("dir/secret", "x")), unpack.Options{}); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("got %v", err)
	}
	w.unharmed(t, true)
}

func TestBrokenStreams(t *testing.T) {
	t.Parallel()
	whole := archive(t, file("f", strings.Repeat("x", 10_000)))
	for name, tc := range map[string]struct {
		data []byte
		code errors.Code
	}{
		"cut within a file":   {whole[:5000], errors.Unavailable},
		"cut within a header": {whole[:100], errors.Unavailable},
		"no tar":              {bytes.Repeat([]byte("nonsense"), 200), errors.GuestFault},
	} {
		w := newWorld(t)
		if _, err := w.extract(t, tc.data, unpack.Options{}); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: got %v", name, err)
		}
		if list, _ := os.ReadDir(w.target); len(list) != 0 {
			t.Errorf("%s: half a file is left", name)
		}
	}
}

func TestExtractEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, err := os.OpenRoot(w.target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = unpack.Extract(ctx, root, bytes.NewReader(archive(t, file("f", "x"))), unpack.Options{})
	if !errors.HasCode(err, errors.Canceled) {
		t.Errorf("got %v", err)
	}
}
