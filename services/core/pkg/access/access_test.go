package access_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func TestKeyText(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{access.KeyPrefix, access.KeyPrefixE2B} {
		text, hash := access.MintKey(prefix)
		if !access.LooksLikeKey(text) || !strings.HasPrefix(text, prefix) || len(text) != len(prefix)+40 || access.HashKey(text) != hash {
			t.Errorf("minted %q", text)
		}
		if shown := access.Shown(text); len(shown) != len(prefix)+4 || !strings.HasPrefix(text, shown) {
			t.Errorf("shown %q", shown)
		}
		for name, bad := range map[string]string{
			"upper case": strings.ToUpper(text), "short": text[:len(text)-1], "long": text + "0", "no digits": prefix, "another prefix": "x" + text, "a space": text[:len(text)-1] + " ",
		} {
			if access.LooksLikeKey(bad) {
				t.Errorf("%s: %q", name, bad)
			}
		}
	}
}

// Nobody makes a key that gives what they lack.
func TestKeysGiveNoMoreThanTheirMakerHas(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	scopes := []domain.Scope{domain.ScopeRead, domain.ScopeRun, domain.ScopeManage, domain.ScopeAdmin}
	for i, has := range scopes {
		_, maker := b.key(b.admin, access.CreateKey{Name: "maker", Scopes: domain.Scopes{has}})
		for j, gives := range scopes {
			k, err := b.service.CreateKey(t.Context(), maker, access.CreateKey{Name: "k", Scopes: domain.Scopes{domain.ScopeRead, gives}})
			if (err == nil) != (j <= i) || err != nil && !errors.HasCode(err, errors.PermissionDenied) {
				t.Errorf("%s makes %s: %v", has, gives, err)
			}
			if err == nil && (k.Key.ProjectID != maker.ProjectID || b.show(k.Text).Scopes.Widest() != gives || k.Key.CreatedBy != "maker") {
				t.Errorf("%+v", k.Key)
			}
		}
	}
	// Nor one that lasts longer.
	soon, late := b.clock().Add(time.Hour), b.clock().Add(2*time.Hour)
	_, maker := b.key(b.admin, access.CreateKey{Name: "maker", Scopes: domain.Scopes{domain.ScopeManage}, ExpiresAt: &soon})
	k, _ := b.key(maker, access.CreateKey{Name: "k"})
	if k.Key.ExpiresAt == nil || !k.Key.ExpiresAt.Equal(soon) || k.Key.Scopes.Widest() != domain.ScopeRun {
		t.Errorf("%+v", k.Key)
	}
	_, err := b.service.CreateKey(t.Context(), maker, access.CreateKey{Name: "k", ExpiresAt: &late})
	b.refused("a key that outlives its maker", err, errors.PermissionDenied)
	for what, err := range map[string]error{
		"no name":         errOf(b.service.CreateKey(t.Context(), b.admin, access.CreateKey{})),
		"a bad name":      errOf(b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "a/b"})),
		"a strange scope": errOf(b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "k", Scopes: domain.Scopes{"root"}})),
		"in the past":     errOf(b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "k", ExpiresAt: ptr(b.clock())})),
		"in a century":    errOf(b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "k", ExpiresAt: ptr(b.clock().Add(100 * 365 * 24 * time.Hour))})),
	} {
		b.refused(what, err, errors.InvalidArgument)
	}
	// A key that was revoked as it makes another has made none.
	if err := b.service.RevokeKey(t.Context(), b.admin, maker.KeyID); err != nil {
		t.Fatal(err)
	}
	_, err = b.service.CreateKey(t.Context(), maker, access.CreateKey{Name: "k"})
	b.refused("a key of a revoked one", err, errors.PermissionDenied)
	b.pass(2 * time.Hour)
	if by := b.show(k.Text); by.KeyID != "" {
		t.Errorf("an expired key gives %+v", by)
	}
}

func errOf[T any](_ T, err error) error { return err }

func ptr[T any](v T) *T { return &v }

