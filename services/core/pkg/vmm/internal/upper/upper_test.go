package upper_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/upper"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func packed(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, upper.Pack(t.Context(), &b, dir))
	return b.Bytes()
}

// disk makes all that overlayfs and guests leave.
func disk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a guest's files need root")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	capability := "\x01\x00\x00\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00"
	list := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	for _, err := range []error{
		os.MkdirAll(at("etc/empty"), 0o755),
		os.WriteFile(at("etc/tool"), []byte("tool"), 0o755), //nolint:gosec // a program
		os.Chown(at("etc/tool"), 1000, 33),
		os.Chmod(at("etc/tool"), 0o755|os.ModeSetuid),
		os.Link(at("etc/tool"), at("again")),
		os.WriteFile(at("etc/none"), nil, 0o600),
		os.Symlink("/etc/shadow", at("link")),
		os.Lchown(at("link"), 7, 7),
		os.Link(at("link"), at("second link")),
		os.WriteFile(at("capable"), nil, 0o755), //nolint:gosec // a program
		unix.Lsetxattr(at("capable"), "security.capability", []byte(capability), 0),
		unix.Lsetxattr(at("capable"), "user.note", []byte{0, 1, 255}, 0),
		unix.Mkfifo(at("pipe"), 0o620),
		unix.Mknod(at("removed"), unix.S_IFCHR, 0),
		os.Link(at("removed"), at("removed, too")), // as overlayfs has them
		os.Mkdir(at("covered"), 0o750),
		unix.Lsetxattr(at("covered"), "trusted.overlay.opaque", []byte("y"), 0),
		os.Mkdir(at("renamed"), 0o750),
		unix.Lsetxattr(at("renamed"), "trusted.overlay.redirect", []byte("/usr/share/old name"), 0),
		unix.Lsetxattr(at("renamed"), "trusted.overlay.origin", []byte("a handle of this host"), 0),
		os.WriteFile(at("listed"), nil, 0o640),
		unix.Lsetxattr(at("listed"), "system.posix_acl_access", []byte(list), 0),
		os.WriteFile(at("\xff an odd näme\n"), []byte("x"), 0o600),
		os.WriteFile(at("sparse"), []byte("begin"), 0o600),
		os.Truncate(at("sparse"), 1<<40),
		os.MkdirAll(at(strings.Repeat("deep/", 200)), 0o700),
		os.Chtimes(at("etc/tool"), time.Unix(1e9, 0), time.Unix(1e9, 123456789)),
		os.Chtimes(at("etc"), time.Unix(5, 0), time.Unix(5, 0)),
		os.Chown(dir, 5, 6),
		os.Chmod(dir, 0o751), //nolint:gosec // a root's mode
	} {
		must(t, err)
	}
	l, err := net.Listen("unix", at("socket")) //nolint:noctx // it is there at once
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return dir
}

// What is unpacked is what was packed, to the last attribute.
func TestSame(t *testing.T) {
	t.Parallel()
	dir, to := disk(t), t.TempDir()
	first := packed(t, dir)
	if len(first) > 64<<10 {
		t.Errorf("%d bytes: a hole was written", len(first))
	}
	must(t, upper.Unpack(t.Context(), bytes.NewReader(first), to, 1<<20))
	if second := packed(t, to); !bytes.Equal(first, second) {
		t.Errorf("packed again it is other bytes:\n%q\n%q", first, second)
	}
	at := func(name string) (st unix.Stat_t) {
		t.Helper()
		must(t, unix.Lstat(filepath.Join(to, name), &st))
		return st
	}
	tool, again := at("etc/tool"), at("again")
	if tool.Ino != again.Ino || tool.Uid != 1000 || tool.Gid != 33 || tool.Mode != unix.S_IFREG|unix.S_ISUID|0o755 || tool.Mtim.Nsec != 123456789 {
		t.Errorf("%+v, %+v", tool, again)
	}
	if etc := at("etc"); etc.Mtim.Sec != 5 {
		t.Errorf("%+v", etc)
	}
	if gone := at("removed"); gone.Mode&unix.S_IFMT != unix.S_IFCHR || gone.Rdev != 0 || gone.Ino != at("removed, too").Ino {
		t.Errorf("%+v", gone)
	}
	if holes := at("sparse"); holes.Size != 1<<40 || holes.Blocks > 64 {
		t.Errorf("%+v", holes)
	}
	for name, want := range map[string]string{"covered": "y", "renamed": "/usr/share/old name"} {
		var value [64]byte
		n, err := unix.Lgetxattr(filepath.Join(to, name), map[string]string{"covered": "trusted.overlay.opaque", "renamed": "trusted.overlay.redirect"}[name], value[:])
		if err != nil || string(value[:n]) != want {
			t.Errorf("%s: %q, %v", name, value[:max(n, 0)], err)
		}
	}
	for name, err := range map[string]error{
		"a socket": unix.Lstat(filepath.Join(to, "socket"), new(unix.Stat_t)),
		"host handles": func() error {
			_, err := unix.Lgetxattr(filepath.Join(to, "renamed"), "trusted.overlay.origin", nil)
			return err
		}(),
	} {
		if err == nil {
			t.Errorf("%s: it came along", name)
		}
	}
}

