package journal_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var _ vmm.OutputReader = (*journal.Reader)(nil)

func newKey() journal.Key {
	return journal.Key{VM: domain.NewID(), Epoch: 3, Execution: domain.NewID()}
}

func openStore(t *testing.T, dir string, o journal.Options) *journal.Store {
	t.Helper()
	s, err := journal.OpenStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t *testing.T, s *journal.Store, k journal.Key) *journal.Journal {
	t.Helper()
	j, err := s.Open(k)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func appendAll(t *testing.T, j *journal.Journal, pieces ...string) {
	t.Helper()
	for _, p := range pieces {
		if err := j.Append(j.NextOffset(), domain.Stdout, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
}

// drain reads to io.EOF and gives what it saw: data, gaps, and the end.
type seen struct {
	data   bytes.Buffer
	gaps   []domain.OutputGap
	end    *domain.ExecutionEnd
	offset int64
}

func drain(t *testing.T, r vmm.OutputReader, from int64) *seen {
	t.Helper()
	s := &seen{offset: from}
	for {
		e, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return s
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Offset != s.offset {
			t.Fatalf("event at offset %d, want %d", e.Offset, s.offset)
		}
		switch {
		case e.Gap != nil:
			s.gaps = append(s.gaps, *e.Gap)
			s.offset = e.Gap.To
		case e.End != nil:
			s.end = e.End
		default:
			s.data.Write(e.Data)
			s.offset += int64(len(e.Data))
		}
	}
}

func read(t *testing.T, s *journal.Store, k journal.Key, from int64) *seen {
	t.Helper()
	r, err := s.Read(k, from, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return drain(t, r, from)
}

func TestAppend(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	j := open(t, s, newKey())
	defer j.Close()
	appendAll(t, j, "hello ")
	for _, tc := range []struct {
		name   string
		offset int64
		data   string
		code   errors.Code
		next   int64
	}{
		{"a hole", 7, "x", errors.OutOfRange, 6},
		{"negative", -1, "x", errors.OutOfRange, 6},
		{"sent again", 0, "hello ", "", 6},
		{"sent again with more", 3, "lo world", "", 11},
		{"empty", 11, "", "", 11},
		{"far away", 1 << 62, "x", errors.OutOfRange, 11},
	} {
		err := j.Append(tc.offset, domain.Stdout, []byte(tc.data))
		if got := errors.CodeOf(err); got != tc.code {
			t.Errorf("%s: got %v, want code %q", tc.name, err, tc.code)
		}
		if got := j.NextOffset(); got != tc.next {
			t.Errorf("%s: next offset %d, want %d", tc.name, got, tc.next)
		}
	}
	if err := j.Append(11, 9, []byte("x")); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("unknown stream: %v", err)
	}
	if err := j.AppendEnd(domain.ExecutionEnd{ExitCode: 7}); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(11, domain.Stdout, []byte("x")); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("output after the end: %v", err)
	}
	if err := j.AppendEnd(domain.ExecutionEnd{ExitCode: 8}); err != nil {
		t.Errorf("a second end: %v", err)
	}
	got := read(t, s, j.Key(), 0)
	if got.data.String() != "hello world" || got.end == nil || got.end.ExitCode != 7 {
		t.Errorf("read %q, end %+v", got.data.String(), got.end)
	}
}

func TestStreamsAreToldApart(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	j := open(t, s, newKey())
	defer j.Close()
	want := []domain.OutputStream{domain.Stdout, domain.Stderr, domain.Stderr, domain.PTY}
	for i, stream := range want {
		if err := j.Append(int64(i), stream, []byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := j.NewReader(1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := 1; i < len(want); i++ {
		e, err := r.Next(t.Context())
		if err != nil || e.Stream != want[i] || string(e.Data) != string(rune('a'+i)) || e.Offset != int64(i) {
			t.Fatalf("event %d: %+v, %v", i, e, err)
		}
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	k := newKey()
	j := open(t, s, k)
	defer j.Close()

	// A reader may come before the first byte.
	r, err := s.Read(k, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	result := make(chan *seen, 1)
	go func() { result <- drain(t, r, 0) }()
	var want strings.Builder
	for i := range 1000 {
		p := strings.Repeat(string(rune('a'+i%26)), i%37+1)
		want.WriteString(p)
		appendAll(t, j, p)
	}
	if err := j.AppendEnd(domain.ExecutionEnd{Signal: 9, ExitCode: 137}); err != nil {
		t.Fatal(err)
	}
	got := <-result
	if got.data.String() != want.String() {
		t.Errorf("read %d bytes, want %d", got.data.Len(), want.Len())
	}
	if got.end == nil || *got.end != (domain.ExecutionEnd{Signal: 9, ExitCode: 137}) {
		t.Errorf("end %+v", got.end)
	}
}

// Who follows what goes on elsewhere is told so when it has what there is; what has
// ended, is another VM's or is read afterwards goes on as before.
func TestPart(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	k, other := newKey(), newKey()
	over := k
	over.Execution = domain.NewID()
	follow := func(k journal.Key) *journal.Reader {
		r, err := s.Read(k, 0, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	journals := map[journal.Key]*journal.Journal{}
	for _, k := range []journal.Key{k, over, other} {
		journals[k] = open(t, s, k)
		defer journals[k].Close()
		appendAll(t, journals[k], "begun ")
	}
	parted, ended, stays := follow(k), follow(over), follow(other)
	if err := journals[over].AppendEnd(domain.ExecutionEnd{ExitCode: 3}); err != nil {
		t.Fatal(err)
	}
	s.Part(k.VM, k.Epoch)
	later := follow(k)

	if e, err := parted.Next(t.Context()); err != nil || string(e.Data) != "begun " {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := parted.Next(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("after what there was: %v", err)
	}
	if got := drain(t, ended, 0); got.end == nil || got.end.ExitCode != 3 || got.data.String() != "begun " {
		t.Errorf("what had ended: %+v", got)
	}
	for k, r := range map[journal.Key]*journal.Reader{k: later, other: stays} {
		appendAll(t, journals[k], "more")
		if err := journals[k].AppendEnd(domain.ExecutionEnd{}); err != nil {
			t.Fatal(err)
		}
		if got := drain(t, r, 0); got.end == nil || got.data.String() != "begun more" {
			t.Errorf("who goes on: %+v", got)
		}
	}
}

func TestWaitingReaderIsReleased(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(*journal.Store, *journal.Reader, context.CancelFunc, journal.Key){
		"by Close":       func(_ *journal.Store, r *journal.Reader, _ context.CancelFunc, _ journal.Key) { _ = r.Close() },
		"by its context": func(_ *journal.Store, _ *journal.Reader, c context.CancelFunc, _ journal.Key) { c() },
		"by Delete":      func(s *journal.Store, _ *journal.Reader, _ context.CancelFunc, k journal.Key) { _ = s.Delete(k) },
		"by the store":   func(s *journal.Store, _ *journal.Reader, _ context.CancelFunc, _ journal.Key) { _ = s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir(), journal.Options{})
			k := newKey()
			j := open(t, s, k)
			defer j.Close()
			appendAll(t, j, "x")
			r, err := j.NewReader(1, true)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { _, err := r.Next(ctx); done <- err }()
			release(s, r, cancel, k)
			if err := <-done; err == nil || errors.Is(err, io.EOF) {
				t.Errorf("got %v, want an error", err)
			}
		})
	}
}

func TestBoundDropsOldest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const bound = 256 << 10
	s := openStore(t, dir, journal.Options{MaxBytes: bound})
	k := newKey()
	j := open(t, s, k)
	defer j.Close()
	if _, err := j.Begin([]byte("note")); err != nil {
		t.Fatal(err)
	}
	early, err := j.NewReader(0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()

	piece := make([]byte, 10_000)
	total := int64(0)
	for i := range 300 {
		for b := range piece {
			piece[b] = byte(i)
		}
		if err := j.Append(total, domain.Stdout, piece); err != nil {
			t.Fatal(err)
		}
		total += int64(len(piece))
		if i == 0 {
			// This reader now holds the first segment and then sleeps.
			if e, err := early.Next(t.Context()); err != nil || len(e.Data) == 0 {
				t.Fatal(e, err)
			}
		}
	}
	if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
		t.Fatal(err)
	}
	if s.Bytes() > bound {
		t.Errorf("%d bytes on disk, bound %d", s.Bytes(), bound)
	}
	check := func(name string, got *seen, from int64) {
		t.Helper()
		if len(got.gaps) != 1 || got.gaps[0].To != j.FirstOffset() {
			t.Errorf("%s: gaps %v, first kept offset %d", name, got.gaps, j.FirstOffset())
			return
		}
		if have := from + int64(got.data.Len()) + got.gaps[0].To - got.gaps[0].From; have != total {
			t.Errorf("%s: data and gap make %d, want %d", name, have, total)
		}
		if b := got.data.Bytes(); b[len(b)-1] != byte(299%256) {
			t.Errorf("%s: wrong last byte", name)
		}
		if got.end == nil {
			t.Errorf("%s: no end", name)
		}
	}
	check("late", read(t, s, k, 0), 0)
	check("asleep", drain(t, early, 10_000), 10_000)

	// The same after a restart.
	first := j.FirstOffset()
	_ = s.Close()
	s = openStore(t, dir, journal.Options{MaxBytes: bound})
	got := read(t, s, k, 0)
	if len(got.gaps) != 1 || got.gaps[0] != (domain.OutputGap{From: 0, To: first}) || got.end == nil {
		t.Errorf("after reopening: gaps %v, end %v", got.gaps, got.end)
	}
	if again := open(t, s, k); string(again.Note()) != "note" {
		t.Errorf("the note is %q", again.Note())
	}
}

func TestSkip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	k := newKey()
	j := open(t, s, k)
	appendAll(t, j, "abc")
	if err := j.Skip(2); !errors.HasCode(err, errors.OutOfRange) {
		t.Errorf("back: %v", err)
	}
	if err := j.Skip(10); err != nil {
		t.Fatal(err)
	}
	if err := j.Skip(12); err != nil {
		t.Fatal(err)
	}
	_ = s.Close() // the gap is kept though nothing follows it
	s = openStore(t, dir, journal.Options{})
	j = open(t, s, k)
	defer j.Close()
	if j.NextOffset() != 12 {
		t.Fatalf("next offset %d", j.NextOffset())
	}
	appendAll(t, j, "mno")
	got := read(t, s, k, 0)
	if got.data.String() != "abcmno" || len(got.gaps) != 1 || got.gaps[0] != (domain.OutputGap{From: 3, To: 12}) {
		t.Errorf("read %q, gaps %v", got.data.String(), got.gaps)
	}
}

func TestBegin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, journal.Options{})
	k := newKey()
	j := open(t, s, k)
	for i, want := range []bool{true, false} {
		if began, err := j.Begin([]byte("note")); err != nil || began != want {
			t.Fatalf("call %d: %v, %v", i, began, err)
		}
	}
	_ = s.Close()
	s = openStore(t, dir, journal.Options{})
	j, err := s.Lookup(k)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if string(j.Note()) != "note" || j.NextOffset() != 0 {
		t.Errorf("note %q, next offset %d", j.Note(), j.NextOffset())
	}
	appendAll(t, j, "out")
	if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, k, 0); got.data.String() != "out" || got.end == nil {
		t.Errorf("read %q, %v", got.data.String(), got.end)
	}
	if _, err := j.Begin(make([]byte, 2000)); !errors.HasCode(err, errors.TooLarge) {
		t.Errorf("long note: %v", err)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	k := newKey()
	j := open(t, s, k)
	defer j.Close()
	appendAll(t, j, "hello ", "world")
	for n, want := range map[int]string{0: "", 1: "d", 5: "world", 7: "o world"[0:], 100: "hello world"} {
		got, err := s.Tail(k, n)
		if err != nil || !strings.HasSuffix("hello world", string(got)) || len(got) != min(n, 11) {
			t.Errorf("tail %d: %q, %v; want %q", n, got, err, want)
		}
	}
	if _, err := s.Tail(newKey(), 5); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("unknown key: %v", err)
	}
}

func TestManyReadersOneWriter(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), journal.Options{})
	k := newKey()
	j := open(t, s, k)
	defer j.Close()
	const readers = 8
	results := make(chan *seen, readers)
	for range readers {
		r, err := s.Read(k, 0, true)
		if err != nil {
			t.Fatal(err)
		}
		go func() { defer r.Close(); results <- drain(t, r, 0) }()
	}
	piece := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	for range 200 {
		if err := j.Append(j.NextOffset(), domain.Stdout, piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
		t.Fatal(err)
	}
	for range readers {
		got := <-results
		if want := 200 * len(piece); got.data.Len() != want || len(got.gaps) != 0 || got.end == nil {
			t.Errorf("%d bytes, want %d; gaps %v", got.data.Len(), want, got.gaps)
		}
	}
}

// However long a piece is that comes at once, the bound holds, and frames are
// no longer than a small journal can bear.
func TestALongPieceKeepsToTheBound(t *testing.T) {
	t.Parallel()
	s := small(t)
	j := opened(t, s)
	out := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(out)
	if err := j.Append(0, domain.Stdout, out); err != nil {
		t.Fatal(err)
	}
	if n := s.Bytes(); n > 64<<10 {
		t.Errorf("%d bytes are kept", n)
	}
	first := j.FirstOffset()
	if first > int64(len(out))-48<<10 {
		t.Errorf("output is kept from %d on only", first)
	}
	r, err := j.NewReader(first, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for at := first; ; {
		ev, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			if at != int64(len(out)) {
				t.Errorf("it ends at %d", at)
			}
			return
		}
		if err != nil || ev.Offset != at || !bytes.Equal(ev.Data, out[at:at+int64(len(ev.Data))]) {
			t.Fatalf("at %d: %+v, %v", at, ev.Gap, err)
		}
		at += int64(len(ev.Data))
	}
}