func TestRotateAndRevoke(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, by := b.key(b.admin, access.CreateKey{Name: "ci", Scopes: domain.Scopes{domain.ScopeManage}, E2B: true})
	if !strings.HasPrefix(first.Text, "e2b_") || first.Key.Prefix != first.Text[:8] {
		t.Errorf("%s %s", first.Text, first.Key.Prefix)
	}
	second, err := b.service.RotateKey(t.Context(), by, first.Key.ID, time.Hour)
	if err != nil || second.Key.ID != first.Key.ID || second.Text == first.Text || !strings.HasPrefix(second.Text, "e2b_") {
		t.Fatalf("%+v, %v", second, err)
	}
	shows := func(what, text string, want bool) {
		t.Helper()
		if got := b.show(text); (got.KeyID == first.Key.ID) != want {
			t.Errorf("%s gives %+v", what, got)
		}
	}
	shows("the old secret in the overlap", first.Text, true)
	shows("the new secret", second.Text, true)
	b.pass(time.Hour)
	shows("the old secret after the overlap", first.Text, false)
	third, err := b.service.RotateKey(t.Context(), by, first.Key.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	shows("a secret that was rotated away", second.Text, false)
	shows("the newest secret", third.Text, true)

	// A secret that gives more than one has, or speaks for somebody else, is
	// not to be had.
	root, _ := b.key(b.admin, access.CreateKey{Name: "root", Scopes: domain.Scopes{domain.ScopeAdmin}})
	b.user("alice")
	b.member(b.admin.ProjectID, "alice", domain.RoleMaintainer)
	alices, _ := b.key(b.admin, access.CreateKey{Name: "alices", User: "alice"})
	_, err = b.service.RotateKey(t.Context(), by, root.Key.ID, 0)
	b.refused("rotating an administrator's key", err, errors.PermissionDenied)
	_, err = b.service.RotateKey(t.Context(), by, alices.Key.ID, 0)
	b.refused("rotating a user's key", err, errors.PermissionDenied)
	b.refused("revoking an administrator's key", b.service.RevokeKey(t.Context(), by, root.Key.ID), errors.PermissionDenied)
	b.refused("revoking a user's key", b.service.RevokeKey(t.Context(), by, alices.Key.ID), "")
	_, err = b.service.RotateKey(t.Context(), b.admin, alices.Key.ID, 0)
	b.refused("rotating what was revoked", err, errors.Conflict)
	for _, overlap := range []time.Duration{-1, access.MaxOverlap + 1} {
		_, err = b.service.RotateKey(t.Context(), by, first.Key.ID, overlap)
		b.refused("an overlap out of range", err, errors.InvalidArgument)
	}

	// Another project's key does not exist.
	theirs, _ := b.key(b.in(b.other), access.CreateKey{Name: "theirs"})
	_, err = b.service.GetKey(t.Context(), by, theirs.Key.ID)
	b.refused("another project's key", err, errors.NotFound)
	_, err = b.service.RotateKey(t.Context(), by, theirs.Key.ID, 0)
	b.refused("rotating another project's key", err, errors.NotFound)
	b.refused("revoking another project's key", b.service.RevokeKey(t.Context(), by, theirs.Key.ID), errors.NotFound)

	for range 2 { // its own, and again
		if err := b.service.RevokeKey(t.Context(), by, first.Key.ID); err != nil {
			t.Fatal(err)
		}
	}
	shows("a revoked key", third.Text, false)
	list, err := b.service.ListKeys(t.Context(), by, vmm.Page{})
	if err != nil || len(list.Items) != 3 {
		t.Errorf("%d keys, %v", len(list.Items), err)
	}
}

func TestTooManyKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx storage.Tx) error {
		for range access.MaxKeys {
			_, hash := access.MintKey(access.KeyPrefix)
			if err := tx.Keys().Insert(t.Context(), &domain.APIKey{ID: domain.NewID(), ProjectID: b.other, Name: "k", Hash: hash, CreatedAt: b.clock()}); err != nil {
				return err
			}
		}
		return nil
	})
	_, err := b.service.CreateKey(t.Context(), b.in(b.other), access.CreateKey{Name: "one-more"})
	b.refused("one key too many", err, errors.Conflict)
	_, err = b.service.CreateKey(t.Context(), b.admin, access.CreateKey{Name: "elsewhere"})
	b.refused("a key elsewhere", err, "")
}

