package journal_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

func finish(t *testing.T, j *journal.Journal, code int) {
	t.Helper()
	if err := j.AppendEnd(domain.ExecutionEnd{ExitCode: code}); err != nil {
		t.Fatal(err)
	}
	j.Close()
}

// carried is a store with journals of every kind that have ended.
func carried(t *testing.T) (*journal.Store, []journal.Key) {
	t.Helper()
	s := openStore(t, t.TempDir(), journal.Options{MaxBytes: 256 << 10})
	var keys []journal.Key
	make := func(code int, fill func(*journal.Journal)) {
		k := newKey()
		j := open(t, s, k)
		fill(j)
		finish(t, j, code)
		keys = append(keys, k)
	}
	make(0, func(*journal.Journal) {}) // no output
	make(1, func(j *journal.Journal) {
		if _, err := j.Begin([]byte("note")); err != nil {
			t.Fatal(err)
		}
		appendAll(t, j, "short\n", "output\x00\xff")
	})
	make(2, func(j *journal.Journal) { // in segments
		for i := range 300 {
			stream := []domain.OutputStream{domain.Stdout, domain.Stderr, domain.PTY}[i%3]
			if err := j.Append(j.NextOffset(), stream, bytes.Repeat([]byte{byte(i)}, 500)); err != nil {
				t.Fatal(err)
			}
		}
	})
	make(3, func(j *journal.Journal) { // its oldest part was dropped
		for i := range 200 {
			appendAll(t, j, strings.Repeat(string(rune('a'+i%26)), 5000))
		}
		if j.FirstOffset() == 0 {
			t.Fatal("nothing was dropped")
		}
	})
	make(4, func(j *journal.Journal) { // with a hole, and one at its end
		appendAll(t, j, "before")
		for _, to := range []int64{1000, 5000} {
			if err := j.Skip(to); err != nil {
				t.Fatal(err)
			}
			if to == 1000 {
				appendAll(t, j, "after")
			}
		}
	})
	return s, keys
}

func pack(t *testing.T, s *journal.Store, keys ...journal.Key) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := s.Pack(t.Context(), &out, keys...); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// events are all that a reader sees from an offset on.
func events(t *testing.T, s *journal.Store, k journal.Key, from int64) (all []domain.OutputEvent, err error) {
	t.Helper()
	r, err := s.Read(k, from, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		e, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Data = bytes.Clone(e.Data)
		all = append(all, e)
	}
}

// same checks that readers of two stores see the same, from every kind of offset.
func same(t *testing.T, a, b *journal.Store, k journal.Key) {
	t.Helper()
	j, err := a.Lookup(k)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	next := j.NextOffset()
	offsets := []int64{0, 1, 3, j.FirstOffset() - 1, j.FirstOffset(), j.FirstOffset() + 1, next / 2, next - 1, next, next + 1}
	for range 20 {
		offsets = append(offsets, rand.Int64N(next+1))
	}
	for _, from := range offsets {
		want, werr := events(t, a, k, from)
		got, gerr := events(t, b, k, from)
		if errors.CodeOf(werr) != errors.CodeOf(gerr) || (werr == nil) != (gerr == nil) {
			t.Fatalf("from %d: %v, not %v", from, gerr, werr)
		}
		equal := slices.EqualFunc(want, got, func(x, y domain.OutputEvent) bool {
			return x.Offset == y.Offset && x.Stream == y.Stream && bytes.Equal(x.Data, y.Data) &&
				(x.Gap == nil) == (y.Gap == nil) && (x.Gap == nil || *x.Gap == *y.Gap) &&
				(x.End == nil) == (y.End == nil) && (x.End == nil || *x.End == *y.End)
		})
		if !equal {
			t.Fatalf("from %d: %d events are not the %d that they were", from, len(got), len(want))
		}
	}
}

// Journals are in another store what they were: byte for byte, with the same gaps,
// offsets and errors.
func TestPack(t *testing.T) {
	t.Parallel()
	s, keys := carried(t)
	b := pack(t, s, keys...)
	for name, o := range map[string]journal.Options{"large": {MaxBytes: 1 << 40}, "as it was": {MaxBytes: 1 << 20}} {
		dir := t.TempDir()
		other := openStore(t, dir, o)
		got, err := other.Unpack(iotest.HalfReader(bytes.NewReader(b)))
		if err != nil || !slices.Equal(got, keys) {
			t.Fatalf("%s: %v, %v", name, got, err)
		}
		for _, k := range keys {
			same(t, s, other, k)
		}
		// Again is nothing more, and what is packed again is the same.
		if got, err := other.Unpack(bytes.NewReader(b)); err != nil || len(got) > 0 {
			t.Errorf("again: %v, %v", got, err)
		}
		third := openStore(t, t.TempDir(), o)
		if _, err := third.Unpack(bytes.NewReader(pack(t, other, keys...))); err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			same(t, s, third, k)
		}
	}
}

