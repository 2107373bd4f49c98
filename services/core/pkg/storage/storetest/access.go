package storetest

import (
	"crypto/sha256"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

func usage(e *env) {
	p, q := e.project("p"), e.project("q")
	a, b := domain.NewID(), domain.NewID()
	span := func(project, vm domain.ID, minute int, cpu float64, disk int64) domain.Usage {
		from := e.now.Add(time.Duration(minute) * time.Minute)
		return domain.Usage{ProjectID: project, VMID: vm, From: from, To: from.Add(time.Minute), CPUSeconds: cpu, MemoryByteSec: 2 * cpu, DiskBytes: disk, EgressBytes: 10}
	}
	rows := []domain.Usage{span(p, a, 0, 1, 5), span(p, a, 1, 2, 7), span(p, b, 1, 4, 100)}
	foreign := span(q, domain.NewID(), 0, 99, 99)
	e.update(func(tx storage.Tx) error { return tx.Usage().Record(e.ctx(), append(rows, foreign)...) })
	e.update(func(tx storage.Tx) error { return tx.Usage().Record(e.ctx(), rows[1]) }) // again is the same
	many := make([]domain.Usage, 600)
	for i := range many {
		many[i] = span(q, domain.NewID(), -5, 1, 1)
	}
	e.update(func(tx storage.Tx) error { return tx.Usage().Record(e.ctx(), many...) })
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Usage().Record(e.ctx(), span(q, a, 9, 1, 1), span(domain.NewID(), a, 9, 1, 1))
	})
	sum := func(f storage.UsageFilter) domain.Usage {
		return read(e, func(tx storage.Tx) (domain.Usage, error) { return tx.Usage().Sum(e.ctx(), f) })
	}
	if got := sum(storage.UsageFilter{ProjectID: q, To: e.now}); got.CPUSeconds != 600 {
		e.Errorf("of many: %+v", got)
	}
	same(e, "project", sum(storage.UsageFilter{ProjectID: p}),
		domain.Usage{ProjectID: p, From: rows[0].From, To: rows[1].To, CPUSeconds: 7, MemoryByteSec: 14, DiskBytes: 107, EgressBytes: 30})
	same(e, "VM", sum(storage.UsageFilter{ProjectID: p, VMID: a}),
		domain.Usage{ProjectID: p, VMID: a, From: rows[0].From, To: rows[1].To, CPUSeconds: 3, MemoryByteSec: 6, DiskBytes: 7, EgressBytes: 20})
	same(e, "time", sum(storage.UsageFilter{ProjectID: p, VMID: a, To: rows[1].From}),
		domain.Usage{ProjectID: p, VMID: a, From: rows[0].From, To: rows[0].To, CPUSeconds: 1, MemoryByteSec: 2, DiskBytes: 5, EgressBytes: 10})
	same(e, "nothing", sum(storage.UsageFilter{ProjectID: p, From: rows[1].To}), domain.Usage{ProjectID: p})
	list := read(e, func(tx storage.Tx) ([]domain.Usage, error) {
		return tx.Usage().List(e.ctx(), storage.UsageFilter{ProjectID: p, VMID: a, From: rows[1].From}, 10)
	})
	same(e, "list", list, rows[1:2])
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
		bad := rows[0]
		bad.To = bad.From.Add(-1 * time.Second)
		return tx.Usage().Record(e.ctx(), bad)
	})
	e.update(func(tx storage.Tx) error {
		n, err := tx.Usage().DeleteBefore(e.ctx(), rows[1].To, 1000)
		if n != 600+2 { // the many, and the two that ended a minute earlier, of both projects
			e.Errorf("deleted %d", n)
		}
		return err
	})
}