// emptied notes what was emptied.
type emptied []domain.ID

func (e *emptied) EmptyProject(_ context.Context, p domain.ID) error {
	*e = append(*e, p)
	return nil
}

func TestProjects(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var gone emptied
	b.deps.Emptier = &gone
	s := access.New(b.deps)
	ctx := t.Context()
	_, key := b.key(b.admin, access.CreateKey{Name: "k", Scopes: domain.Scopes{domain.ScopeManage}})
	for what, err := range map[string]error{
		"create": errOf(s.CreateProject(ctx, key, "mine")), "list": errOf(s.ListProjects(ctx, key, vmm.Page{})),
		"rename": errOf(s.RenameProject(ctx, key, "first", "mine")), "delete": s.DeleteProject(ctx, key, "other"),
	} {
		b.refused(what+" by who is no administrator", err, errors.PermissionDenied)
	}
	if p, err := s.GetProject(ctx, key, "first"); err != nil || p.ID != key.ProjectID {
		t.Errorf("%+v, %v", p, err)
	}
	for _, name := range []string{"other", "nowhere", b.other.String()} {
		_, err := s.GetProject(ctx, key, name)
		b.refused("another's project", err, errors.NotFound)
	}
	_, err := s.CreateProject(ctx, b.admin, "other")
	b.refused("a second of a name", err, errors.AlreadyExists)
	_, err = s.CreateProject(ctx, b.admin, "abcdefghij0123456789")
	b.refused("a name like an ID", err, errors.InvalidArgument)
	if p, err := s.RenameProject(ctx, b.admin, "other", "another"); err != nil || p.Name != "another" || p.ID != b.other {
		t.Errorf("%+v, %v", p, err)
	}
	theirs, _ := b.key(b.in(b.other), access.CreateKey{Name: "theirs"})

	now := b.clock()
	vm := &domain.VM{ID: domain.NewID(), ProjectID: b.other, Desired: domain.WantRunning, Observed: domain.Running, CreatedAt: now, UpdatedAt: now}
	b.update(func(tx storage.Tx) error { return tx.VMs().Insert(ctx, vm) })
	b.refused("a project with a VM", s.DeleteProject(ctx, b.admin, "another"), errors.Conflict)
	vm.Desired, vm.Observed, vm.EndedAt = domain.WantDeleted, domain.Deleted, &now
	task := &domain.Task{ID: domain.NewID(), ProjectID: b.other, Kind: "k", State: domain.TaskRunning, CreatedAt: now, UpdatedAt: now, RunAt: now}
	b.update(func(tx storage.Tx) error {
		return errors.Join(tx.VMs().Update(ctx, vm), tx.Tasks().Insert(ctx, task))
	})
	b.refused("a project with a task", s.DeleteProject(ctx, b.admin, "another"), errors.Conflict)
	task.State, task.EndedAt = domain.TaskSucceeded, &now
	tmpl := &domain.Template{ID: domain.NewID(), ProjectID: b.other, Name: "t", Public: true, Tags: map[string]domain.ID{}, CreatedAt: now, UpdatedAt: now}
	b.update(func(tx storage.Tx) error {
		return errors.Join(tx.Tasks().Update(ctx, task), tx.Templates().Insert(ctx, tmpl))
	})
	b.refused("a project with everybody's template", s.DeleteProject(ctx, b.admin, "another"), errors.Conflict)
	if len(gone) != 0 {
		t.Errorf("emptied %v", gone)
	}
	tmpl.Public = false
	b.update(func(tx storage.Tx) error { return tx.Templates().Update(ctx, tmpl) })
	_, inside := b.key(b.in(b.other), access.CreateKey{Name: "inside", Scopes: domain.Scopes{domain.ScopeAdmin}})
	b.refused("the project of the key in use", s.DeleteProject(ctx, inside, "another"), errors.Conflict)
	if err := s.DeleteProject(ctx, b.admin, "another"); err != nil || len(gone) != 1 || gone[0] != b.other {
		t.Errorf("emptied %v, %v", gone, err)
	}
	if by := b.show(theirs.Text); by.KeyID != "" {
		t.Errorf("the key of a project that is gone gives %+v", by)
	}
	b.refused("a project that is gone", s.DeleteProject(ctx, b.admin, "another"), errors.NotFound)
	b.refused("the last project", s.DeleteProject(ctx, b.admin, "first"), errors.Conflict)
}

