package audit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/audit"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// place is where a log lives, across its servers.
type place struct {
	testing.TB
	dir   string
	store storage.Store
}

func newPlace(t testing.TB) *place {
	t.Helper()
	s, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &place{t, filepath.Join(t.TempDir(), "audit"), s}
}

// open opens the log as a server does. That the one before was not closed is
// what a killed server leaves.
func (p *place) open(change ...func(*audit.Options)) *audit.Log {
	p.Helper()
	o := audit.Options{Dir: p.dir, Store: p.store, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	l, err := audit.Open(p.Context(), o)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = l.Close() })
	return l
}

func (p *place) append(l *audit.Log, request string) {
	p.Helper()
	if err := l.Append(&domain.AuditRecord{ProjectID: "p", RequestID: request, Status: 200}); err != nil {
		p.Fatal(err)
	}
}

// requests lists what is in the database, without asking the log.
func (p *place) requests() []string {
	p.Helper()
	var out []string
	err := p.store.View(p.Context(), func(tx storage.Tx) error {
		l, err := tx.Audit().List(p.Context(), storage.AuditFilter{Page: storage.Page{Order: vmm.OldestFirst, Limit: 1000}})
		for _, r := range l.Items {
			out = append(out, r.RequestID)
		}
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func (p *place) want(names ...string) {
	p.Helper()
	slices.Sort(names)
	if got := p.requests(); !slices.Equal(got, names) {
		p.Errorf("got %v, want %v", got, names)
	}
}

func (p *place) journal() string { return filepath.Join(p.dir, "journal") }

// What was appended is there after a kill, once, wherever the server was when
// it was killed.
func TestKilledServersLoseNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open()
	for i := range 1200 { // more than a batch
		p.append(l, fmt.Sprint(i))
	}
	if n := len(p.requests()); n != 0 {
		t.Fatalf("%d records came into the database with their requests", n)
	}
	if info, err := os.Stat(p.journal()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	lines, err := os.ReadFile(p.journal())
	if err != nil {
		t.Fatal(err)
	}
	// Killed while it imports: the file is aside, and what was read of it is in
	// the database already.
	first := bytes.Join(bytes.SplitAfter(lines, []byte("\n"))[:700], nil)
	if err := os.WriteFile(p.journal()+".aside", first, 0o600); err != nil {
		t.Fatal(err)
	}
	p.open()
	if n := len(p.requests()); n != 1000 { // the most that one page shows
		t.Fatalf("%d records", n)
	}
	// Killed once more, between the import and the removal of its file.
	if err := os.WriteFile(p.journal()+".aside", lines, 0o600); err != nil {
		t.Fatal(err)
	}
	l = p.open()
	p.append(l, "last")
	list, err := l.List(t.Context(), vmm.Caller{Admin: true}, audit.Filter{Page: vmm.Page{Limit: 1}})
	if err != nil || len(list.Items) != 1 || list.Items[0].RequestID != "last" {
		t.Fatalf("%+v, %v", list, err)
	}
	n := 0
	for f := (audit.Filter{Page: vmm.Page{Limit: 500}}); ; f.Cursor = list.Next {
		if list, err = l.List(t.Context(), vmm.Caller{Admin: true}, f); err != nil {
			t.Fatal(err)
		}
		if n += len(list.Items); list.Next == "" {
			break
		}
	}
	if n != 1201 {
		t.Errorf("%d records", n)
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, "*")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A line that was written half belongs to a request that was never answered.
func TestHalfALine(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open()
	p.append(l, "whole")
	f, err := os.OpenFile(p.journal(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"ID":"half` + strings.Repeat(" ", 10_000))
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	l = p.open()
	p.append(l, "next")
	if err := l.Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want("whole", "next")
}

// A damaged line costs itself alone, and its file stays to be looked at.
func TestDamagedLines(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open()
	p.append(l, "before")
	f, err := os.OpenFile(p.journal(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("\x00\x00garbage\n{}\n")
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	l = p.open()
	p.append(l, "after")
	if err := l.Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want("before", "after")
	if kept, _ := filepath.Glob(p.journal() + ".damaged-*"); len(kept) != 1 {
		t.Errorf("kept: %v", kept)
	}
}

func TestAppendingWhileImporting(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open()
	var want []string
	var all sync.WaitGroup
	for w := range 4 {
		for i := range 100 {
			want = append(want, fmt.Sprint(w, "-", i))
		}
		all.Go(func() {
			for i := range 100 {
				commit, err := l.Reserve()
				if err == nil {
					err = commit(&domain.AuditRecord{RequestID: fmt.Sprint(w, "-", i)})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		all.Go(func() {
			if err := l.Import(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := l.Import(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want(want...)
}

// A store that is away keeps records in the journal.
func TestImportIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	closed, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	l := p.open(func(o *audit.Options) { o.Store = closed })
	p.append(l, "one")
	if err := l.Import(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Fatalf("%v", err)
	}
	p.append(l, "two") // which has a file of its own
	if err := l.Import(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Fatalf("%v", err)
	}
	p.open()
	p.want("one", "two")
}

// Where there is no room a change is refused before it is made; what had room
// promised is recorded on a full disk, and all goes on when there is room again.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	t.Parallel()
	p := newPlace(t)
	mount := t.TempDir()
	if err := unix.Mount("test", mount, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
	p.dir = filepath.Join(mount, "audit")
	l := p.open()
	var promised []func(*domain.AuditRecord) error
	for range 10 {
		commit, err := l.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		promised = append(promised, commit)
	}
	fill := filepath.Join(mount, "fill")
	if err := os.WriteFile(fill, make([]byte, 8<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling: %v", err)
	}
	var refused error
	for n := 0; refused == nil && n < 10_000; n++ {
		var commit func(*domain.AuditRecord) error
		if commit, refused = l.Reserve(); refused == nil {
			promised = append(promised, commit)
		}
	}
	if !errors.HasCode(refused, errors.NoSpace) {
		t.Fatalf("on a full disk: %v", refused)
	}
	if err := l.Append(&domain.AuditRecord{}); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("nothing is written into the room of others: %v", err)
	}
	var want []string
	for i, commit := range promised {
		want = append(want, fmt.Sprint(i))
		if err := commit(&domain.AuditRecord{RequestID: fmt.Sprint(i), SubjectID: strings.Repeat(`"`, 300)}); err != nil {
			t.Fatalf("promised record %d: %v", i, err)
		}
	}
	lenient := p.open(func(o *audit.Options) { o.Lenient, o.Dir = true, filepath.Join(mount, "audit") })
	if commit, err := lenient.Reserve(); err != nil || commit(&domain.AuditRecord{RequestID: "lenient"}) != nil {
		t.Errorf("a lenient log refuses: %v", err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	p.append(l, "again")
	_ = lenient.Close()
	_ = l.Close()
	p.open()
	got := p.requests()
	for _, w := range append(want, "again") {
		if !slices.Contains(got, w) {
			t.Errorf("%s is missing", w)
		}
	}
}

func TestWhatIsKeptOfText(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open()
	long := strings.Repeat("x", 10_000)
	r := &domain.AuditRecord{Actor: long, Agent: "a\x00\x1b[31m\xff\u202e\n{\"ID\":1}", SubjectID: long, Operation: long, Code: long, RequestID: long, Client: long, SubjectKind: long}
	if err := l.Append(r); err != nil {
		t.Fatal(err)
	}
	list, err := l.List(t.Context(), vmm.Caller{Admin: true}, audit.Filter{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	got := list.Items[0]
	if got.Agent != `a??[31m???{"ID":1}` || len(got.Actor) != 254 || len(got.SubjectID) != 254 {
		t.Errorf("%q %d %d", got.Agent, len(got.Actor), len(got.SubjectID))
	}
}

func TestWhoSeesWhat(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	mine, other := domain.NewID(), domain.NewID()
	err := p.store.Update(t.Context(), func(tx storage.Tx) error {
		return errors.Join(
			tx.Projects().Insert(t.Context(), &domain.Project{ID: mine, Name: "mine", CreatedAt: time.Now()}),
			tx.Projects().Insert(t.Context(), &domain.Project{ID: other, Name: "other", CreatedAt: time.Now()}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	l := p.open()
	for _, project := range []domain.ID{mine, other, ""} {
		if err := l.Append(&domain.AuditRecord{ProjectID: project, RequestID: "of " + string(project)}); err != nil {
			t.Fatal(err)
		}
	}
	user, admin := vmm.Caller{ProjectID: mine}, vmm.Caller{ProjectID: mine, Admin: true}
	for _, tc := range []struct {
		by      vmm.Caller
		project string
		want    int
	}{
		{user, "", 1}, {user, "mine", 1}, {user, string(mine), 1}, {user, "other", -1}, {user, string(other), -1}, {user, "absent", -1},
		{admin, "", 3}, {admin, "mine", 1}, {admin, "other", 1}, {admin, string(other), 1}, {admin, "absent", -1},
	} {
		list, err := l.List(t.Context(), tc.by, audit.Filter{Project: tc.project})
		if tc.want < 0 {
			if !errors.HasCode(err, errors.NotFound) {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err != nil || len(list.Items) != tc.want {
			t.Errorf("%+v: %d records, %v", tc, len(list.Items), err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	l := newPlace(b).open()
	r := &domain.AuditRecord{
		ProjectID: domain.NewID(), Actor: "agent", KeyID: domain.NewID(), Operation: "execute", SubjectKind: "execution",
		SubjectID: string(domain.NewID()), VMID: domain.NewID(), Client: "192.0.2.1", Agent: "aetherium/1.0", Status: 200, RequestID: "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
	}
	b.ReportAllocs()
	for b.Loop() {
		commit, err := l.Reserve()
		if err == nil {
			err = commit(r)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
