package vmmtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

var streamTests = []behaviour{
	{"stdin is closed unless asked for", nil, testNoStdin},
	{"stdin to its end", nil, testStdin},
	{"much stdin", nil, testMuchStdin},
	{"stdin by offset", nil, testStdinOffsets},
	{"100 MB of output", nil, testMuchOutput},
	{"a command that closes its output", nil, testClosedOutput},
}

func testNoStdin(t *testing.T, b *bed) {
	if got := b.machine(t).run(t, shell("cat; echo done")); got.stdout != "done\n" {
		t.Errorf("%+v", got)
	}
}

func testStdin(t *testing.T, b *bed) {
	x := b.machine(t)
	c := shell("cat; echo end")
	c.Stdin = true
	id := x.start(t, c)
	for _, piece := range []string{"one\n", "two\n", "\x00\xff binary"} {
		if err := x.session.WriteStdin(timeout(t), id, -1, []byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	if got := x.follow(t, id).rest(); got.stdout != "one\ntwo\n\x00\xff binaryend\n" {
		t.Errorf("%+v", got)
	}
	if err := x.session.WriteStdin(timeout(t), id, -1, []byte("x")); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("input after the end: %v", err)
	}
}

func testMuchStdin(t *testing.T, b *bed) {
	x := b.machine(t)
	c := shell("sha256sum")
	c.Stdin = true
	id := x.start(t, c)
	src := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(src)
	for rest := src; len(rest) > 0; {
		n := min(len(rest), 1<<20)
		if err := x.session.WriteStdin(timeout(t), id, int64(len(src)-len(rest)), rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(src)
	if got := x.follow(t, id).rest(); !strings.HasPrefix(got.stdout, hex.EncodeToString(sum[:])) {
		t.Errorf("%+v", got)
	}
}

func testStdinOffsets(t *testing.T, b *bed) {
	x := b.machine(t)
	c := shell("cat")
	c.Stdin = true
	id := x.start(t, c)
	for _, tc := range []struct {
		offset int64
		data   string
		code   errors.Code
	}{{0, "hello ", ""}, {0, "hello ", ""}, {3, "lo world", ""}, {20, "hole", errors.OutOfRange}, {-1, "!", ""}} {
		if err := x.session.WriteStdin(timeout(t), id, tc.offset, []byte(tc.data)); errors.CodeOf(err) != tc.code {
			t.Errorf("%q at %d: %v, want %q", tc.data, tc.offset, err, tc.code)
		}
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	if got := x.follow(t, id).rest(); got.stdout != "hello world!" {
		t.Errorf("%+v", got)
	}
}

// testMuchOutput also watches this process's memory: whatever runs through it
// must not stay in it.
func testMuchOutput(t *testing.T, b *bed) {
	x := b.machine(t)
	const total = 100 << 20
	line := []byte("0123456789abcdefghijklmnopqrstuvwxyz\n")
	want := sha256.New()
	for n := 0; n < total; {
		chunk := bytes.Repeat(line, 1000)
		chunk = chunk[:min(len(chunk), total-n)]
		want.Write(chunk)
		n += len(chunk)
	}
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	before := mem.HeapAlloc
	id := x.start(t, shell("yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 104857600"))
	f, got, peak := x.follow(t, id), sha256.New(), before
	for checked := int64(0); ; {
		e, ok := f.next()
		if !ok {
			break
		}
		got.Write(e.Data)
		if f.offset-checked > 8<<20 {
			checked = f.offset
			runtime.ReadMemStats(&mem)
			peak = max(peak, mem.HeapAlloc)
		}
		if e.End != nil && e.End.ExitCode != 0 {
			t.Errorf("it ended with %+v", e.End)
		}
	}
	if f.offset != total || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes arrived, or not the right ones", f.offset)
	}
	if grown := int64(peak) - int64(before); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func testClosedOutput(t *testing.T, b *bed) {
	got := b.machine(t).run(t, domain.Command{Args: []string{"/bin/sh", "-c", "echo first; exec >&- 2>&-; sleep 0.2; exit 9"}})
	if got.stdout != "first\n" || got.end.ExitCode != 9 {
		t.Errorf("%+v", got)
	}
}
