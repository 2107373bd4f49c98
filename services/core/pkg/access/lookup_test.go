package access_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// A key is looked up once, and one that is revoked is so at once.
func TestKeysAreRemembered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, _ := b.key(b.admin, access.CreateKey{Name: "k", Scopes: domain.Scopes{domain.ScopeAdmin}})
	look := func(text string, views int) domain.APIKey {
		t.Helper()
		before := b.store.views
		got, err := b.lookup.LookupKey(t.Context(), access.HashKey(text))
		if err != nil || b.store.views-before != views {
			t.Errorf("%v after %d looks into the store, want %d", err, b.store.views-before, views)
		}
		return got
	}
	if got := look(k.Text, 0); got.ID != k.Key.ID || !got.Scopes.Allows(domain.ScopeAdmin) { // making it has looked
		t.Errorf("%+v", got)
	}
	if err := b.lookup.TouchKeys(t.Context(), map[domain.ID]time.Time{k.Key.ID: time.Now()}); err != nil {
		t.Fatal(err)
	}
	look(k.Text, 0)
	for range 2 { // nothing is remembered of a key that there is not
		before := b.store.views
		if _, err := b.lookup.LookupKey(t.Context(), access.Hash{1}); !errors.HasCode(err, errors.NotFound) || b.store.views == before {
			t.Errorf("an unknown key: %v", err)
		}
	}
	other, err := b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	look(other.Text, 1)
	look(k.Text, 1) // keys have changed
	look(k.Text, 0)
	changed := b.lookup.Changed()
	if err := b.service.RevokeKey(t.Context(), b.admin, k.Key.ID); err != nil {
		t.Fatal(err)
	}
	<-changed
	if got := look(k.Text, 1); got.RevokedAt == nil {
		t.Error("a key that was revoked is in force")
	}
	if got := look(k.Text, 0); got.RevokedAt == nil {
		t.Error("a key that was revoked is in force again")
	}
}

// What a request is about is read along with its key in one look, and given to who
// may have it: in the project that the request is for, which need not be the key's.
func TestKeysWithWhatIsAsked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	insert := func(project domain.ID) *domain.VM {
		now := time.Now().UTC().Truncate(time.Microsecond)
		vm := &domain.VM{ID: domain.NewID(), ProjectID: project, Desired: domain.WantRunning, Observed: domain.Pending, Generation: 1, CreatedAt: now, UpdatedAt: now}
		if err := b.store.Update(t.Context(), func(tx storage.Tx) error { return tx.VMs().Insert(t.Context(), vm) }); err != nil {
			t.Fatal(err)
		}
		return vm
	}
	own, foreign := insert(b.admin.ProjectID), insert(b.other)
	for _, tc := range []struct {
		vm, project domain.ID
		found       bool
		looks       int
	}{
		{own.ID, b.admin.ProjectID, true, 1}, {foreign.ID, b.admin.ProjectID, false, 1}, {foreign.ID, b.other, true, 1},
		{domain.NewID(), b.admin.ProjectID, false, 2},
	} {
		k, err := b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "k" + domain.NewID().String()})
		if err != nil {
			t.Fatal(err)
		}
		ctx := vmm.WithAhead(t.Context(), tc.vm, "")
		before := b.store.views
		got, err := b.lookup.LookupKey(ctx, access.HashKey(k.Text))
		if err != nil || got.ID != k.Key.ID || b.store.views-before != tc.looks {
			t.Errorf("%+v, %v after %d looks", got, err, b.store.views-before)
		}
		if row := vmm.AheadOf(ctx).Take(tc.project, tc.vm, ""); (row != nil) != tc.found {
			t.Errorf("%+v was read along", row)
		}
	}
}