func keys(e *env) {
	p, q := e.project("p"), e.project("q")
	k := &domain.APIKey{
		ID: domain.NewID(), ProjectID: p, Name: "ci", Prefix: "ae_1234", Hash: sha256.Sum256([]byte("secret")), Scopes: domain.Scopes{domain.ScopeRun},
		CreatedAt: e.now, ExpiresAt: ptr(e.now.Add(time.Hour)),
	}
	version := e.store.KeysVersion()
	changed := func(want bool, what string) {
		e.Helper()
		if now := e.store.KeysVersion(); version != 0 && (now != version) != want {
			e.Errorf("%s: the keys' version was %d and is %d", what, version, now)
		} else {
			version = now
		}
	}
	e.update(func(tx storage.Tx) error { return tx.Keys().Insert(e.ctx(), k) })
	changed(true, "a new key")
	get := func() *domain.APIKey {
		return read(e, func(tx storage.Tx) (*domain.APIKey, error) { return tx.Keys().ByHash(e.ctx(), k.Hash) })
	}
	same(e, "stored", get(), k)
	if c := code(e, func(tx storage.Tx) (*domain.APIKey, error) {
		return tx.Keys().ByHash(e.ctx(), sha256.Sum256([]byte("guess")))
	}); c != errors.NotFound {
		e.Errorf("an unknown key: %s", c)
	}
	if c := code(e, func(tx storage.Tx) (*domain.APIKey, error) { return tx.Keys().Get(e.ctx(), q, k.ID) }); c != errors.NotFound {
		e.Errorf("another project's key: %s", c)
	}
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error {
		twin := *k
		twin.ID = domain.NewID()
		return tx.Keys().Insert(e.ctx(), &twin)
	})
	k.LastUsedAt = ptr(e.now.Add(time.Minute))
	for _, at := range []time.Time{e.now, *k.LastUsedAt, e.now.Add(time.Second)} { // it never goes back
		e.update(func(tx storage.Tx) error { return tx.Keys().Used(e.ctx(), k.ID, at) })
	}
	same(e, "used", get(), k)
	if !k.Usable(e.now) || k.Usable(*k.ExpiresAt) {
		e.Error("a key is usable until it expires")
	}
	changed(false, "a key's use")
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Keys().Revoke(e.ctx(), q, k.ID, e.now) })
	k.RevokedAt = ptr(e.now)
	for _, at := range []time.Time{e.now, e.now.Add(time.Hour)} { // the first time stays
		e.update(func(tx storage.Tx) error { return tx.Keys().Revoke(e.ctx(), p, k.ID, at) })
	}
	changed(true, "a revoked key")
	same(e, "revoked", get(), k)
	if k.Usable(e.now) {
		e.Error("a revoked key is usable")
	}
	list := read(e, func(tx storage.Tx) (storage.List[*domain.APIKey], error) {
		return tx.Keys().List(e.ctx(), p, storage.Page{})
	})
	same(e, "list", list.Items, []*domain.APIKey{k})
	count := func(project domain.ID, at time.Time) int {
		return read(e, func(tx storage.Tx) (int, error) { return tx.Keys().Count(e.ctx(), project, at) })
	}
	fresh := &domain.APIKey{ID: domain.NewID(), ProjectID: p, Name: "new", Hash: sha256.Sum256([]byte("new")), CreatedAt: e.now, ExpiresAt: ptr(e.now.Add(time.Hour))}
	e.update(func(tx storage.Tx) error { return tx.Keys().Insert(e.ctx(), fresh) })
	if in, after, elsewhere := count(p, e.now), count(p, *fresh.ExpiresAt), count(q, e.now); in != 1 || after != 0 || elsewhere != 0 {
		e.Errorf("keys in force: %d, %d later, %d elsewhere", in, after, elsewhere)
	}
}

