package buildctx_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
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
)

type entry struct {
	name, content, link string
	kind                byte
	mode                int64
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Size: int64(len(e.content)), Uid: 1234, Uname: "somebody"}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t testing.TB, content []byte, l buildctx.Limits) (*buildctx.Context, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "context.tar")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return buildctx.Open(context.Background(), file, l)
}

var sample = []entry{
	{name: "./", kind: tar.TypeDir, mode: 0o755},
	{name: "./main.py", content: "main", mode: 0o755},
	{name: "lib/a.py", content: "a"}, // its directory has no entry
	{name: "lib/b.txt", content: "b"},
	{name: "lib/deep/", kind: tar.TypeDir, mode: 0o700},
	{name: "lib/deep/c.py", content: "c"},
	{name: "lib/inner", kind: tar.TypeSymlink, link: "deep/c.py"},
	{name: "lib/wild", kind: tar.TypeSymlink, link: "/etc/passwd"},
	{name: "alias", kind: tar.TypeSymlink, link: "lib/../lib/deep"},
	{name: "up", kind: tar.TypeSymlink, link: "../x"},
	{name: "down-up", kind: tar.TypeSymlink, link: "lib/../../x"},
	{name: "abs", kind: tar.TypeSymlink, link: "/etc/passwd"},
	{name: "dangling", kind: tar.TypeSymlink, link: "nowhere"},
	{name: "loop", kind: tar.TypeSymlink, link: "loop2"},
	{name: "loop2", kind: tar.TypeSymlink, link: "loop"},
}