// What is no end, not there, or cannot be written, is not packed.
func TestPackRefuses(t *testing.T) {
	t.Parallel()
	s, keys := carried(t)
	running := newKey()
	j := open(t, s, running)
	defer j.Close()
	appendAll(t, j, "so far")
	if err := s.Pack(t.Context(), io.Discard, keys[0], running); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("one that runs: %v", err)
	}
	if err := s.Pack(t.Context(), io.Discard, keys[0], newKey()); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	full := errors.Plain("full")
	if err := s.Pack(t.Context(), fails{full}, keys...); !errors.Is(err, full) {
		t.Errorf("nowhere to write to: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Pack(ctx, io.Discard, keys...); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

type fails struct{ err error }

func (f fails) Write([]byte) (int, error) { return 0, f.err }

// What was cut off or changed leaves nothing behind, nor does what ends by an error.
func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	s, keys := carried(t)
	b := pack(t, s, keys...)
	kept := newKey()
	other := openStore(t, t.TempDir(), journal.Options{MaxBytes: 1 << 40})
	j := open(t, other, kept)
	appendAll(t, j, "kept")
	finish(t, j, 0)
	refuse := func(what string, r io.Reader, want error) {
		t.Helper()
		got, err := other.Unpack(r)
		if len(got) > 0 || !(want == nil && errors.HasCode(err, errors.InvalidArgument) || want != nil && errors.Is(err, want)) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if all := other.List(); len(all) != 1 || all[0].Key != kept {
			t.Fatalf("%s: there are %v", what, all)
		}
	}
	refuse("nothing", bytes.NewReader(nil), nil)
	refuse("something else", strings.NewReader(strings.Repeat("something else", 100)), nil)
	for range 60 {
		at := rand.IntN(len(b)-9) + 8
		changed := bytes.Clone(b)
		changed[at] ^= 0x10
		refuse("changed", bytes.NewReader(changed), nil)
	}
	away := errors.Plain("away")
	for range 60 {
		at := rand.IntN(len(b))
		refuse("an error", io.MultiReader(bytes.NewReader(b[:at]), iotest.ErrReader(away)), away)
	}
	cut := 0
	for range 60 {
		at := rand.IntN(len(b))
		got, err := other.Unpack(bytes.NewReader(b[:at]))
		if err != nil { // else it was cut between two journals
			cut++
			if !errors.HasCode(err, errors.InvalidArgument) {
				t.Errorf("cut off: %v", err)
			}
		}
		for _, k := range got {
			if err := other.Delete(k); err != nil {
				t.Fatal(err)
			}
		}
		if len(other.List()) != 1 {
			t.Fatalf("cut off: there are %v", other.List())
		}
	}
	if cut < 30 {
		t.Errorf("%d were refused", cut)
	}
}

// What has ended is told until it was carried, also after a restart; only what was
// carried goes where room is wanted.
func TestFresh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	long, short, running := newKey(), newKey(), newKey()
	for _, k := range []journal.Key{long, short, running} {
		j := open(t, s, k)
		appendAll(t, j, "output")
		if k == long {
			appendAll(t, j, strings.Repeat("x", 200<<10))
		}
		if k == running {
			t.Cleanup(j.Close)
		} else {
			finish(t, j, 0)
		}
	}
	fresh := func(s *journal.Store, want ...journal.Key) {
		t.Helper()
		got := map[journal.Key]bool{}
		for _, i := range s.Fresh() {
			got[i.Key] = true
		}
		for _, k := range want {
			if !got[k] {
				t.Errorf("%s is not told", k)
			}
		}
		if len(got) != len(want) || s.Uncarried() != len(want) {
			t.Errorf("%d are told, %d are counted, not %d", len(got), s.Uncarried(), len(want))
		}
	}
	fresh(s, long, short)
	if n, err := s.Relieve(1 << 40); err != nil || n != 0 {
		t.Errorf("%d went that are nowhere else: %v", n, err)
	}
	s.Carried(long)
	s.Carried(newKey())
	fresh(s, short)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, journal.Options{})
	fresh(s, long, short) // nobody has told this process
	j := open(t, s, running)
	fresh(s, long, short)
	finish(t, j, 0)
	fresh(s, long, short, running)
	s.Carried(long)
	s.Carried(running)
	r, err := s.Read(running, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Relieve(1); err != nil || n != 1 {
		t.Errorf("%d went: %v", n, err)
	}
	if n, err := s.Relieve(1 << 40); err != nil || n != 0 {
		t.Errorf("%d went that somebody reads: %v", n, err)
	}
	_ = r.Close()
	if n, err := s.Relieve(1 << 40); err != nil || n != 1 {
		t.Errorf("%d went: %v", n, err)
	}
	fresh(s, short)
	if n, err := s.RemoveOlderThan(time.Now().Add(time.Hour)); err != nil || n != 1 {
		t.Errorf("%d: %v", n, err)
	}
	fresh(s)
}