func rotatedKeys(e *env) {
	p, q := e.project("p"), e.project("q")
	hash := func(text string) [32]byte { return sha256.Sum256([]byte(text)) }
	k := &domain.APIKey{
		ID: domain.NewID(), ProjectID: p, UserID: domain.NewID(), Name: "ci", Prefix: "aeth_1", Hash: hash("one"), CreatedBy: "alice", CreatedAt: e.now,
	}
	e.update(func(tx storage.Tx) error { return tx.Keys().Insert(e.ctx(), k) })
	opens := func(what, text string, at time.Time, want bool) {
		e.Helper()
		var got *domain.APIKey
		err := e.store.View(e.ctx(), func(tx storage.Tx) (err error) {
			got, err = tx.Keys().ByHash(e.ctx(), hash(text))
			return err
		})
		if (err == nil && got.Opens(hash(text), at)) != want {
			e.Errorf("%s: %s opens: %t (%v)", what, text, !want, err)
		}
	}
	rotate := func(text string, until *time.Time) {
		e.Helper()
		at, before, changed := e.tick(), e.store.KeysVersion(), e.store.KeysChanged()
		e.update(func(tx storage.Tx) error {
			return tx.Keys().Rotate(e.ctx(), p, k.ID, storage.KeySecret{Prefix: "aeth_" + text, Hash: hash(text), At: at}, until)
		})
		k.OldHash, k.OldUntil = [32]byte{}, until
		if until != nil {
			k.OldHash = k.Hash
		}
		k.Prefix, k.Hash, k.RotatedAt = "aeth_"+text, hash(text), &at
		got := read(e, func(tx storage.Tx) (*domain.APIKey, error) { return tx.Keys().Get(e.ctx(), p, k.ID) })
		same(e, "rotated", got, k)
		if before != 0 && e.store.KeysVersion() == before {
			e.Error("a rotation does not change the keys' version")
		}
		select {
		case <-changed:
		default:
			e.Error("a rotation wakes nobody")
		}
	}
	until := e.now.Add(time.Hour)
	rotate("two", &until)
	opens("in the overlap", "one", until.Add(-time.Microsecond), true)
	opens("in the overlap", "two", until.Add(-time.Microsecond), true)
	opens("after the overlap", "one", until, false)
	opens("after the overlap", "two", until, true)
	rotate("three", &until) // of three secrets, the newest two
	opens("after two rotations", "one", e.now, false)
	opens("after two rotations", "two", e.now, true)
	opens("after two rotations", "three", e.now, true)
	rotate("four", nil)
	opens("without an overlap", "three", e.now, false)
	opens("without an overlap", "four", e.now, true)
	opens("a hash of nothing", "", e.now, false)
	// The keys that sign access tokens are such, too.
	before, changed := e.store.KeysVersion(), e.store.KeysChanged()
	e.update(func(tx storage.Tx) error { return tx.Settings().Set(e.ctx(), "plain", "plain") })
	select {
	case <-changed:
		e.Error("any setting wakes who waits for keys")
	default:
	}
	e.update(func(tx storage.Tx) error { return tx.Settings().Set(e.ctx(), storage.SettingTokenKeys, "keys") })
	select {
	case <-changed:
	default:
		e.Error("other keys that sign wake nobody")
	}
	if before != 0 && e.store.KeysVersion() == before {
		e.Error("other keys that sign do not change the keys' version")
	}
	for name, who := range map[string][2]domain.ID{"another project's": {q, k.ID}, "an absent": {p, domain.NewID()}} {
		if err := e.store.Update(e.ctx(), func(tx storage.Tx) error {
			return tx.Keys().Rotate(e.ctx(), who[0], who[1], storage.KeySecret{Hash: hash(name), At: e.now}, nil)
		}); !errors.HasCode(err, errors.NotFound) {
			e.Errorf("%s key: %v", name, err)
		}
	}
	e.update(func(tx storage.Tx) error { return tx.Keys().Revoke(e.ctx(), p, k.ID, e.now) })
	opens("revoked", "four", e.now, false)
}