// list gives the tar that is written, one line per entry.
func list(t *testing.T, s *buildctx.Selection) []string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteTar(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	var out []string
	tr := tar.NewReader(&b)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s belongs to %d %s", h.Name, h.Uid, h.Uname)
		}
		out = append(out, fmt.Sprintf("%c %s %o %s%s", h.Typeflag, h.Name, h.Mode, content, h.Linkname))
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(archive(t, sample...))
	_ = z.Close()
	c, err := open(t, zipped.Bytes(), buildctx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		sources []string
		rename  string
		want    []string
	}{
		{[]string{"main.py"}, "", []string{"0 main.py 755 main"}},
		{[]string{"main.py"}, "app", []string{"0 app 755 main"}},
		{[]string{"lib/deep"}, "", []string{"5 ./ 700 ", "0 c.py 644 c"}},
		{[]string{"alias"}, "", []string{"5 ./ 700 ", "0 c.py 644 c"}},
		{[]string{"alias/c.py"}, "", []string{"0 c.py 644 c"}},
		{[]string{"lib/inner"}, "", []string{"0 inner 644 c"}},
		{[]string{"lib/*.py", "main.*"}, "", []string{"0 main.py 755 main", "0 a.py 644 a"}},
		{[]string{"l?b/[ab].*"}, "", []string{"0 a.py 644 a", "0 b.txt 644 b"}},
		{[]string{"lib"}, "", []string{"5 ./ 755 ", "5 deep/ 700 ", "0 a.py 644 a", "0 b.txt 644 b", "0 deep/c.py 644 c", "2 inner 777 deep/c.py", "2 wild 777 /etc/passwd"}},
		{[]string{"lib/a.py", "lib/inner", "lib/deep/c.py"}, "", []string{"0 a.py 644 a", "0 c.py 644 c", "1 inner 644 c.py"}},
	} {
		m, err := c.Find(tc.sources)
		if err != nil {
			t.Errorf("%v: %v", tc.sources, err)
			continue
		}
		s, err := c.Lay(m, tc.rename)
		if err != nil {
			t.Errorf("%v: %v", tc.sources, err)
			continue
		}
		if got := list(t, s); !slices.Equal(got, tc.want) {
			t.Errorf("%v: got %q, want %q", tc.sources, got, tc.want)
		}
	}
	// What is only followed out of the context is refused where it is followed.
	for source, code := range map[string]errors.Code{
		"up": errors.InvalidArgument, "down-up": errors.InvalidArgument, "abs": errors.InvalidArgument, "lib/wild": errors.InvalidArgument,
		"loop": errors.InvalidArgument, "dangling": errors.NotFound, "none": errors.NotFound, "main.py/x": errors.NotFound, "*.none": errors.NotFound,
	} {
		if _, err := c.Find([]string{source}); !errors.HasCode(err, code) {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	digest := func(source string, entries ...entry) string {
		t.Helper()
		c, err := open(t, archive(t, entries...), buildctx.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Find([]string{source})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Lay(m, "")
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest()
	}
	a := []entry{{name: "d/x", content: "1"}, {name: "d/y", content: "2"}, {name: "other", content: "3"}}
	one := digest("d", a...)
	if got := digest("d", entry{name: "./d/y", content: "2"}, entry{name: "other", content: "changed"}, entry{name: "d/x", content: "1"}); got != one {
		t.Error("order and what is not taken change the digest")
	}
	for what, b := range map[string][]entry{
		"content": {{name: "d/x", content: "9"}, a[1]},
		"name":    {{name: "d/z", content: "1"}, a[1]},
		"mode":    {{name: "d/x", content: "1", mode: 0o600}, a[1]},
		"kind":    {{name: "d/x", kind: tar.TypeSymlink, link: "1"}, a[1]},
		"fewer":   {a[0]},
	} {
		if digest("d", b...) == one {
			t.Errorf("another %s has the same digest", what)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		entries []entry
		limits  buildctx.Limits
		code    errors.Code
	}{
		"absolute":      {entries: []entry{{name: "/etc/passwd"}}},
		"climbing":      {entries: []entry{{name: "../x"}}},
		"climbing back": {entries: []entry{{name: "a/../../x"}}},
		"inner dots":    {entries: []entry{{name: "a/../x"}}},
		"through a link": {entries: []entry{
			{name: "a", kind: tar.TypeSymlink, link: "/etc"}, {name: "a/passwd", content: "x"},
		}},
		"below a file":     {entries: []entry{{name: "a"}, {name: "a/b"}}},
		"twice":            {entries: []entry{{name: "a", content: "1"}, {name: "./a", content: "2"}}},
		"link over a dir":  {entries: []entry{{name: "a/", kind: tar.TypeDir}, {name: "a", kind: tar.TypeSymlink, link: "/"}}},
		"root as link":     {entries: []entry{{name: ".", kind: tar.TypeSymlink, link: "/"}}},
		"hard link":        {entries: []entry{{name: "a"}, {name: "b", kind: tar.TypeLink, link: "a"}}},
		"hard link out":    {entries: []entry{{name: "b", kind: tar.TypeLink, link: "/etc/passwd"}}},
		"device":           {entries: []entry{{name: "a", kind: tar.TypeBlock}}},
		"pipe":             {entries: []entry{{name: "a", kind: tar.TypeFifo}}},
		"too deep":         {entries: []entry{{name: strings.Repeat("x/", 200) + "y"}}},
		"too long":         {entries: []entry{{name: strings.Repeat(strings.Repeat("x", 200)+"/", 30) + "y"}}},
		"too many entries": {entries: []entry{{name: "a"}, {name: "b"}, {name: "c"}}, limits: buildctx.Limits{Entries: 2}, code: errors.TooLarge},
		"too many bytes":   {entries: []entry{{name: "a", content: "12"}, {name: "b", content: "34"}}, limits: buildctx.Limits{Bytes: 3}, code: errors.TooLarge},
	} {
		if tc.code == "" {
			tc.code = errors.InvalidArgument
		}
		if _, err := open(t, archive(t, tc.entries...), tc.limits); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v", what, err)
		}
	}
	good := archive(t, sample...)
	for what, content := range map[string][]byte{"cut short": good[:700], "no tar": []byte(strings.Repeat("no tar at all ", 100)), "empty": {}} {
		if _, err := open(t, content, buildctx.Limits{}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := buildctx.Open(context.Background(), "/nowhere", buildctx.Limits{}); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("absent: %v", err)
	}
}

// A file of one source in the place of another's directory has no meaning.
func TestFileMeetsDirectory(t *testing.T) {
	t.Parallel()
	c, err := open(t, archive(t, entry{name: "a/x", content: "1"}, entry{name: "b/x/y", content: "2"}), buildctx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Find([]string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lay(m, ""); !errors.HasCode(err, errors.InvalidArgument) {
		t.Error(err)
	}
}

// What sources cost is bounded, however often they name everything.
func TestSourcesThatNameTooMuch(t *testing.T) {
	t.Parallel()
	var many []entry
	for i := range 200 {
		many = append(many, entry{name: fmt.Sprintf("d/%d", i)})
	}
	c, err := open(t, archive(t, many...), buildctx.Limits{Looks: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		m, err := c.Find(slices.Repeat([]string{"d/*"}, 256))
		if err == nil {
			_, err = c.Lay(m, "")
		}
		if err != nil {
			if !errors.HasCode(err, errors.TooLarge) {
				t.Error(err)
			}
			return
		}
	}
	t.Error("there is no bound")
}

func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "context.tar")
	if err := os.WriteFile(file, archive(t, entry{name: "a", content: "1"}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := buildctx.Open(context.Background(), file, buildctx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Find([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Lay(m, "")
	if err != nil {
		t.Fatal(err)
	}
	for what, e := range map[string]entry{"gone": {name: "b"}, "longer": {name: "a", content: "22"}} {
		if err := os.WriteFile(file, archive(t, e), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteTar(context.Background(), io.Discard); !errors.HasCode(err, errors.Conflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzOpen: no archive crashes the reader, and what can be taken from one it
// accepts has proper names only.
func FuzzOpen(f *testing.F) {
	f.Add(archive(f, sample...), "lib/*")
	f.Add(archive(f, entry{name: "../x"}), "x")
	f.Fuzz(func(t *testing.T, content []byte, source string) {
		c, err := open(t, content, buildctx.Limits{Bytes: 1 << 20, Entries: 1000})
		if err != nil {
			return
		}
		m, err := c.Find([]string{source})
		if err != nil {
			return
		}
		s, err := c.Lay(m, "")
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := s.WriteTar(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(&b)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !filepath.IsLocal(h.Name) {
				t.Fatalf("%q", h.Name)
			}
		}
	})
}
