package vmmtest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var fileTests = []behaviour{
	{"up and down", nil, testUpDown},
	{"ranges", nil, testRanges},
	{"writes are atomic", nil, testAtomic},
	{"directories", nil, testDirectories},
	{"errors", nil, testFileErrors},
	{"symbolic links stay in the machine", isolated, testLinks},
	{"the user's rights count", isolated, testRights},
	{"watch", nil, testWatch},
}

// home is a directory in the machine that the test may write to.
func (x *box) home(t *testing.T) string {
	t.Helper()
	return x.sh(t, "cd && pwd")
}

func (x *box) write(t *testing.T, name, content string) {
	t.Helper()
	if _, err := x.client.Write(timeout(t), name, strings.NewReader(content), vmm.FileOptions{}); err != nil {
		t.Fatalf("writing %s: %v", name, err)
	}
}

func (x *box) read(t *testing.T, name string, o vmm.FileOptions) string {
	t.Helper()
	_, body, err := x.client.Read(timeout(t), name, o)
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	defer func() { _ = body.Close() }()
	got, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	return string(got)
}

func testUpDown(t *testing.T, b *bed) {
	x := b.machine(t)
	home := x.home(t)
	large := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(large)
	for name, content := range map[string][]byte{
		"empty": {}, "small": []byte("hello\n"), "large": large, "ünïcode näme\t": []byte("x"), "-dash": []byte("y"),
	} {
		p := path.Join(home, name)
		info, err := x.client.Write(timeout(t), p, bytes.NewReader(content), vmm.FileOptions{Mode: 0o640})
		if err != nil || info.Size != int64(len(content)) || info.Type != "file" || info.Mode != 0o640 || info.Name != name {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		if got := x.read(t, p, vmm.FileOptions{}); got != string(content) {
			t.Errorf("%s: %d bytes came back, want %d", name, len(got), len(content))
		}
		if stat, err := x.client.Stat(timeout(t), p, vmm.FileOptions{}); err != nil || stat.Size != info.Size || stat.ModifiedAt.IsZero() {
			t.Errorf("%s: %+v, %v", name, stat, err)
		}
	}
	if got := x.sh(t, "cat small"); got != "hello" {
		t.Errorf("a command sees %q", got)
	}
	// A relative path begins at the user's home.
	if got := x.read(t, "small", vmm.FileOptions{}); got != "hello\n" {
		t.Errorf("by its relative path: %q", got)
	}
}

func testRanges(t *testing.T, b *bed) {
	x := b.machine(t)
	x.write(t, "digits", "0123456789")
	for _, tc := range []struct {
		offset, length int64
		want           string
	}{{0, 0, "0123456789"}, {3, 0, "3456789"}, {0, 4, "0123"}, {5, 3, "567"}, {8, 100, "89"}, {10, 0, ""}} {
		if got := x.read(t, "digits", vmm.FileOptions{Offset: tc.offset, Length: tc.length}); got != tc.want {
			t.Errorf("from %d, %d bytes: %q, want %q", tc.offset, tc.length, got, tc.want)
		}
	}
	if _, _, err := x.client.Read(timeout(t), "digits", vmm.FileOptions{Offset: 11}); !errors.HasCode(err, errors.OutOfRange) {
		t.Errorf("after the end: %v", err)
	}
}

// breaking is a source that fails in the middle.
type breaking struct{ left int }

var errBroken = errors.New(errors.Canceled, "the source broke")

func (r *breaking) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errBroken
	}
	n := min(len(p), r.left)
	r.left -= n
	return n, nil
}

func testAtomic(t *testing.T, b *bed) {
	x := b.machine(t)
	dir := path.Join(x.home(t), "atomic")
	p := path.Join(dir, "file")
	x.write(t, p, "old content")
	if _, err := x.client.Write(timeout(t), p, &breaking{left: 3 << 20}, vmm.FileOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("the source's error: %v", err)
	}
	// The agent may notice a moment later; the next write comes after that.
	x.write(t, path.Join(dir, "other"), "x")
	if got := x.read(t, p, vmm.FileOptions{}); got != "old content" {
		t.Errorf("half a write shows: %d bytes", len(got))
	}
	// Readers see the old or the new, never a part.
	id := x.start(t, shell(`cd `+dir+`; while test ! -e stop; do n=$(wc -c < file); case $n in 11|1048576) ;; *) echo "part: $n";; esac; done`))
	for i := range 10 {
		content := "old content"
		if i%2 == 0 {
			content = strings.Repeat("n", 1<<20)
		}
		x.write(t, p, content)
	}
	x.write(t, path.Join(dir, "stop"), "")
	if got := x.follow(t, id).rest(); got.stdout != "" || got.end.ExitCode != 0 {
		t.Errorf("%+v", got)
	}
}

