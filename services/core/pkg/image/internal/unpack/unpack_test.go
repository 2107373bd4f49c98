package unpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

var limits = unpack.Limits{Bytes: 1 << 20, Entries: 1000}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), PAXRecords: map[string]string{"AETHERIUM.content": content}}
}
func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}
func hard(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}
}

// archive writes a tar; contents travel in the headers of file().
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := h.PAXRecords["AETHERIUM.content"]
		h.PAXRecords = maps.Clone(h.PAXRecords) // entries are used again
		delete(h.PAXRecords, "AETHERIUM.content")
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1e9, 0)
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type place struct{ base, root, outside string }

func newPlace(t testing.TB) place {
	t.Helper()
	base := t.TempDir()
	p := place{base, filepath.Join(base, "root"), filepath.Join(base, "outside")}
	for _, d := range []string{p.root, p.outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(p.outside, "secret"), []byte("host"), 0o640); err != nil {
		t.Fatal(err)
	}
	return p
}

// untouched fails when anything beside the root is not as newPlace made it.
func (p place) untouched(t testing.TB) {
	t.Helper()
	var names []string
	for _, d := range []string{p.base, p.outside} {
		list, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list {
			names = append(names, n.Name())
		}
	}
	if !slices.Equal(names, []string{"outside", "root", "secret"}) {
		t.Fatalf("there is something new outside: %v", names)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(p.outside, "secret"), &st); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(p.outside, "secret"))
	if err != nil || string(content) != "host" || st.Mode != unix.S_IFREG|0o640 || st.Nlink != 1 {
		t.Fatalf("the outside was changed: %q, mode %o, %d links, %v", content, st.Mode, st.Nlink, err)
	}
}

type applied struct {
	err   error
	notes []string
	bytes int64
}

func (p place) unpack(t testing.TB, ctx context.Context, l unpack.Limits, layers bool, archives ...[]byte) applied { //nolint:revive // t first, as in every helper
	t.Helper()
	tr, err := tree.Open(p.root)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	var out applied
	u := unpack.New(tr, l, os.Geteuid() == 0, func(s string) { out.notes = append(out.notes, s) })
	for _, a := range archives {
		if layers {
			out.err = u.Layer(ctx, bytes.NewReader(a))
		} else {
			out.err = u.Tar(ctx, bytes.NewReader(a))
		}
		if out.err != nil {
			break
		}
	}
	out.bytes = u.Bytes()
	return out
}