func idempotency(e *env) {
	p, q := e.project("p"), e.project("q")
	r := &storage.Idempotent{ProjectID: p, Key: "k", RequestDigest: "d1", CreatedAt: e.now, ExpiresAt: e.now.Add(time.Hour)}
	e.update(func(tx storage.Tx) error { return tx.Idempotency().Insert(e.ctx(), r) })
	get := func(project domain.ID, at time.Time) func(storage.Tx) (*storage.Idempotent, error) {
		return func(tx storage.Tx) (*storage.Idempotent, error) {
			return tx.Idempotency().Get(e.ctx(), project, "k", at)
		}
	}
	same(e, "stored", read(e, get(p, e.now)), r)
	if c := code(e, get(q, e.now)); c != errors.NotFound {
		e.Errorf("another project's key: %s", c)
	}
	again := *r
	again.CreatedAt = e.now.Add(time.Minute)
	e.refused(errors.AlreadyExists, func(tx storage.Tx) error { return tx.Idempotency().Insert(e.ctx(), &again) })
	e.update(func(tx storage.Tx) error { // who is told that goes on
		if err := tx.Idempotency().Insert(e.ctx(), &again); !errors.HasCode(err, errors.AlreadyExists) {
			e.Errorf("taken: %v", err)
		}
		found, err := get(p, e.now)(tx)
		if err == nil {
			same(e, "the one that has it", found, r)
		}
		return err
	})
	r.SubjectID, r.Status = domain.NewID(), 201
	e.update(func(tx storage.Tx) error { return tx.Idempotency().Complete(e.ctx(), p, "k", r.SubjectID, 201) })
	same(e, "completed", read(e, get(p, e.now)), r)
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Idempotency().Complete(e.ctx(), q, "k", "", 0) })

	if c := code(e, get(p, r.ExpiresAt)); c != errors.NotFound {
		e.Errorf("expired: %s", c)
	}
	fresh := &storage.Idempotent{ProjectID: p, Key: "k", RequestDigest: "d2", CreatedAt: r.ExpiresAt, ExpiresAt: r.ExpiresAt.Add(time.Hour)}
	e.update(func(tx storage.Tx) error { return tx.Idempotency().Insert(e.ctx(), fresh) })
	same(e, "taken over", read(e, get(p, fresh.CreatedAt)), fresh)
	for range 2 {
		e.update(func(tx storage.Tx) error { return tx.Idempotency().Delete(e.ctx(), p, "k") })
	}
	e.update(func(tx storage.Tx) error { return tx.Idempotency().Insert(e.ctx(), r) })
	for _, want := range []int{1, 0} {
		e.update(func(tx storage.Tx) error {
			n, err := tx.Idempotency().DeleteExpired(e.ctx(), r.ExpiresAt, 10)
			if n != want {
				e.Errorf("deleted %d, want %d", n, want)
			}
			return err
		})
	}
}

func answers(e *env) {
	p, q := e.project("p"), e.project("q")
	a := &storage.Answer{ID: storage.AnswerID("k"), ProjectID: p, RequestDigest: "d1", CreatedAt: e.now, ExpiresAt: e.now.Add(time.Minute)}
	e.update(func(tx storage.Tx) error { return tx.Answers().Insert(e.ctx(), a) })
	get := func(project domain.ID, at time.Time) func(storage.Tx) (*storage.Answer, error) {
		return func(tx storage.Tx) (*storage.Answer, error) { return tx.Answers().Get(e.ctx(), project, a.ID, at) }
	}
	same(e, "under way", read(e, get(p, e.now)), a)
	if c := code(e, get(q, e.now)); c != errors.NotFound {
		e.Errorf("another project's answer: %s", c)
	}
	again := *a
	again.CreatedAt = e.now.Add(time.Second)
	insert := func(tx storage.Tx) error { return tx.Answers().Insert(e.ctx(), &again) }
	complete := func(created time.Time) func(storage.Tx) error {
		return func(tx storage.Tx) error {
			return tx.Answers().Complete(e.ctx(), p, a.ID, created, []byte("sealed"), e.now.Add(time.Hour))
		}
	}
	release := func(created time.Time) func(storage.Tx) error {
		return func(tx storage.Tx) error { return tx.Answers().Release(e.ctx(), p, a.ID, created) }
	}
	e.refused(errors.AlreadyExists, insert)
	e.refused(errors.NotFound, complete(again.CreatedAt))
	e.update(release(again.CreatedAt)) // is not its own
	same(e, "still under way", read(e, get(p, e.now)), a)
	renew := func(created, until time.Time) func(storage.Tx) error {
		return func(tx storage.Tx) error { return tx.Answers().Renew(e.ctx(), p, a.ID, created, until) }
	}
	e.refused(errors.NotFound, renew(again.CreatedAt, e.now.Add(time.Hour)))
	a.ExpiresAt = e.now.Add(2 * time.Minute)
	e.update(renew(a.CreatedAt, a.ExpiresAt))
	same(e, "renewed", read(e, get(p, e.now)), a)
	e.update(complete(a.CreatedAt))
	e.refused(errors.NotFound, renew(a.CreatedAt, a.ExpiresAt))
	e.update(release(a.CreatedAt)) // it has its answer
	open := *a
	open.ID, open.AnswerSealed = storage.AnswerID("open"), nil
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Answers().Insert(e.ctx(), &open), tx.Answers().ReleaseAll(e.ctx()))
	})
	if c := code(e, func(tx storage.Tx) (*storage.Answer, error) { return tx.Answers().Get(e.ctx(), p, open.ID, e.now) }); c != errors.NotFound {
		e.Errorf("one without answer: %s", c)
	}
	a.AnswerSealed, a.ExpiresAt = []byte("sealed"), e.now.Add(time.Hour)
	same(e, "answered", read(e, get(p, e.now)), a)
	e.refused(errors.NotFound, complete(a.CreatedAt))
	if c := code(e, get(p, a.ExpiresAt)); c != errors.NotFound {
		e.Errorf("expired: %s", c)
	}
	again.CreatedAt, again.ExpiresAt = a.ExpiresAt, a.ExpiresAt.Add(time.Hour)
	e.update(insert)
	same(e, "taken over", read(e, get(p, again.CreatedAt)), &again)
	e.update(release(again.CreatedAt))
	e.update(insert)
	for _, want := range []int{1, 0} {
		e.update(func(tx storage.Tx) error {
			n, err := tx.Answers().DeleteExpired(e.ctx(), again.ExpiresAt, 10)
			if n != want {
				e.Errorf("deleted %d, want %d", n, want)
			}
			return err
		})
	}
	e.refused(errors.NotFound, func(tx storage.Tx) error {
		return tx.Answers().Insert(e.ctx(), &storage.Answer{ID: a.ID, ProjectID: domain.NewID(), CreatedAt: e.now, ExpiresAt: e.now})
	})
}