const mark = "aetherium-upper-1\n"

// form is what the fields of an entry may be given as.
type form map[string]any

func attribute(name, value string) []any {
	return []any{form{"name": name, "value": []byte(value)}}
}

// stream writes entries, each with what follows it.
func stream(entries ...any) []byte {
	b := []byte(mark)
	for _, e := range entries {
		if raw, ok := e.([]byte); ok {
			b = append(b, raw...)
			continue
		}
		raw, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(raw))), raw...)
	}
	return b
}

func name(s string) []byte { return []byte(s) }

var (
	top   = form{"depth": 0, "mode": unix.S_IFDIR | 0o755}
	end   = make([]byte, 4)
	empty = make([]byte, 16) // the content of an empty file
)

// What Pack would not have written is refused, and touches nothing outside.
func TestRefused(t *testing.T) {
	t.Parallel()
	deep := []any{top}
	for d := range 300 {
		deep = append(deep, form{"depth": d + 1, "name": name("d"), "mode": unix.S_IFDIR | 0o700})
	}
	long := []any{top}
	for d := range 20 {
		long = append(long, form{"depth": d + 1, "name": name(strings.Repeat("n", 255)), "mode": unix.S_IFDIR | 0o700})
	}
	for what, c := range map[string]struct {
		in   []byte
		code errors.Code
	}{
		"another form":         {append([]byte("aetherium-upper-9\n"), end...), errors.InvalidArgument},
		"no top":               {stream(end), errors.InvalidArgument},
		"a top that is a file": {stream(form{"mode": unix.S_IFREG | 0o600}, empty, end), errors.InvalidArgument},
		"a second top":         {stream(top, top, end), errors.InvalidArgument},
		"a path":               {stream(top, form{"depth": 1, "name": name("../out"), "mode": unix.S_IFREG | 0o600}, empty, end), errors.InvalidArgument},
		"the parent":           {stream(top, form{"depth": 1, "name": name(".."), "mode": unix.S_IFDIR | 0o700}, end), errors.InvalidArgument},
		"itself":               {stream(top, form{"depth": 1, "name": name("."), "mode": unix.S_IFDIR | 0o700}, end), errors.InvalidArgument},
		"no name":              {stream(top, form{"depth": 1, "mode": unix.S_IFDIR | 0o700}, end), errors.InvalidArgument},
		"a NUL":                {stream(top, form{"depth": 1, "name": name("a\x00b"), "mode": unix.S_IFDIR | 0o700}, end), errors.InvalidArgument},
		"in a link":            {stream(top, form{"depth": 1, "name": name("l"), "mode": unix.S_IFLNK | 0o777, "target": name("/")}, form{"depth": 2, "name": name("out"), "mode": unix.S_IFREG | 0o600}, empty, end), errors.InvalidArgument},
		"over a link":          {stream(top, form{"depth": 1, "name": name("l"), "mode": unix.S_IFLNK | 0o777, "target": name("../out")}, form{"depth": 1, "name": name("l"), "mode": unix.S_IFREG | 0o600}, empty, end), errors.InvalidArgument},
		"in nothing":           {stream(top, form{"depth": 3, "name": name("x"), "mode": unix.S_IFDIR | 0o700}, end), errors.InvalidArgument},
		"nested too deep":      {stream(append(deep, end)...), errors.TooLarge},
		"a path too long":      {stream(append(long, end)...), errors.TooLarge},
		"a device":             {stream(top, form{"depth": 1, "name": name("sda"), "mode": unix.S_IFBLK | 0o600}, end), errors.InvalidArgument},
		"a socket":             {stream(top, form{"depth": 1, "name": name("s"), "mode": unix.S_IFSOCK | 0o600}, end), errors.InvalidArgument},
		"another's ID":         {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600, "uid": 100000}, empty, end), errors.InvalidArgument},
		"a strange mode":       {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 1<<20}, empty, end), errors.InvalidArgument},
		"a negative size":      {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600, "size": -1}, empty, end), errors.InvalidArgument},
		"the same as nothing":  {stream(top, form{"depth": 1, "name": name("f"), "same": 1}, end), errors.InvalidArgument},
		"the same as what was": {stream(top, form{"depth": 1, "name": name("f"), "same": -1}, end), errors.InvalidArgument},
		"numbered too high":    {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600, "inode": 9}, empty, end), errors.InvalidArgument},
		"a directory twice":    {stream(top, form{"depth": 1, "name": name("d"), "mode": unix.S_IFDIR | 0o700, "inode": 1}, end), errors.InvalidArgument},
		"a link to nowhere":    {stream(top, form{"depth": 1, "name": name("l"), "mode": unix.S_IFLNK | 0o777}, end), errors.InvalidArgument},
		"metadata alone":       {stream(form{"mode": unix.S_IFDIR | 0o755, "attrs": attribute("trusted.overlay.metacopy", "")}, end), errors.InvalidArgument},
		"a handle":             {stream(form{"mode": unix.S_IFDIR | 0o755, "attrs": attribute("trusted.overlay.origin", "x")}, end), errors.InvalidArgument},
		"out of the template":  {stream(form{"mode": unix.S_IFDIR | 0o755, "attrs": attribute("trusted.overlay.redirect", "/../../etc")}, end), errors.InvalidArgument},
		"beside the template":  {stream(form{"mode": unix.S_IFDIR | 0o755, "attrs": attribute("trusted.overlay.redirect", "..")}, end), errors.InvalidArgument},
		"a capability of ours": {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o755, "attrs": attribute("security.capability", "\x01\x00\x00\x03"+strings.Repeat("\x00", 16)+"\x00\x00\x02\x00")}, empty, end), errors.InvalidArgument},
		"a label":              {stream(form{"mode": unix.S_IFDIR | 0o755, "attrs": attribute("security.selinux", "system_u")}, end), errors.InvalidArgument},
		"an access list":       {stream(form{"mode": unix.S_IFDIR | 0o755, "attrs": attribute("system.posix_acl_access", "none")}, end), errors.InvalidArgument},
		"more after it":        {stream(top, end, []byte("x")), errors.InvalidArgument},
		"no JSON":              {append([]byte(mark), 0, 0, 0, 1, '{'), errors.InvalidArgument},
		"an endless entry":     {append([]byte(mark), 0xff, 0xff, 0xff, 0xff), errors.TooLarge},
		"too much around it":   {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600, "attrs": attribute("user.x", strings.Repeat("x", 2000))}, empty, end), errors.TooLarge},
		"too much in a link":   {stream(top, form{"depth": 1, "name": name("l"), "mode": unix.S_IFLNK | 0o777, "target": name(strings.Repeat("x", 2000))}, end), errors.TooLarge},
		"too much":             {stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600, "size": 4096}, binary.BigEndian.AppendUint64(make([]byte, 8), 2000), make([]byte, 2000), empty, end), errors.TooLarge},
	} {
		base := t.TempDir()
		dir := filepath.Join(base, "in")
		must(t, os.Mkdir(dir, 0o700))
		err := upper.Unpack(t.Context(), bytes.NewReader(c.in), dir, 1000)
		if !errors.HasCode(err, c.code) {
			t.Errorf("%s: %v", what, err)
		}
		if list, err := os.ReadDir(base); err != nil || len(list) != 1 {
			t.Errorf("%s: outside there is %v, %v", what, list, err)
		}
	}
	whole := stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600}, empty, end)
	must(t, upper.Unpack(t.Context(), bytes.NewReader(whole), t.TempDir(), 1000))
	for n := range whole {
		if err := upper.Unpack(t.Context(), bytes.NewReader(whole[:n]), t.TempDir(), 1000); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the first %d bytes of %d: %v", n, len(whole), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := upper.Unpack(ctx, bytes.NewReader(whole), t.TempDir(), 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := upper.Pack(ctx, io.Discard, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// What cannot be had elsewhere is not packed.
func TestNotPacked(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("devices need root")
	}
	dir := t.TempDir()
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	if err := upper.Pack(t.Context(), io.Discard, dir); !errors.HasCode(err, errors.PreconditionFailed) {
		t.Errorf("a device: %v", err)
	}
	dir = t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", 300)), 0o700))
	if err := upper.Pack(t.Context(), io.Discard, dir); !errors.HasCode(err, errors.TooLarge) {
		t.Errorf("too deep: %v", err)
	}
}

// Whatever comes, nothing is made outside of the directory.
func FuzzUnpack(f *testing.F) {
	f.Add(stream(top, form{"depth": 1, "name": name("f"), "mode": unix.S_IFREG | 0o600}, empty, end))
	f.Add(stream(top, form{"depth": 1, "name": name("l"), "mode": unix.S_IFLNK | 0o777, "target": name("..")}, form{"depth": 2, "name": name("x"), "mode": unix.S_IFDIR | 0o700}, end))
	f.Fuzz(func(t *testing.T, in []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "in")
		must(t, os.Mkdir(dir, 0o700))
		_ = upper.Unpack(t.Context(), bytes.NewReader(in), dir, 1<<20)
		if list, err := os.ReadDir(base); err != nil || len(list) != 1 {
			t.Errorf("outside there is %v, %v", list, err)
		}
	})
}
