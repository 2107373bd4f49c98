package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	running, ended := newKey(), newKey()
	s := openStore(t, dir, journal.Options{})
	j := open(t, s, running)
	appendAll(t, j, "abc", "def")
	e := open(t, s, ended)
	appendAll(t, e, "out")
	if err := e.AppendEnd(domain.ExecutionEnd{LostReason: "gone"}); err != nil {
		t.Fatal(err)
	}
	bytes := s.Bytes()
	// No Close of the journals: the process is killed. The lock goes with it.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openStore(t, dir, journal.Options{})
	if len(s.List()) != 2 || s.Bytes() != bytes {
		t.Errorf("%d journals of %d bytes, want 2 of %d", len(s.List()), s.Bytes(), bytes)
	}
	j = open(t, s, running)
	defer j.Close()
	if j.NextOffset() != 6 {
		t.Errorf("resumes at %d, want 6", j.NextOffset())
	}
	appendAll(t, j, "ghi")
	if got := read(t, s, running, 0); got.data.String() != "abcdefghi" || got.end != nil {
		t.Errorf("read %q, %+v", got.data.String(), got.end)
	}
	if got := read(t, s, ended, 1); got.data.String() != "ut" || got.end == nil || got.end.LostReason != "gone" {
		t.Errorf("read %q, %+v", got.data.String(), got.end)
	}
}

// TestTornTail cuts the files at every length that kill -9 can leave behind.
func TestTornTail(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ before, glob string }{
		"pack":    {"", "pack-*.p"},
		"segment": {strings.Repeat("x", 40<<10), "*.j"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			k := newKey()
			s := openStore(t, dir, journal.Options{})
			j := open(t, s, k)
			text := "firstsecond"
			appendAll(t, j, "first", "second")
			if tc.before != "" {
				text += tc.before + "third"
				appendAll(t, j, tc.before, "third")
			}
			whole := j.NextOffset()
			if err := j.AppendEnd(domain.ExecutionEnd{ExitCode: 1}); err != nil {
				t.Fatal(err)
			}
			_ = s.Close()
			files, _ := filepath.Glob(filepath.Join(dir, tc.glob))
			if len(files) != 1 {
				t.Fatal(files)
			}
			full, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			for n := max(0, len(full)-300); n < len(full); n++ {
				for _, garbage := range []string{"", strings.Repeat("\x00", 100)} {
					if err := os.WriteFile(files[0], append(full[:n:n], garbage...), 0o600); err != nil {
						t.Fatal(err)
					}
					s, err := journal.OpenStore(dir, journal.Options{})
					if err != nil {
						t.Fatal(err)
					}
					j := open(t, s, k)
					next := j.NextOffset()
					if next > whole || next != 0 && !strings.HasSuffix(text[:next], "first") && !strings.HasSuffix(text[:next], "second") && !strings.HasSuffix(text[:next], "x") && !strings.HasSuffix(text[:next], "third") {
						t.Fatalf("cut at %d: resumes at %d", n, next)
					}
					if _, ok := j.Ended(); ok {
						t.Fatalf("cut at %d: has an end", n)
					}
					appendAll(t, j, text[next:], "!")
					if got := read(t, s, k, 0).data.String(); got != text+"!" {
						t.Fatalf("cut at %d: read %d bytes", n, len(got))
					}
					j.Close()
					_ = s.Close()
					if tc.glob == "*.j" {
						continue
					}
					// What was appended may have gone elsewhere; begin anew.
					others, _ := filepath.Glob(filepath.Join(dir, "*.[jp]"))
					for _, o := range others {
						_ = os.Remove(o)
					}
				}
			}
		})
	}
}

// TestSpill goes from the shared packs to a file of its own.
func TestSpill(t *testing.T) {
	t.Parallel()
	for name, piece := range map[string]int{"many small pieces": 10, "few large pieces": 9000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := openStore(t, dir, journal.Options{})
			k := newKey()
			j := open(t, s, k)
			var want []byte
			for i := range 200 {
				p := bytes.Repeat([]byte{byte(i)}, piece)
				want = append(want, p...)
				appendAll(t, j, string(p))
			}
			if files, _ := filepath.Glob(filepath.Join(dir, "*.j")); len(files) == 0 {
				t.Error("no segment file")
			}
			for _, from := range []int{0, 1, piece*3 + 1, piece * 63, piece*64 + 1, len(want)} {
				if got := read(t, s, k, int64(from)); !bytes.Equal(got.data.Bytes(), want[from:]) || len(got.gaps) > 0 {
					t.Errorf("from %d: %d bytes, gaps %v", from, got.data.Len(), got.gaps)
				}
			}
			_ = s.Close()
			s = openStore(t, dir, journal.Options{})
			if got := read(t, s, k, 0); !bytes.Equal(got.data.Bytes(), want) || len(got.gaps) > 0 {
				t.Errorf("reopened: %d bytes, gaps %v", got.data.Len(), got.gaps)
			}
		})
	}
}