func TestUsersAndMembers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	alice := b.user("alice")
	bob, err := b.service.CreateUser(ctx, b.admin, access.CreateUser{Name: "bob", Issuer: "https://id", Subject: "1", Admin: true})
	if err != nil || !bob.Admin {
		t.Fatal(bob, err)
	}
	_, key := b.key(b.in(b.other), access.CreateKey{Name: "k", Scopes: domain.Scopes{domain.ScopeManage}})
	for what, err := range map[string]error{
		"create": errOf(b.service.CreateUser(ctx, key, access.CreateUser{Name: "x"})), "list": errOf(b.service.ListUsers(ctx, key, vmm.Page{})),
		"get": errOf(b.service.GetUser(ctx, key, "alice")), "patch": errOf(b.service.PatchUser(ctx, key, "alice", access.PatchUser{})), "delete": b.service.DeleteUser(ctx, key, "alice"),
	} {
		b.refused(what+" by who is no administrator", err, errors.PermissionDenied)
	}
	for what, req := range map[string]access.CreateUser{
		"no name": {}, "a bad name": {Name: "a b"}, "a name like an ID": {Name: "abcdefghij0123456789"}, "half a subject": {Name: "c", Issuer: "i"},
		"a long subject": {Name: "c", Issuer: "i", Subject: strings.Repeat("s", 256)},
	} {
		_, err := b.service.CreateUser(ctx, b.admin, req)
		b.refused(what, err, errors.InvalidArgument)
	}
	for what, req := range map[string]access.CreateUser{"a name in another case": {Name: "ALICE"}, "a subject": {Name: "c", Issuer: "https://id", Subject: "1"}} {
		_, err := b.service.CreateUser(ctx, b.admin, req)
		b.refused("a second of "+what, err, errors.AlreadyExists)
	}
	as := b.admin
	as.UserID = bob.ID
	no, yes := false, true
	_, err = b.service.PatchUser(ctx, as, "bob", access.PatchUser{Admin: &no})
	b.refused("an administrator giving up", err, errors.Conflict)
	_, err = b.service.PatchUser(ctx, as, bob.ID.String(), access.PatchUser{Disabled: &yes})
	b.refused("an administrator locking out oneself", err, errors.Conflict)
	b.refused("an administrator deleting oneself", b.service.DeleteUser(ctx, as, "bob"), errors.Conflict)
	if u, err := b.service.PatchUser(ctx, as, "alice", access.PatchUser{Name: ptr("Carol"), Issuer: ptr("https://id"), Subject: ptr("2")}); err != nil || u.Name != "carol" || u.Subject != "2" || u.ID != alice.ID {
		t.Errorf("%+v, %v", u, err)
	}

	_, err = b.service.PutMember(ctx, key, "nobody", domain.RoleViewer)
	b.refused("a member who does not exist", err, errors.NotFound)
	_, err = b.service.PutMember(ctx, key, "carol", "owner")
	b.refused("a strange role", err, errors.InvalidArgument)
	weak := key
	weak.Scopes = domain.Scopes{domain.ScopeRun}
	_, err = b.service.PutMember(ctx, weak, "carol", domain.RoleMaintainer)
	b.refused("a role wider than the caller", err, errors.PermissionDenied)
	for _, role := range []domain.Role{domain.RoleViewer, domain.RoleMaintainer} {
		if m, err := b.service.PutMember(ctx, key, "carol", role); err != nil || m.Role != role || m.User.Name != "carol" {
			t.Errorf("%+v, %v", m, err)
		}
	}
	if list, err := b.service.ListMembers(ctx, key); err != nil || len(list) != 1 || list[0].Role != domain.RoleMaintainer {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := b.service.ListMembers(ctx, b.admin); err != nil || len(list) != 0 {
		t.Errorf("elsewhere: %+v, %v", list, err)
	}
	b.refused("an end", b.service.RemoveMember(ctx, key, "carol"), "")
	b.refused("an end again", b.service.RemoveMember(ctx, key, "carol"), errors.NotFound)
}