func testDirectories(t *testing.T, b *bed) {
	x := b.machine(t)
	root := path.Join(x.home(t), "tree")
	o := vmm.FileOptions{}
	if info, err := x.client.MakeDir(timeout(t), path.Join(root, "a/b"), o); err != nil || info.Type != "dir" {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := x.client.MakeDir(timeout(t), root, o); !errors.HasCode(err, errors.AlreadyExists) {
		t.Errorf("making what is there: %v", err)
	}
	x.write(t, path.Join(root, "a/b/deep"), "1")
	x.write(t, path.Join(root, "z"), "2")
	list := func(depth int) (names []string) {
		t.Helper()
		entries, err := x.client.List(timeout(t), root, depth, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, strings.TrimPrefix(e.Path, root+"/")+":"+e.Type)
		}
		return names
	}
	for depth, want := range map[int]string{0: "a:dir z:file", 1: "a:dir z:file", 2: "a:dir a/b:dir z:file", 9: "a:dir a/b:dir a/b/deep:file z:file"} {
		if got := strings.Join(list(depth), " "); got != want {
			t.Errorf("depth %d: %s, want %s", depth, got, want)
		}
	}
	if info, err := x.client.Move(timeout(t), path.Join(root, "a/b"), path.Join(root, "new/place"), o); err != nil || info.Path != path.Join(root, "new/place") {
		t.Errorf("move: %+v, %v", info, err)
	}
	if got := x.read(t, path.Join(root, "new/place/deep"), o); got != "1" {
		t.Errorf("after the move: %q", got)
	}
	for range 2 { // the second time it is absent
		if err := x.client.Remove(timeout(t), root, o); err != nil {
			t.Error(err)
		}
	}
	if _, err := x.client.Stat(timeout(t), root, o); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("after the removal: %v", err)
	}
}

func testFileErrors(t *testing.T, b *bed) {
	x := b.machine(t)
	home := x.home(t)
	missing := path.Join(home, "missing")
	o := vmm.FileOptions{}
	ctx := timeout(t)
	for name, tc := range map[string]struct {
		call func() error
		want errors.Code
	}{
		"stat what is missing":      {func() error { _, err := x.client.Stat(ctx, missing, o); return err }, errors.NotFound},
		"read what is missing":      {func() error { _, _, err := x.client.Read(ctx, missing, o); return err }, errors.NotFound},
		"list what is missing":      {func() error { _, err := x.client.List(ctx, missing, 1, o); return err }, errors.NotFound},
		"move what is missing":      {func() error { _, err := x.client.Move(ctx, missing, missing+"2", o); return err }, errors.NotFound},
		"pack what is missing":      {func() error { _, err := x.client.TarDown(ctx, missing, o); return err }, errors.NotFound},
		"watch what is missing":     {func() error { _, err := x.client.Watch(ctx, missing, false, o); return err }, errors.NotFound},
		"read a directory":          {func() error { _, _, err := x.client.Read(ctx, home, o); return err }, errors.InvalidArgument},
		"write over a directory":    {func() error { _, err := x.client.Write(ctx, home, strings.NewReader("x"), o); return err }, errors.InvalidArgument},
		"no path":                   {func() error { _, err := x.client.Stat(ctx, "", o); return err }, errors.InvalidArgument},
		"a path with NUL":           {func() error { _, err := x.client.Stat(ctx, "a\x00b", o); return err }, errors.InvalidArgument},
		"a path too long":           {func() error { _, err := x.client.Stat(ctx, "/"+strings.Repeat("x", 5000), o); return err }, errors.InvalidArgument},
		"a user that is none":       {func() error { _, err := x.client.Stat(ctx, home, vmm.FileOptions{User: "nobody-here"}); return err }, errors.InvalidArgument},
		"a user that is none, read": {func() error { _, _, err := x.client.Read(ctx, home, vmm.FileOptions{User: "nobody-here"}); return err }, errors.InvalidArgument},
	} {
		if err := tc.call(); !errors.HasCode(err, tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}

// testLinks plants links whose targets exist on the host, not in the machine.
func testLinks(t *testing.T, b *bed) {
	x := b.machine(t)
	secret := path.Join(t.TempDir(), "host-secret")
	x.sh(t, "ln -s "+secret+" link; ln -s ../../../../../../../../.."+secret+" relative")
	for _, name := range []string{"link", "relative"} {
		if _, _, err := x.client.Read(timeout(t), name, vmm.FileOptions{}); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("%s: %v, want not_found", name, err)
		}
	}
}

func testRights(t *testing.T, b *bed) {
	x := b.machine(t)
	root, user := vmm.FileOptions{User: "root"}, vmm.FileOptions{User: "user"}
	if _, err := x.client.Write(timeout(t), "/root/private", strings.NewReader("x"), vmm.FileOptions{User: "root", Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.client.Stat(timeout(t), "/root/private", root); err != nil {
		t.Error(err)
	}
	if _, _, err := x.client.Read(timeout(t), "/root/private", user); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("reading root's file as user: %v", err)
	}
	if _, err := x.client.Write(timeout(t), "/etc/passwd", strings.NewReader("x"), user); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("writing /etc/passwd as user: %v", err)
	}
	if info, err := x.client.Write(timeout(t), "mine", strings.NewReader("x"), user); err != nil || info.Owner != "user" {
		t.Errorf("%+v, %v", info, err)
	}
}

func testWatch(t *testing.T, b *bed) {
	x := b.machine(t)
	dir := path.Join(x.home(t), "watched")
	x.sh(t, "mkdir -p "+dir+"/sub")
	ctx, cancel := context.WithCancel(timeout(t))
	events, err := x.client.Watch(ctx, dir, true, vmm.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x.sh(t, "cd "+dir+"; echo 1 > one; mv one two; rm two; echo 2 > sub/three; chmod 600 sub/three")
	want := map[vmm.FileEvent]bool{
		{Type: "create", Path: "one"}: true, {Type: "write", Path: "one"}: true, {Type: "rename", Path: "one"}: true,
		{Type: "remove", Path: "two"}: true, {Type: "create", Path: "sub/three"}: true, {Type: "chmod", Path: "sub/three"}: true,
	}
	for len(want) > 0 {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the watch ended; missing %v", want)
			}
			delete(want, e)
		case <-ctx.Done():
			t.Fatalf("missing %v", want)
		}
	}
	cancel()
	for range events { // it is closed once the context ended
	}
}
