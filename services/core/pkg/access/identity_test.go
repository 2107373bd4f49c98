package access_test

import (
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
)

func TestIdentities(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	identify := func(what string, id access.Identity, code errors.Code) *domain.User {
		t.Helper()
		user, err := b.lookup.Identify(ctx, id)
		b.refused(what, err, code)
		if err != nil {
			return nil
		}
		u, err := b.service.GetUser(ctx, b.admin, user.String())
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	const issuer = "https://id"
	new := access.Identity{Issuer: issuer, Subject: "1", Name: "Alice@example.com"}
	identify("a stranger", new, errors.NotFound)
	identify("no subject", access.Identity{Issuer: issuer, Create: true}, errors.NotFound)
	identify("a long subject", access.Identity{Issuer: issuer, Subject: strings.Repeat("x", 256), Create: true}, errors.NotFound)
	new.Create = true
	alice := identify("one who is made", new, "")
	if alice.Name != "alice@example.com" || alice.Subject != "1" || alice.Admin {
		t.Errorf("%+v", alice)
	}
	if again := identify("again", new, ""); again.ID != alice.ID {
		t.Errorf("twice: %+v", again)
	}
	// The name of somebody who is known is not taken over by saying it.
	thief := new
	thief.Subject, thief.Adopt = "2", true
	if u := identify("another of that name", thief, ""); u.ID == alice.ID || u.Name == alice.Name {
		t.Errorf("taken over: %+v", u)
	}
	other := new
	other.Issuer = "https://other"
	if u := identify("that subject elsewhere", other, ""); u.ID == alice.ID {
		t.Errorf("taken over: %+v", u)
	}
	// One that an administrator made waits for its subject, where the issuer
	// may say who that is.
	bob := b.user("bob@example.com")
	mine := access.Identity{Issuer: issuer, Subject: "3", Name: "bob@example.com", Create: true}
	if u := identify("without adoption", mine, ""); u.ID == bob.ID {
		t.Errorf("adopted: %+v", u)
	}
	mine.Subject, mine.Create, mine.Adopt = "4", false, true
	if u := identify("with adoption", mine, ""); u.ID != bob.ID || u.Subject != "4" {
		t.Errorf("not adopted: %+v", u)
	}
	yes := true
	if _, err := b.service.PatchUser(ctx, b.admin, "bob@example.com", access.PatchUser{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	identify("disabled", mine, errors.NotFound)
	odd := access.Identity{Issuer: issuer, Subject: "5", Name: "o'neill@example.com", Create: true}
	if u := identify("an odd address", odd, ""); !strings.HasPrefix(u.Name, "user-") {
		t.Errorf("named %s", u.Name)
	}
}

// What a provider says of roles is brought about, and what somebody gave stays.
func TestIdentitiesHaveTheirRoles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	id := access.Identity{Issuer: "https://id", Subject: "1", Name: "alice", Create: true, Sync: true}
	user, err := b.lookup.Identify(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	third := b.project("third")
	b.member(third.ID, "alice", domain.RoleViewer)
	says := func(admin bool, roles ...access.ProjectRole) {
		t.Helper()
		id.Admin, id.Roles = admin, roles
		for range 2 {
			if got, err := b.lookup.Identify(ctx, id); err != nil || got != user {
				t.Fatal(got, err)
			}
		}
	}
	has := func(what string, project domain.ID, want domain.Scope) {
		t.Helper()
		by, err := b.lookup.LookupUser(ctx, user, project)
		if by.Scopes.Widest() != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v; want %q", what, by.Scopes, err, want)
		}
	}
	says(false, access.ProjectRole{Role: domain.RoleDeveloper}, access.ProjectRole{Project: "other", Role: domain.RoleViewer},
		access.ProjectRole{Project: "other", Role: domain.RoleMaintainer}, access.ProjectRole{Project: "nowhere", Role: domain.RoleViewer})
	has("the first project", b.admin.ProjectID, domain.ScopeRun)
	has("the wider of two roles", b.other, domain.ScopeManage)
	has("one that somebody gave", third.ID, domain.ScopeRead)
	b.refused("ending what the provider gives", b.service.RemoveMember(ctx, b.admin, "alice"), errors.Conflict)
	says(false, access.ProjectRole{Project: "other", Role: domain.RoleViewer})
	has("a role that is gone", b.admin.ProjectID, "")
	has("a narrower role", b.other, domain.ScopeRead)
	has("one that somebody gave", third.ID, domain.ScopeRead)
	b.member(b.other, "alice", domain.RoleMaintainer) // by hand
	says(false)
	has("a role that somebody gave since", b.other, domain.ScopeManage)
	says(true)
	has("an administrator by claim", b.admin.ProjectID, domain.ScopeAdmin)
	says(false)
	has("no longer one", b.admin.ProjectID, "")
	yes := true
	if _, err := b.service.PatchUser(ctx, b.admin, "alice", access.PatchUser{Admin: &yes}); err != nil {
		t.Fatal(err)
	}
	says(false)
	has("an administrator by hand", b.admin.ProjectID, domain.ScopeAdmin)
}
