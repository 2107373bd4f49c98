package egresslog_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
)

func open(t *testing.T, dir string, bytes int64) *egresslog.Dir {
	t.Helper()
	d, err := egresslog.Open(dir, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func log(t *testing.T, d *egresslog.Dir, id string) *egresslog.Log {
	t.Helper()
	l, err := d.Log(id)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t *testing.T, dir, id string, after int64, limit int) []domain.EgressEntry {
	t.Helper()
	out, err := egresslog.Read(dir, id, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func entry(n int) domain.EgressEntry {
	return domain.EgressEntry{Verdict: domain.EgressAllow, Via: "tls", Proto: "tcp", Name: fmt.Sprintf("n%d.test", n), Addr: "203.0.113.1", Port: 443}
}

// The same within a second is told once, with how often it came again.
func TestTheSameIsCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir, 0)
	l := log(t, d, "m")
	for range 100 {
		l.Add(entry(1))
	}
	if got := read(t, dir, "m", 0, 10); len(got) == 0 || got[0].Count != 0 || got[0].Name != "n1.test" || got[0].At == 0 {
		t.Errorf("the first is not told at once: %+v", got)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, e := range read(t, dir, "m", 0, 1000) {
		total += max(e.Count, 1)
	}
	if total != 100 {
		t.Errorf("%d of 100", total)
	}
}

// A flood burns neither disk nor sight of that there was one.
func TestAFloodIsAGap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir, 64<<10)
	l := log(t, d, "m")
	const n = 100_000
	for i := range n {
		l.Add(entry(i))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var size int64
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	if size > 80<<10 || len(files) != 2 {
		t.Errorf("%d bytes in %v", size, files)
	}
	missing := 0
	last := int64(0)
	for _, e := range read(t, dir, "m", 0, n) {
		if e.Verdict == domain.EgressGap {
			missing += e.Count
		}
		if last != 0 && e.Seq != last+1 {
			t.Errorf("%d after %d", e.Seq, last)
		}
		last = e.Seq
	}
	if missing == 0 || missing > n {
		t.Errorf("%d are told to be missing", missing)
	}
}

// Numbers go on over restarts and full files, and what a crash cut short is skipped.
func TestNumbersGoOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 3 {
		d := open(t, dir, 0)
		l := log(t, d, "m")
		for i := range 5 {
			l.Add(entry(round*10 + i))
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(dir, "m.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString("{\"seq\": 99")
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, dir, "m", 0, 100)
	for i, e := range got {
		if i > 0 && e.Seq <= got[i-1].Seq {
			t.Errorf("%d after %d", e.Seq, got[i-1].Seq)
		}
	}
	if len(got) != 15 {
		t.Errorf("%d entries: %+v", len(got), got)
	}
	if page := read(t, dir, "m", got[2].Seq, 2); len(page) != 2 || page[0].Seq != got[3].Seq {
		t.Errorf("a page: %+v", page)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir, 0)
	defer func() { _ = d.Close() }()
	f := egresslog.NewFollower(dir)
	// Many can wait at a time.
	const n = 300
	got := make(chan []domain.EgressEntry, n)
	for range n {
		go func() {
			out, err := f.Wait(context.Background(), "m", 0, 10, time.Minute)
			if err != nil {
				t.Error(err)
			}
			got <- out
		}()
	}
	log(t, d, "other").Add(entry(1))
	log(t, d, "m").Add(entry(2))
	for range n {
		if out := <-got; len(out) != 1 || out[0].Name != "n2.test" {
			t.Errorf("%+v", out)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if out, err := f.Wait(ctx, "m", 1, 10, time.Hour); err != nil || len(out) != 0 {
		t.Errorf("%+v %v", out, err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if out, err := egresslog.NewFollower(filepath.Join(dir, "absent")).Wait(context.Background(), "m", 0, 10, time.Hour); err != nil || len(out) != 0 {
		t.Errorf("no directory: %+v %v", out, err)
	}
}

// netd reads what machines send; whoever reads its logs has more rights and
// follows it nowhere.
func TestAReaderIsNotLedAstray(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	line := []byte(`{"seq":1,"verdict":"allow","name":"stolen"}` + "\n")
	if err := os.WriteFile(secret, line, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "m.jsonl")); err != nil {
		t.Fatal(err)
	}
	if got, _ := egresslog.Read(dir, "m", 0, 10); len(got) != 0 {
		t.Errorf("through a link: %+v", got)
	}
	for _, id := range []string{"", "..", "../m", "a/b", ".hidden", strings.Repeat("a", 65), "a\x00"} {
		if _, err := egresslog.Read(dir, id, 0, 10); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v", id, err)
		}
		if err := egresslog.Remove(dir, id); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v", id, err)
		}
	}
	long := append(bytes.Repeat([]byte("x"), 1<<20), '\n')
	if err := os.WriteFile(filepath.Join(dir, "long.jsonl"), append(long, line...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, "long", 0, 10); len(got) != 1 {
		t.Errorf("behind an endless line: %+v", got)
	}
	if err := egresslog.Remove(dir, "long"); err != nil {
		t.Error(err)
	}
	if got := read(t, dir, "long", 0, 10); len(got) != 0 {
		t.Errorf("removed: %+v", got)
	}
}