// What a user's key gives is what the user has, at the time it is shown.
func TestAUsersKeyIsBoundedByItsUser(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	alice := b.user("Alice@Example.com")
	if alice.Name != "alice@example.com" {
		t.Errorf("named %s", alice.Name)
	}
	_, err := b.service.CreateKey(t.Context(), b.in(b.other), access.CreateKey{Name: "k", User: "alice@example.com"})
	b.refused("a key for who is no member", err, errors.PermissionDenied)
	b.member(b.other, "ALICE@example.com", domain.RoleDeveloper)
	_, err = b.service.CreateKey(t.Context(), b.in(b.other), access.CreateKey{Name: "k", User: alice.ID.String(), Scopes: domain.Scopes{domain.ScopeManage}})
	b.refused("a key wider than its user", err, errors.PermissionDenied)
	k, by := b.key(b.in(b.other), access.CreateKey{Name: "k", User: "alice@example.com", Scopes: domain.Scopes{domain.ScopeRun}})
	if by.UserID != alice.ID || by.Scopes.Widest() != domain.ScopeRun {
		t.Errorf("%+v", by)
	}
	scope := func(want domain.Scope, what string) {
		t.Helper()
		if got := b.show(k.Text).Scopes.Widest(); got != want {
			t.Errorf("%s: the key gives %q, want %q", what, got, want)
		}
	}
	b.member(b.other, "alice@example.com", domain.RoleViewer)
	scope(domain.ScopeRead, "a viewer's")
	b.member(b.other, "alice@example.com", domain.RoleMaintainer)
	scope(domain.ScopeRun, "a maintainer's") // no wider than it was made
	yes, no := true, false
	patch := func(p access.PatchUser) {
		t.Helper()
		if _, err := b.service.PatchUser(t.Context(), b.admin, "alice@example.com", p); err != nil {
			t.Fatal(err)
		}
	}
	patch(access.PatchUser{Disabled: &yes})
	scope("", "a disabled user's")
	patch(access.PatchUser{Disabled: &no})
	scope(domain.ScopeRun, "an enabled user's")
	if err := b.service.RemoveMember(t.Context(), b.in(b.other), "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	scope("", "a former member's")
	patch(access.PatchUser{Admin: &yes})
	scope(domain.ScopeRun, "an administrator's")
	if err := b.service.DeleteUser(t.Context(), b.admin, "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	scope("", "nobody's")
	b.refused("a user who is gone", b.service.DeleteUser(t.Context(), b.admin, "alice@example.com"), errors.NotFound)
}

// A project that is not the caller's is as one that does not exist.
func TestEnterProject(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	alice := b.user("alice")
	third := b.project("third")
	b.member(b.other, "alice", domain.RoleDeveloper)
	b.pass(time.Second)
	b.member(third.ID, "alice", domain.RoleViewer)
	as := func(user, project domain.ID) vmm.Caller {
		t.Helper()
		by, err := b.lookup.LookupUser(t.Context(), user, project)
		if err != nil {
			t.Fatal(err)
		}
		return by
	}
	user := as(alice.ID, "")
	if user.ProjectID != b.other || user.Scopes.Widest() != domain.ScopeRun || user.Admin {
		t.Errorf("at home: %+v", user)
	}
	_, key := b.key(b.in(b.other), access.CreateKey{Name: "k", Scopes: domain.Scopes{domain.ScopeManage}})
	usersKey := key
	usersKey.UserID = alice.ID
	token := user
	token.TokenID = "t"
	for _, tc := range []struct {
		name    string
		by      vmm.Caller
		project string
		want    domain.ID // empty: refused
		scope   domain.Scope
	}{
		{"an administrator by ID", b.admin, b.other.String(), b.other, domain.ScopeAdmin},
		{"an administrator by name", b.admin, "third", third.ID, domain.ScopeAdmin},
		{"an administrator nowhere", b.admin, "nowhere", "", ""},
		{"an administrator in no name", b.admin, "../x", "", ""},
		{"a key in its own by name", key, "other", b.other, domain.ScopeManage},
		{"a key in its own by ID", key, b.other.String(), b.other, domain.ScopeManage},
		{"a key elsewhere", key, "third", "", ""},
		{"a key nowhere", key, "nowhere", "", ""},
		{"a user's key elsewhere", usersKey, "third", "", ""},
		{"a user elsewhere", user, "third", third.ID, domain.ScopeRead},
		{"a user where others are", user, "first", "", ""},
		{"a user's token elsewhere", token, "third", "", ""},
	} {
		got, err := b.lookup.EnterProject(t.Context(), tc.by, tc.project)
		if (err == nil) != (tc.want != "") || got.ProjectID != tc.want || got.Scopes.Widest() != tc.scope {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
		if err != nil && errors.Public(err).Message != `there is no project "`+tc.project+`"` {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	nobody := b.user("nobody")
	if _, err := b.lookup.LookupUser(t.Context(), nobody.ID, ""); !errors.HasCode(err, errors.PermissionDenied) {
		t.Errorf("a member of nothing: %v", err)
	}
	if _, err := b.lookup.LookupUser(t.Context(), nobody.ID, third.ID); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("no member: %v", err)
	}
}