// listing is the tree as sorted lines: path, "/" for directories, " -> target".
func (p place) listing(t testing.TB) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(p.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == p.root {
			return err
		}
		line := strings.TrimPrefix(name, p.root+"/")
		switch {
		case d.IsDir():
			line += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 256)
	var deep []tar.Header // a link that makes short names long: each step doubles the real path
	at := ""
	for i := range 16 {
		name := strings.Repeat("d", 250)
		at += "/" + name
		deep = append(deep, dir(at[1:]), link(fmt.Sprintf("s%d", i), at))
		at = fmt.Sprintf("/s%d", i)
	}
	for _, tc := range []struct {
		name    string
		entries []tar.Header
		limits  unpack.Limits
		code    errors.Code // "": it is unpacked, but inside
		want    string      // in the error, or a path that must exist
	}{
		{"dot dot", []tar.Header{file("../outside/secret", "x")}, limits, errors.InvalidArgument, "leads out of the root"},
		{"dot dot later", []tar.Header{file("a/../../outside/secret", "x")}, limits, errors.InvalidArgument, "leads out of the root"},
		{"absolute", []tar.Header{file("/outside/secret", "x")}, limits, "", "outside/secret"},
		{"through a link up", []tar.Header{link("l", ".."), file("l/outside/secret", "x")}, limits, "", "outside/secret"},
		{"through an absolute link", []tar.Header{link("l", "/outside"), dir("outside"), file("l/secret", "x")}, limits, "", "outside/secret"},
		{"through a dangling link", []tar.Header{link("l", "nowhere"), file("l/secret", "x")}, limits, errors.InvalidArgument, "cannot be unpacked"},
		{"through a chain of links", []tar.Header{dir("a"), link("a/b", ".."), link("c", "a/b/../.."), file("c/outside/secret", "x")}, limits, "", "outside/secret"},
		{"over a link", []tar.Header{link("l", "../outside/secret"), file("l", "x")}, limits, "", "l"},
		{"a directory over a link", []tar.Header{link("l", "../outside"), dir("l"), file("l/secret", "x")}, limits, "", "l/secret"},
		{"a link over a directory", []tar.Header{dir("d"), file("d/x", "x"), link("d", "../outside"), file("d/secret", "x")}, limits, errors.InvalidArgument, "cannot be unpacked"},
		{"a hard link out", []tar.Header{hard("h", "../outside/secret")}, limits, errors.InvalidArgument, "leads out of the root"},
		{"an absolute hard link out", []tar.Header{hard("h", "/etc/passwd")}, limits, errors.InvalidArgument, "is not in the archive"},
		{"a hard link through a link", []tar.Header{link("l", "../outside"), hard("h", "l/secret")}, limits, errors.InvalidArgument, "is not in the archive"},
		{"a hard link to a link", []tar.Header{link("l", "../outside/secret"), hard("h", "l"), file("h", "x")}, limits, "", "h"},
		{"a hard link to a directory", []tar.Header{dir("d"), hard("h", "d")}, limits, errors.InvalidArgument, "is not a file"},
		{"a hard link to the root", []tar.Header{hard("h", ".")}, limits, errors.InvalidArgument, "names the root"},
		{"below a file", []tar.Header{file("f", "x"), file("f/g", "x")}, limits, errors.InvalidArgument, "cannot be unpacked"},
		{"a giant name", []tar.Header{file(long, "x")}, limits, errors.InvalidArgument, "exceeds the limit of 255"},
		{"a giant path", []tar.Header{file(strings.Repeat("p/", 2000)+"p", "x")}, limits, errors.InvalidArgument, "exceeds the limit of 3072"},
		{"a giant real path", deep, limits, errors.InvalidArgument, "exceeds the limit of 3072"},
		{"a giant link target", []tar.Header{link("l", strings.Repeat("t", 5000))}, limits, errors.InvalidArgument, "too long"},
		{"too many entries", []tar.Header{dir("a"), dir("b"), dir("c")}, unpack.Limits{Bytes: 10, Entries: 2}, errors.TooLarge, "more than 2 entries"},
		{"too many bytes", []tar.Header{file("a", "12345"), file("b", "123456")}, unpack.Limits{Bytes: 10, Entries: 10}, errors.TooLarge, "exceeds the limit of 10 bytes"},
		{"the root is a file", []tar.Header{file(".", "")}, limits, errors.InvalidArgument, "root is not a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			got := p.unpack(t, t.Context(), tc.limits, false, archive(t, tc.entries...))
			p.untouched(t)
			if tc.code == "" {
				if got.err != nil {
					t.Fatal(got.err)
				}
				if _, err := os.Lstat(filepath.Join(p.root, tc.want)); err != nil {
					t.Error(err, p.listing(t))
				}
				return
			}
			if !errors.HasCode(got.err, tc.code) || !strings.Contains(errors.Public(got.err).Message, tc.want) {
				t.Errorf("got %v, want %s with %q", got.err, tc.code, tc.want)
			}
		})
	}
}

func TestDevicesAreLeftOut(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	got := p.unpack(t, t.Context(), limits, false, archive(t,
		tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Devmajor: 8, Mode: 0o666},
		tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666},
		tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o620}, file("after", "x")))
	if got.err != nil {
		t.Fatal(got.err)
	}
	if l := p.listing(t); !slices.Equal(l, []string{"after", "fifo"}) {
		t.Errorf("unpacked %v", l)
	}
	if len(got.notes) != 1 || !strings.Contains(got.notes[0], "/dev/sda") {
		t.Errorf("notes %q", got.notes)
	}
}

