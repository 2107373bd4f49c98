package api

import (
	"context"
	"net/http"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/access"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

func exclude(field, what string) error {
	return errors.New(errors.InvalidArgument, "%s exclude each other", what).WithField(field)
}

func (a *API) userRoutes() {
	const tag = "Users"
	create := operation("create-user", http.MethodPost, "/users", tag, "Make a user", "Who belongs to no project yet.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeAdmin}, func(ctx context.Context, in *createUserInput) (*userOutput, error) {
		u, err := a.Access.CreateUser(ctx, auth.CallerFrom(ctx), access.CreateUser{
			Name: in.Body.Name, Issuer: in.Body.Issuer, Subject: in.Body.Subject, Admin: in.Body.Admin,
		})
		if err == nil {
			trail.Subject(ctx, "user", u.ID.String())
		}
		return userOr(u, err)
	})
	register(a, operation("list-users", http.MethodGet, "/users", tag, "List users", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *PageQuery) (*usersOutput, error) {
			l, err := a.Access.ListUsers(ctx, auth.CallerFrom(ctx), in.page())
			if err != nil {
				return nil, err
			}
			return &usersOutput{listOf(l, user)}, nil
		})
	register(a, operation("get-user", http.MethodGet, "/users/{user}", tag, "Get a user", ""), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *UserPath) (*userOutput, error) {
			return userOr(a.Access.GetUser(ctx, auth.CallerFrom(ctx), in.User))
		})
	register(a, operation("patch-user", http.MethodPatch, "/users/{user}", tag, "Change a user", "Absent fields stay as they are."), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *patchUserInput) (*userOutput, error) {
			return userOr(a.Access.PatchUser(ctx, auth.CallerFrom(ctx), in.User, access.PatchUser{
				Name: in.Body.Name, Issuer: in.Body.Issuer, Subject: in.Body.Subject, Admin: in.Body.Admin, Disabled: in.Body.Disabled,
			}))
		})
	register(a, operation("delete-user", http.MethodDelete, "/users/{user}", tag, "Delete a user", "The user's keys, tokens and memberships end."), options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *UserPath) (*empty, error) {
			return nil, a.Access.DeleteUser(ctx, auth.CallerFrom(ctx), in.User)
		})
}

func user(u *domain.User) wire.User {
	return wire.User{
		ID: u.ID.String(), Name: u.Name, Issuer: u.Issuer, Subject: u.Subject, Admin: u.Admin, AdminBy: u.AdminBy,
		DisabledAt: u.DisabledAt, CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
	}
}

func userOr(u *domain.User, err error) (*userOutput, error) {
	if err != nil {
		return nil, err
	}
	return &userOutput{user(u)}, nil
}

func (a *API) memberRoutes() {
	const tag = "Members"
	register(a, operation("list-members", http.MethodGet, "/members", tag, "List the members of the project", "All of them, oldest first."), options{scope: domain.ScopeManage},
		func(ctx context.Context, _ *none) (*membersOutput, error) {
			l, err := a.Access.ListMembers(ctx, auth.CallerFrom(ctx))
			if err != nil {
				return nil, err
			}
			return &membersOutput{&wire.List[wire.Member]{Items: mapped(l, member)}}, nil
		})
	register(a, operation("set-member", http.MethodPut, "/members/{user}", tag, "Give a user a role in the project", "No wider than the caller's."), options{scope: domain.ScopeManage},
		func(ctx context.Context, in *setMemberInput) (*memberOutput, error) {
			m, err := a.Access.PutMember(ctx, auth.CallerFrom(ctx), in.User, domain.Role(in.Body.Role))
			if err != nil {
				return nil, err
			}
			return &memberOutput{member(m)}, nil
		})
	register(a, operation("remove-member", http.MethodDelete, "/members/{user}", tag, "End a user's membership in the project", "The user's keys and tokens for it end as well."),
		options{scope: domain.ScopeManage},
		func(ctx context.Context, in *UserPath) (*empty, error) {
			return nil, a.Access.RemoveMember(ctx, auth.CallerFrom(ctx), in.User)
		})
}

func member(m access.Member) wire.Member {
	return wire.Member{
		UserID: m.UserID.String(), Name: m.User.Name, Role: string(m.Role), Source: m.Source, Disabled: m.User.DisabledAt != nil, CreatedAt: m.CreatedAt,
	}
}

func (a *API) tokenRoutes() {
	const tag = "Access"
	register(a, operation("get-me", http.MethodGet, "/me", tag, "Who asks, and what the credentials give", ""), options{scope: domain.ScopeRead}, a.me)
	create := operation("create-token", http.MethodPost, "/auth/token", tag, "Get a short-lived access token",
		"For whom credentials shall not stay: a browser, a script. It is good for the caller's project, and ends with the key or user it was got by.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, options{scope: domain.ScopeRead, secret: true}, a.createToken)
	register(a, operation("rotate-token-key", http.MethodPost, "/auth/token-keys/rotate", tag, "Make another key sign access tokens", ""),
		options{scope: domain.ScopeAdmin},
		func(ctx context.Context, in *rotateTokenInput) (*empty, error) {
			return nil, a.Tokens.Rotate(ctx, auth.CallerFrom(ctx), given(in.Body).Forget)
		})
}

func (a *API) me(ctx context.Context, _ *none) (*meOutput, error) {
	by := auth.CallerFrom(ctx)
	p, err := a.Access.GetProject(ctx, by, by.ProjectID.String())
	if err != nil {
		return nil, err
	}
	out := wire.Me{
		ProjectID: p.ID.String(), Project: p.Name, Name: by.Name, KeyID: by.KeyID.String(), UserID: by.UserID.String(), TokenID: by.TokenID, Scopes: scopes(by.Scopes),
	}
	if !by.Until.IsZero() {
		at := by.Until.UTC()
		out.ExpiresAt = &at
	}
	return &meOutput{out}, nil
}

func (a *API) createToken(ctx context.Context, in *createTokenInput) (*tokenOutput, error) {
	req := given(in.Body)
	t, err := a.Tokens.Issue(ctx, auth.CallerFrom(ctx), auth.IssueToken{Scopes: scopesFrom(req.Scopes), TTL: fromMS(req.TTLMS)})
	if err != nil {
		return nil, err
	}
	// What was shown may have ended meanwhile; the token would not know.
	if err := auth.Confirm(ctx); err != nil {
		return nil, err
	}
	trail.Subject(ctx, "token", t.ID)
	return &tokenOutput{wire.Token{Token: t.Text, ID: t.ID, ProjectID: t.ProjectID.String(), Scopes: scopes(t.Scopes), ExpiresAt: t.ExpiresAt}}, nil
}