// TestDeletedOutputIsGone looks for it on the disk.
func TestDeletedOutputIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	secret, other := newKey(), newKey()
	for k, text := range map[journal.Key]string{secret: "the secret", other: "the other"} {
		j := open(t, s, k)
		appendAll(t, j, text)
		if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
			t.Fatal(err)
		}
		j.Close()
	}
	if err := s.Delete(secret); err != nil {
		t.Fatal(err)
	}
	onDisk := func() (all []byte) {
		files, _ := filepath.Glob(filepath.Join(dir, "*.[jp]"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return all
	}
	if b := onDisk(); bytes.Contains(b, []byte("the secret")) || bytes.Contains(b, []byte(secret.Execution)) {
		t.Error("the deleted output is still on disk")
	}
	_ = s.Close()
	s = openStore(t, dir, journal.Options{})
	if _, err := s.Lookup(secret); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("after a restart: %v", err)
	}
	if got := read(t, s, other, 0); got.data.String() != "the other" || got.end == nil {
		t.Errorf("its neighbour: %q, %v", got.data.String(), got.end)
	}
}

// TestPacksAreReclaimed deletes as much as it writes: the disk must not fill.
func TestPacksAreReclaimed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	text := strings.Repeat("x", 30<<10)
	for range 1500 { // 45 MB in all
		k := newKey()
		j := open(t, s, k)
		appendAll(t, j, text)
		j.Close()
		if err := s.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.[jp]"))
	if s.Bytes() != 0 || len(files) > 1 {
		t.Errorf("%d bytes in %v", s.Bytes(), files)
	}
}

func TestDamageInTheMiddle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{MaxBytes: 1 << 20})
	k := newKey()
	j := open(t, s, k)
	piece := bytes.Repeat([]byte("x"), 60_000)
	for range 10 { // two pieces to a segment of 64 KiB
		if err := j.Append(j.NextOffset(), domain.Stdout, piece); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "*-0.j"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, journal.Options{MaxBytes: 1 << 20})
	got := read(t, s, k, 0)
	if len(got.gaps) != 1 || got.gaps[0] != (domain.OutputGap{From: 0, To: 120_000}) || got.data.Len() != 480_000 {
		t.Errorf("gaps %v, %d bytes", got.gaps, got.data.Len())
	}
}

func TestNoFileBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	k := newKey()
	open(t, s, k).Close()
	if files, _ := filepath.Glob(filepath.Join(dir, "*.[jp]")); len(files) != 0 {
		t.Errorf("files %v", files)
	}
	if _, err := s.Lookup(k); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("lookup: %v", err)
	}
	if n := len(s.List()); n != 0 {
		t.Errorf("%d journals", n)
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	var keys []journal.Key
	for range 5 {
		k := newKey()
		j := open(t, s, k)
		appendAll(t, j, strings.Repeat("x", 1000))
		if len(keys) != 4 {
			j.Close()
		} else {
			defer j.Close() // held open
		}
		keys = append(keys, k)
	}
	info, held := s.List(), 0
	for _, i := range info {
		if i.Bytes < 1000 || i.Modified.IsZero() {
			t.Errorf("%+v", i)
		}
		if i.Open {
			held++
		}
	}
	if held != 1 {
		t.Errorf("%d held open, want 1", held)
	}
	if n, err := s.ShrinkTo(3300); err != nil || n != 2 {
		t.Errorf("shrink removed %d, %v; want 2", n, err)
	}
	for _, k := range keys[:2] {
		if _, err := s.Lookup(k); !errors.HasCode(err, errors.NotFound) {
			t.Errorf("the oldest are kept: %v", err)
		}
	}
	if n, err := s.RemoveOlderThan(info[0].Modified.AddDate(1, 0, 0)); err != nil || n != 2 {
		t.Errorf("removed %d, %v; want 2", n, err)
	}
	if err := s.Delete(keys[4]); err != nil {
		t.Error(err)
	}
	if err := s.Delete(keys[4]); err != nil {
		t.Errorf("deleting what is absent: %v", err)
	}
	if s.Bytes() != 0 || len(s.List()) != 0 {
		t.Errorf("%d bytes, journals %v", s.Bytes(), s.List())
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openStore(t, dir, journal.Options{})
	if _, err := journal.OpenStore(dir, journal.Options{}); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("second store: %v", err)
	}
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	good := newKey()
	for _, k := range []journal.Key{
		{}, {VM: good.VM, Execution: "../../etc/passwd", Epoch: 1}, {VM: "x", Execution: good.Execution},
		{VM: good.VM, Execution: good.Execution, Epoch: -1},
	} {
		if _, err := s.Open(k); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%+v: %v", k, err)
		}
	}
}