// A header may claim terabytes, and a stream may go on for ever after its end.
func TestBombs(t *testing.T) {
	t.Parallel()
	t.Run("sparse", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		raw := archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644})
		// An old GNU sparse header (GNU tar manual, "Basic Tar Format"): no data, 4 GiB.
		const size = "40000000000\x00"
		copy(raw[257:], "ustar  \x00")
		raw[156] = tar.TypeGNUSparse
		copy(raw[386:], size) // the only piece: empty, at the end
		copy(raw[398:], "00000000000\x00")
		copy(raw[483:], size)
		copy(raw[148:156], "        ")
		sum := 0
		for _, c := range raw[:512] {
			sum += int(c)
		}
		copy(raw[148:], fmt.Sprintf("%06o\x00 ", sum))
		got := p.unpack(t, t.Context(), limits, false, raw)
		if !errors.HasCode(got.err, errors.TooLarge) {
			t.Errorf("got %v, want TooLarge", got.err)
		}
	})
	t.Run("endless tail", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		tr, err := tree.Open(p.root)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		u := unpack.New(tr, unpack.Limits{Bytes: 1000, Entries: 10}, false, func(string) {})
		err = u.Tar(t.Context(), io.MultiReader(bytes.NewReader(archive(t, dir("a"))), zeros{}))
		if !errors.HasCode(err, errors.TooLarge) {
			t.Errorf("got %v, want TooLarge", err)
		}
	})
	t.Run("content of left out entries", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		var entries []tar.Header
		for range 20 {
			entries = append(entries, file("x", strings.Repeat("x", 4000)))
		}
		raw := archive(t, entries...)
		if got := p.unpack(t, t.Context(), unpack.Limits{Bytes: 50_000, Entries: 100}, false, raw); !errors.HasCode(got.err, errors.TooLarge) {
			t.Errorf("the same file again and again: %v, want TooLarge", got.err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLayers(t *testing.T) {
	t.Parallel()
	lower := []tar.Header{
		dir("etc"), file("etc/keep", "1"), file("etc/gone", "1"), dir("opt"), file("opt/a", "1"), dir("opt/sub"), file("opt/sub/b", "1"),
		dir("usr"), dir("usr/lib"), link("lib", "usr/lib"), file("usr/lib/so", "1"), dir("swap"), file("swap/x", "1"), file("flip", "1"),
	}
	for _, tc := range []struct {
		name  string
		upper []tar.Header
		want  string // changes to the lower layer's listing, space separated: -gone +new
	}{
		{"whiteout of a file", []tar.Header{file("etc/.wh.gone", "")}, "-etc/gone"},
		{"whiteout of a directory", []tar.Header{file(".wh.opt", "")}, "-opt/ -opt/a -opt/sub/ -opt/sub/b"},
		{"whiteout of what is not there", []tar.Header{file("none/.wh.x", ""), file("etc/.wh.none", "")}, ""},
		{"whiteout through a link", []tar.Header{file("lib/.wh.so", "")}, "-usr/lib/so"},
		{"whiteout of a link only", []tar.Header{file(".wh.lib", "")}, "-lib -> usr/lib"},
		{"opaque first", []tar.Header{dir("opt"), file("opt/.wh..wh..opq", ""), file("opt/new", "2")}, "-opt/a -opt/sub/ -opt/sub/b +opt/new"},
		{"opaque last", []tar.Header{dir("opt"), file("opt/new", "2"), dir("opt/sub"), file("opt/sub/n", "2"), file("opt/.wh..wh..opq", "")}, "-opt/a -opt/sub/b +opt/new +opt/sub/n"},
		{"opaque last, parents not listed", []tar.Header{file("opt/sub/n", "2"), file("opt/.wh..wh..opq", "")}, "-opt/a -opt/sub/b +opt/sub/n"},
		{"whiteout of a directory beside its replacement", []tar.Header{dir("opt"), file("opt/n", "2"), file(".wh.opt", "")}, "-opt/a -opt/sub/ -opt/sub/b +opt/n"},
		{"whiteout beside its replacement", []tar.Header{file("etc/gone", "2"), file("etc/.wh.gone", "")}, ""},
		{"AUFS's own", []tar.Header{file(".wh..wh.plnk", ""), file(".wh..wh.aufs", "")}, ""},
		{"a file over a directory", []tar.Header{file("swap", "2")}, "-swap/ -swap/x +swap"},
		{"a directory over a file", []tar.Header{dir("flip"), file("flip/y", "2")}, "-flip +flip/ +flip/y"},
		{"a file through a link", []tar.Header{file("lib/new", "2")}, "+usr/lib/new"},
		{"a hard link to a layer below", []tar.Header{hard("etc/linked", "opt/a")}, "+etc/linked"},
		{"parents that are not listed", []tar.Header{file("a/b/c", "2")}, "+a/ +a/b/ +a/b/c"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			got := p.unpack(t, t.Context(), limits, true, archive(t, lower...), archive(t, tc.upper...))
			if got.err != nil {
				t.Fatal(got.err)
			}
			q := newPlace(t)
			if l := q.unpack(t, t.Context(), limits, true, archive(t, lower...)); l.err != nil {
				t.Fatal(l.err)
			}
			want := q.listing(t)
			for _, change := range strings.Fields(strings.ReplaceAll(tc.want, " -> ", ">")) {
				name := strings.ReplaceAll(change[1:], ">", " -> ")
				if change[0] == '+' {
					want = append(want, name)
				} else {
					want = slices.DeleteFunc(want, func(s string) bool { return s == name })
				}
			}
			have := p.listing(t)
			slices.Sort(have)
			slices.Sort(want)
			have, want = slices.Compact(have), slices.Compact(want)
			if !slices.Equal(have, want) {
				t.Errorf("have %q\nwant %q", have, want)
			}
		})
	}
}

func TestWhiteoutNamesMeanNothingInArchives(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if got := p.unpack(t, t.Context(), limits, false, archive(t, file("a", "1"), file(".wh.a", "2"))); got.err != nil {
		t.Fatal(got.err)
	}
	if l := p.listing(t); !slices.Equal(l, []string{".wh.a", "a"}) {
		t.Error(l)
	}
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: files are given to other users")
	}
	p := newPlace(t)
	const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw+ep
	setuid := file("su", "x")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o4755, 0, 42
	ping := file("ping", "x")
	ping.PAXRecords["SCHILY.xattr.security.capability"] = capability
	ping.PAXRecords["SCHILY.xattr.trusted.overlay.opaque"] = "y"
	ping.PAXRecords["SCHILY.xattr.user.overlay.opaque"] = "y"
	far := file("far", "x")
	far.Mode, far.Uid, far.Gid = 0o6755, 70000, 5
	sticky := dir("tmp")
	sticky.Mode = 0o1777
	owned := link("l", "su")
	owned.Uid, owned.Gid = 7, 8
	top := dir("./")
	top.Mode = 0o750
	got := p.unpack(t, t.Context(), limits, false, archive(t, top, setuid, ping, far, sticky, file("tmp/x", "x"), owned, hard("su2", "su")))
	if got.err != nil {
		t.Fatal(got.err)
	}
	for _, tc := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
		nlink    uint64
	}{
		{"su", unix.S_IFREG | 0o4755, 0, 42, 2}, {"su2", unix.S_IFREG | 0o4755, 0, 42, 2},
		{"far", unix.S_IFREG | 0o755, 65534, 5, 1}, {"l", unix.S_IFLNK | 0o777, 7, 8, 1}, {"tmp", unix.S_IFDIR | 0o1777, 0, 0, 2}, {".", unix.S_IFDIR | 0o750, 0, 0, 3},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(p.root, tc.name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != tc.mode || st.Uid != tc.uid || st.Gid != tc.gid || uint64(st.Nlink) != tc.nlink { //nolint:unconvert // Nlink differs by architecture
			t.Errorf("%s: mode %o, owner %d:%d, %d links", tc.name, st.Mode, st.Uid, st.Gid, st.Nlink)
		}
		if st.Mtim.Sec != 1e9 {
			t.Errorf("%s: time %d", tc.name, st.Mtim.Sec)
		}
	}
	names := make([]byte, 1000)
	n, err := unix.Llistxattr(filepath.Join(p.root, "ping"), names)
	if err != nil || string(names[:n]) != "security.capability\x00" {
		t.Errorf("attributes %q, %v", names[:max(n, 0)], err)
	}
	if len(got.notes) != 1 || !strings.Contains(got.notes[0], "become nobody") {
		t.Errorf("notes %q", got.notes)
	}
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	raw := archive(t, file("a", strings.Repeat("1", 10_000)))
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, _ = g.Write(raw)
	_ = g.Close()
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write(raw)
	_ = z.Close()
	for name, in := range map[string][]byte{"plain": raw, "gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		r, err := unpack.Decompress(bytes.NewReader(in))
		if err != nil {
			t.Fatal(name, err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		_ = r.Close()
	}
	for name, in := range map[string]string{"empty": "", "xz": "\xfd7zXZ\x00...", "bzip2": "BZh91AY", "half a gzip": "\x1f\x8b\x08"} {
		if _, err := unpack.Decompress(strings.NewReader(in)); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, in := range map[string][]byte{"gzip": gz.Bytes()[:gz.Len()-6], "zstd": zs.Bytes()[:zs.Len()-6], "plain": raw[:900]} {
		r, err := unpack.Decompress(bytes.NewReader(in))
		if err != nil {
			t.Fatal(name, err)
		}
		p := newPlace(t)
		tr, err := tree.Open(p.root)
		if err != nil {
			t.Fatal(err)
		}
		err = unpack.New(tr, limits, false, func(string) {}).Tar(t.Context(), r)
		if !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s cut short: %v", name, err)
		}
		_ = tr.Close()
	}
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := newPlace(t)
	if got := p.unpack(t, ctx, limits, false, archive(t, file("a", "1"))); !errors.HasCode(got.err, errors.Canceled) {
		t.Error(got.err)
	}
}

// FuzzPaths makes archives from few names that meet often, so that links,
// directories and files take each other's places in every order.
func FuzzPaths(f *testing.F) {
	names := []string{"a", "b", "a/b", "b/a", "a/a", "/a", "..", "a/..", "../outside", "../outside/secret", "a/../..", "b/../../outside/secret",
		"/", "/outside", ".", "a/./b", ".wh.a", "a/.wh..wh..opq", ".wh..", ".wh...", "a/.wh.b", "root", "a/outside/secret", "b/outside/secret", "secret"}
	kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeXGlobalHeader}
	f.Add([]byte{2, 0, 6, 0, 22, 0})
	f.Add([]byte{1, 0, 0, 2, 2, 6, 0, 22, 0, 3, 1, 9})
	f.Add([]byte{2, 0, 12, 2, 2, 10, 3, 5, 24, 0, 17, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		p := newPlace(t)
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for ; len(data) >= 3; data = data[3:] {
			h := &tar.Header{Typeflag: kinds[int(data[0])%len(kinds)], Name: names[int(data[1])%len(names)], Mode: 0o4777, ModTime: time.Unix(1, 0)}
			switch h.Typeflag {
			case tar.TypeSymlink, tar.TypeLink:
				h.Linkname = names[int(data[2])%len(names)]
			case tar.TypeReg:
				h.Size = 5
			case tar.TypeXGlobalHeader:
				*h = tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: h.Name, PAXRecords: map[string]string{"path": "../outside/secret"}}
			}
			if err := w.WriteHeader(h); err != nil {
				t.Skip(err)
			}
			if h.Size > 0 {
				_, _ = io.WriteString(w, "guest")
			}
		}
		_ = w.Close()
		for _, layers := range []bool{false, true} {
			got := p.unpack(t, t.Context(), limits, layers, b.Bytes())
			if c := errors.CodeOf(got.err); got.err != nil && c != errors.InvalidArgument {
				t.Fatalf("a hostile archive is blamed on %s: %v", c, got.err)
			}
			p.untouched(t)
			noDevices(t, p.root)
		}
	})
}

// FuzzBytes feeds raw streams, so that headers are hostile as well.
func FuzzBytes(f *testing.F) {
	f.Add(archive(f, dir("a"), link("a/l", "../.."), file("a/l/x", "1"), hard("h", "a/l/x")))
	f.Add(archive(f, link("l", "/"), file("l/outside/secret", "1"), file(".wh.l", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := newPlace(t)
		r, err := unpack.Decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		tr, err := tree.Open(p.root)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		_ = unpack.New(tr, unpack.Limits{Bytes: 1 << 16, Entries: 50}, false, func(string) {}).Layer(t.Context(), r)
		p.untouched(t)
		noDevices(t, p.root)
	})
}

func noDevices(t *testing.T, root string) {
	t.Helper()
	_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a mode may shut an unprivileged test out
		}
		if info, err := d.Info(); err == nil && info.Mode()&fs.ModeDevice != 0 {
			t.Errorf("a device node was made: %s %v", name, info.Sys().(*syscall.Stat_t).Rdev)
		}
		return nil
	})
}