func secrets(e *env) {
	p, q := e.project("p"), e.project("q")
	s := &domain.Secret{ID: domain.NewID(), ProjectID: p, Name: "TOKEN", Sealed: []byte{1, 2}, CreatedAt: e.now, UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error { return tx.Secrets().Put(e.ctx(), s) })
	get := func(project domain.ID) func(storage.Tx) (*domain.Secret, error) {
		return func(tx storage.Tx) (*domain.Secret, error) { return tx.Secrets().Get(e.ctx(), project, "TOKEN") }
	}
	same(e, "stored", read(e, get(p)), s)
	if c := code(e, get(q)); c != errors.NotFound {
		e.Errorf("another project's secret: %s", c)
	}
	at := e.tick()
	second := &domain.Secret{ID: domain.NewID(), ProjectID: p, Name: "TOKEN", Sealed: []byte{3}, CreatedAt: at, UpdatedAt: at}
	e.update(func(tx storage.Tx) error { return tx.Secrets().Put(e.ctx(), second) })
	if !second.CreatedAt.Equal(s.CreatedAt) {
		e.Errorf("created %v, want the first time %v", second.CreatedAt, s.CreatedAt)
	}
	same(e, "replaced", read(e, get(p)), second)
	list := read(e, func(tx storage.Tx) ([]*domain.Secret, error) { return tx.Secrets().List(e.ctx(), p) })
	listed := *second
	listed.Sealed = nil
	same(e, "list", list, []*domain.Secret{&listed})
	count := func(project domain.ID, want int) {
		e.Helper()
		if n := read(e, func(tx storage.Tx) (int, error) { return tx.Secrets().Count(e.ctx(), project) }); n != want {
			e.Errorf("%d secrets, want %d", n, want)
		}
	}
	count(p, 1)
	count(q, 0)
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Secrets().Delete(e.ctx(), q, "TOKEN") })
	e.update(func(tx storage.Tx) error { return tx.Secrets().Delete(e.ctx(), p, "TOKEN") })
	e.refused(errors.NotFound, func(tx storage.Tx) error { return tx.Secrets().Delete(e.ctx(), p, "TOKEN") })
}
