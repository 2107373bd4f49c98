package answers_test

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
	"github.com/aetherium/aetherium/services/gateway/pkg/answers"
	"github.com/aetherium/aetherium/services/gateway/pkg/api"
)

type lab struct {
	t      *testing.T
	store  storage.Store
	sealer seal.Sealer
	now    time.Time
	// Two gateways of one installation.
	one, two *answers.Store
}

func newLab(t *testing.T) *lab {
	t.Helper()
	store, err := sqlitetest.Open(t.Context(), filepath.Join(t.TempDir(), "a.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	key, err := seal.NewKeys(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, store: store, sealer: seal.New(key), now: time.Now()}
	l.one, l.two = answers.New(store, l.sealer, l.clock), answers.New(store, l.sealer, l.clock)
	return l
}

func (l *lab) clock() time.Time { return l.now }

func (l *lab) project() domain.ID {
	l.t.Helper()
	id := domain.NewID()
	if err := l.store.Update(l.t.Context(), func(tx storage.Tx) error {
		return tx.Projects().Insert(l.t.Context(), &domain.Project{ID: id, Name: id.String(), CreatedAt: l.now})
	}); err != nil {
		l.t.Fatal(err)
	}
	return id
}

func (l *lab) begin(s *answers.Store, project domain.ID, digest string) (*api.StoredResponse, api.Claim) {
	l.t.Helper()
	stored, claim, err := s.Begin(l.t.Context(), project, "k", digest)
	if err != nil {
		l.t.Fatal(err)
	}
	return stored, claim
}

func TestAnswersAreShared(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p, ctx := l.project(), context.Background()
	_, first := l.begin(l.one, p, "d")
	if first == nil {
		t.Fatal("not claimed")
	}
	if r, claim := l.begin(l.two, p, "d"); r != nil || claim != nil {
		t.Fatal("not in flight", r, claim)
	}
	if _, claim := l.begin(l.two, l.project(), "d"); claim == nil {
		t.Fatal("a key reaches across projects")
	}
	if err := first.Finish(ctx, nil); err != nil {
		t.Fatal(err)
	}
	_, second := l.begin(l.two, p, "d")
	if second == nil {
		t.Fatal("given up, and still in flight")
	}
	want := &api.StoredResponse{Status: http.StatusCreated, Header: http.Header{"Location": {"/x"}}, Body: []byte("secret\x00")}
	if err := second.Finish(ctx, want); err != nil {
		t.Fatal(err)
	}
	if err := first.Finish(ctx, nil); err != nil { // its claim is over
		t.Fatal(err)
	}
	if r, _ := l.begin(l.one, p, "d"); !reflect.DeepEqual(r, want) {
		t.Fatalf("%+v", r)
	}
	if _, _, err := l.one.Begin(ctx, p, "k", "e"); !errors.HasCode(err, errors.IdempotencyMismatch) {
		t.Fatal(err)
	}
	l.now = l.now.Add(api.IdempotencyTTL)
	if r, claim := l.begin(l.one, p, "e"); r != nil || claim == nil {
		t.Fatal("remembered for too long", r, claim)
	}
}

// Who claims a key and dies has lost it after a while, and does not answer for
// the next one.
func TestClaimsEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.project()
	_, dead := l.begin(l.one, p, "d")
	l.now = l.now.Add(29 * time.Second)
	if r, claim := l.begin(l.two, p, "d"); r != nil || claim != nil {
		t.Fatal("not in flight", r, claim)
	}
	l.now = l.now.Add(time.Second)
	_, next := l.begin(l.two, p, "e")
	if next == nil {
		t.Fatal("still claimed")
	}
	if err := dead.Finish(t.Context(), &api.StoredResponse{Status: 200}); !errors.HasCode(err, errors.NotFound) {
		t.Fatal(err)
	}
	if err := next.Finish(t.Context(), &api.StoredResponse{Status: 201}); err != nil {
		t.Fatal(err)
	}
	if r, _ := l.begin(l.one, p, "e"); r == nil || r.Status != 201 {
		t.Fatalf("%+v", r)
	}
}

// A process that is alone knows at its start that nobody is answering.
func TestForget(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.project()
	if _, dead := l.begin(l.one, p, "d"); dead == nil {
		t.Fatal("not claimed")
	}
	if err := l.two.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, next := l.begin(l.two, p, "d")
	if next == nil {
		t.Fatal("still claimed")
	}
	if err := next.Finish(t.Context(), &api.StoredResponse{Status: 201}); err != nil {
		t.Fatal(err)
	}
	if err := l.two.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, _ := l.begin(l.one, p, "d"); r == nil {
		t.Fatal("an answer was forgotten")
	}
}

// A claim is renewed for as long as its request takes.
func TestClaimsAreRenewed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.project()
	s := answers.New(l.store, l.sealer, nil)
	synctest.Test(t, func(t *testing.T) {
		_, claim, err := s.Begin(t.Context(), p, "k", "d")
		if err != nil || claim == nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if r, again, err := s.Begin(t.Context(), p, "k", "d"); r != nil || again != nil || err != nil {
			t.Errorf("%v, %v, %v", r, again, err)
		}
		if err := claim.Finish(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
}

// However many keys one project uses, it and others can use more.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	many := l.project()
	if err := l.store.Update(t.Context(), func(tx storage.Tx) error {
		for i := range 10_000 {
			if err := tx.Answers().Insert(t.Context(), &storage.Answer{
				ID: storage.AnswerID(strconv.Itoa(i)), ProjectID: many, AnswerSealed: []byte("x"), CreatedAt: l.now, ExpiresAt: l.now.Add(time.Hour),
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []domain.ID{many, l.project()} {
		if _, claim := l.begin(l.one, p, "d"); claim == nil {
			t.Error("not claimed")
		}
	}
}

func (l *lab) vm(project domain.ID) domain.ID {
	l.t.Helper()
	vm := &domain.VM{ID: domain.NewID(), ProjectID: project, Desired: domain.WantRunning, Observed: domain.Running, CreatedAt: l.now, UpdatedAt: l.now}
	if err := l.store.Update(l.t.Context(), func(tx storage.Tx) error { return tx.VMs().Insert(l.t.Context(), vm) }); err != nil {
		l.t.Fatal(err)
	}
	return vm.ID
}

// What happens once happens once in all gateways, per VM, and is forgotten when it
// cannot happen any more; no request's key stands in its way.
func TestOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	project := l.project()
	vm, other := l.vm(project), l.vm(project)
	until := l.now.Add(5 * time.Minute)
	if err := l.one.Once(t.Context(), vm, "link", until); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*answers.Store{l.one, l.two} {
		if err := s.Once(t.Context(), vm, "link", until); !errors.HasCode(err, errors.AlreadyExists) {
			t.Errorf("again: %v", err)
		}
	}
	for _, err := range []error{l.two.Once(t.Context(), vm, "another", until), l.two.Once(t.Context(), other, "link", until)} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := l.one.Once(t.Context(), domain.NewID(), "link", until); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("without a VM: %v", err)
	}
	if _, claim, err := l.two.Begin(t.Context(), project, "link", "digest"); claim == nil || err != nil {
		t.Errorf("a request's key: %v", err)
	} else if err := claim.Finish(t.Context(), nil); err != nil {
		t.Error(err)
	}
	left := func(at time.Time) (n int) {
		t.Helper()
		if err := l.store.Update(t.Context(), func(tx storage.Tx) (err error) {
			n, err = tx.Answers().DeleteExpired(t.Context(), at, 10)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := left(until); n != 0 {
		t.Errorf("%d are forgotten while clocks may differ", n)
	}
	if n := left(until.Add(2 * time.Minute)); n != 3 {
		t.Errorf("%d were there to be swept", n)
	}
}
